"""mold over HTTP: a Falcon app around the engine. It knows no plugin, and is itself found as one.

`mold_http.app.create_app(engine, settings)` makes the app; nothing is imported before it is needed.
"""
