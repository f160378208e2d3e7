"""mold serve: the HTTP server in the foreground."""

from __future__ import annotations

import click

from mold_core.cli.state import State
from mold_core.errors import SettingsError

__all__ = ["serve"]

# Seconds that requests under way get after SIGTERM or Ctrl-C before their connections are closed.
_GRACE_S = 10


@click.command("serve", short_help="Serve the HTTP API.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port; default 7680.")
@click.pass_obj
def serve(state: State, port: int | None) -> None:
    """Serve the HTTP API on this machine (127.0.0.1), until Ctrl-C or SIGTERM.

    This version listens on the loopback interface only: it has no API keys yet.
    """
    state.use_flags(port=port)
    try:
        import uvicorn

        from mold_http.app import create_app
    except ImportError as error:
        raise SettingsError(
            f"the server needs {error.name}, which is not installed", hint="pip install 'mold-core[http]'"
        ) from None
    settings = state.settings
    app = create_app(state.engine, settings)
    click.echo(f"mold serves on http://127.0.0.1:{settings.port} (Ctrl-C ends it)", err=True)
    # NOTE: uvicorn trusts X-Forwarded-For of local peers unless told not to, and with an open event stream it would
    # wait for ever when it is told to end. httptools takes headers of any size; h11 stops at 64 KiB.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=settings.port,
        http="h11",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        log_level="warning",
        access_log=False,
    )
