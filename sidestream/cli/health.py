"""`sidestream health`: ask a worker how it is, where there is no curl: for container engines, and for whoever is woken.

It loads no handler: a container engine starts it every few seconds.
"""

import http.client
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, cast
from urllib.parse import urlsplit

import typer

from pipeline.errors import SettingsError
from sidestream.cli.session import (
    EXIT_FINDING,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    AsJson,
    HealthHost,
    HealthPort,
    environment,
    fail,
)
from sidestream.health_settings import LOOPBACK, load_health_settings

TIMEOUT_S: Final = 5.0

_ANYWHERE: Final[Mapping[str, str]] = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - what to ask, not where to listen


def health(
    *,
    url: Annotated[
        str | None, typer.Option("--url", help="Ask there, such as http://10.0.0.7:8099; default: the port below.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask only whether the loop turns: whether a restart could help.")
    ] = False,
    as_json: AsJson = False,
    health_port: HealthPort = None,
    health_host: HealthHost = None,
) -> None:
    """Ask a worker whether it does its work, in one line: exit code 0 it does, 1 it does not, 3 nobody answers."""
    try:
        address = _address(url, health_port, health_host)
    except SettingsError as error:
        fail(str(error), EXIT_USAGE)
    try:
        status, body = _get(*address, "/live" if live and not as_json else "/health")
        document: dict[str, Any] = {} if live and not as_json else json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        fail(f"no worker answers at {_shown(address)}: {error or type(error).__name__}", EXIT_UNREACHABLE)
    good = bool(document.get("live")) if live and as_json else status == http.client.OK
    typer.echo(body if as_json else body.strip() if live else _sentence(document))
    raise typer.Exit(0 if good else EXIT_FINDING)


def run() -> None:
    """Run this command alone, as `sidestream health`."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    alone.command(context_settings={"help_option_names": ["-h", "--help"]})(health)
    alone(sys.argv[2:], prog_name="sidestream health")


def _address(url: str | None, port: int | None, host: str | None) -> tuple[str, int]:
    if url is not None:
        try:
            parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
            if parts.scheme == "http" and parts.hostname and parts.port:
                return parts.hostname, parts.port
        except ValueError:
            pass
        raise SettingsError(f"--url: {url!r} is no address such as http://127.0.0.1:8099")
    given = {"health_port": port, "health_host": host}
    settings = load_health_settings(environment(), {name: value for name, value in given.items() if value is not None})
    if settings.port is None:
        raise SettingsError(
            "no port to ask: give --health-port, SIDESTREAM_HEALTH_PORT or worker.health_port like the worker, or --url"
        )
    return _ANYWHERE.get(settings.host, settings.host), settings.port


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()


def _sentence(document: Mapping[str, Any]) -> str:
    """Return one line: how it is, and why."""
    units = cast("list[dict[str, Any]]", document["units"])
    if why := str(document["why"]):
        return f"{'waits' if document['ready'] else 'does not progress'}: {why}"
    return f"progresses: {len(units)} units and tasks held, none stuck"


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
