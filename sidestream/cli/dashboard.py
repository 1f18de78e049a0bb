"""`sidestream dashboard`: the web page."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import anyio
import typer

from pipeline.errors import SettingsError
from sidestream.cli.logs import log_to_stderr
from sidestream.cli.session import Namespace, Place, RedisUrl, environment, open_session, run_async
from sidestream.settings import DASHBOARD_TOKEN_VARIABLE

_NEEDED: Final = ("jinja2", "starlette", "uvicorn")
"""What the extra `dashboard` brings; 127.0.0.1 and 8765 below are the defaults of `sidestream.dashboard.settings`."""


def dashboard(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on; other machines reach all but loopback.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 takes any that is free.")] = 8765,
    token: Annotated[
        str, typer.Option(help="What people sign in with, 16 characters or more; default SIDESTREAM_DASHBOARD_TOKEN.")
    ] = "",
    host_name: Annotated[
        list[str] | None, typer.Option(help="A name by which browsers reach it; may be given again.")
    ] = None,
    proxy_header: Annotated[
        str, typer.Option(help="The header in which a proxy in front of it says who has signed in there.")
    ] = "",
    proxy: Annotated[
        list[str] | None, typer.Option(help="An address from which that header is believed; default loopback.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="A file that gets the address once the page is served.")
    ] = None,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Serve a live web page: what is spent, how fast, what fails, and whether the figures can be trusted.

    It only reads. On loopback it is open to this machine; anywhere else it asks for a token, or for the header of a
    proxy that you name.
    """

    async def command() -> int:
        if missing := [name for name in _NEEDED if find_spec(name) is None]:
            raise SettingsError(
                f"the page needs the extra 'dashboard' ({missing[0]} is not installed): "
                "pip install 'sidestream[dashboard]'"
            )
        # What these import is an extra.
        from sidestream.dashboard.app import create_app  # noqa: PLC0415
        from sidestream.dashboard.serve import listen, serve, spoken_address  # noqa: PLC0415
        from sidestream.dashboard.settings import DashboardSettings  # noqa: PLC0415
        from sidestream.dashboard.shared import Shared  # noqa: PLC0415
        from sidestream.dashboard.sources import Sources  # noqa: PLC0415

        environ = environment()
        settings = DashboardSettings(
            host=host,
            port=port,
            token=token or environ.get(DASHBOARD_TOKEN_VARIABLE, ""),
            proxy_header=proxy_header,
            proxies=tuple(proxy or ("127.0.0.1", "::1")),
            host_names=tuple(name.lower() for name in host_name or ()),
        )
        async with open_session(Place(namespace, redis_url), environ) as session:
            listener, stopping = listen(settings), anyio.Event()
            sources = Sources(session.server, session.keys, Shared(revive=session.revive))
            app = create_app(sources, settings, stopping)
            typer.echo(
                f"Sidestream, namespace {session.keys.namespace}: {spoken_address(listener, settings)} (Ctrl-C ends it)"
            )
            await serve(app, listener, stopping, ready_file)
        return 0

    log_to_stderr()
    run_async(command)
