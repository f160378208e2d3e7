"""mold over HTTP. The server and its API are built on `mold_core.Engine`; nothing of it is here yet."""

__all__: list[str] = []
