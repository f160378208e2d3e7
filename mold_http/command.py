"""mold serve: run the HTTP server in the foreground."""

from __future__ import annotations

from contextlib import ExitStack

import attrs
import click

from mold_core.addresses import listen_address
from mold_core.cli.state import State
from mold_core.errors import SettingsError
from mold_core.settings import Settings

__all__ = ["serve"]


@click.command("serve", short_help="Run the HTTP server in the foreground.")
@click.option("--bind", "--host", "bind", metavar="ADDRESS", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port; default 7680.")
@click.option(
    "--ollama-port", type=click.IntRange(1, 65_535), help="Further port with Ollama's image routes, such as 11434."
)
@click.option(
    "--api-key",
    metavar="KEYS",
    help="API keys, comma-separated, or @FILE. Prefer MOLD_API_KEY: arguments are visible to other users.",
)
@click.option("--queue-size", type=click.IntRange(1, 100_000), help="Maximum number of waiting jobs; default 200.")
@click.option("--gpus", metavar="NUMBERS", help="Indices of the GPUs to use, such as 0,1; default: all.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Log format; default text.")
@click.pass_obj
def serve(
    state: State,
    bind: str | None,
    port: int | None,
    ollama_port: int | None,
    api_key: str | None,
    queue_size: int | None,
    gpus: str | None,
    log_format: str | None,
) -> None:
    """Run the HTTP server in the foreground, until Ctrl-C or SIGTERM.

    Commands with the same MOLD_HOME use it, so models stay in memory. The web page is at the root of the printed URL,
    /api/docs describes the API, and docs/operations.md describes how to run a server for others. mold server start runs
    it in the background.
    """
    if api_key is not None and not api_key.strip():
        raise SettingsError("--api-key is empty", field="api_key", hint="leave it out to allow access without a key")
    state.use_flags(bind=bind, port=port, ollama_port=ollama_port)
    state.use_flags(api_key=api_key, queue_size=queue_size, gpus=gpus, log_format=log_format)
    try:
        from mold_http.app import create_service
        from mold_http.request_logging import configure_logs
        from mold_http.server import listening, serve, warnings_for
    except ImportError as error:
        raise SettingsError(
            f"the server needs {error.name}, which is not installed", hint="pip install 'mold-core[http]'"
        ) from None
    from mold_core.client.local import announced
    from mold_core.engine import Engine
    from mold_core.gallery import Gallery

    settings = _with_address(state.settings)
    configure_logs(settings.log_level, settings.log_format)
    with ExitStack() as stack:
        ports = [settings.port, *([] if settings.ollama_port is None else [settings.ollama_port])]
        listener, *more = [stack.enter_context(listening(settings.bind, port)) for port in ports]
        gallery = Gallery.of(settings)
        engine = Engine(settings, state.plugins, executor="process", gallery=gallery, durable=True)
        service = create_service(engine, settings, gallery)
        for warning in warnings_for(service, settings.bind):
            click.echo(f"warning: {warning}", err=True)
        host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        message = f"mold is listening on http://{host}:{settings.port} (stop with Ctrl-C)"
        try:
            with announced(settings.home, settings.port, settings.bind):
                serve(service, listener, lambda: click.echo(message, err=True), *more)
        finally:
            engine.close()


def _with_address(settings: Settings) -> Settings:
    """Return the settings with the host of `bind` in `bind`, and its port in `port`.

    Raises SettingsError for an invalid address, and for a port that contradicts the setting `port`.
    """
    try:
        host, port = listen_address(settings.bind)
    except ValueError as error:
        raise SettingsError(
            f"{settings.bind!r} is not an address to listen on: {error}",
            field="bind",
            value=settings.bind,
            hint="use one such as 127.0.0.1, ::1, [::1]:7680 or 0.0.0.0",
        ) from None
    if port is not None and "port" in settings.sources and port != settings.port:
        raise SettingsError(
            f"the address has port {port}, but {settings.sources['port']} sets {settings.port}",
            field="bind",
            value=settings.bind,
            hint="leave one of them out",
        )
    return attrs.evolve(settings, bind=host, port=settings.port if port is None else port)
