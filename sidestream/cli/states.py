"""`sidestream states`: how sessions go through the application's states, and who is stuck."""

from typing import Annotated

import typer

from consumers.views.machine import Machine, read_machine
from consumers.views.states_json import machine_json
from pipeline.errors import SettingsError
from sidestream.cli.filters import Environment, Service, State, Tenant, where_of
from sidestream.cli.human import harmless
from sidestream.cli.report import since_of
from sidestream.cli.session import AsJson, Namespace, Place, RedisUrl, console, open_session, print_json, run_async
from sidestream.cli.states_text import states_text


def states(
    *,
    since: Annotated[str, typer.Option(help="How far back: 30m, 24h, 7d.")] = "24h",
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="BEFORE AFTER", help="Compare two versions of the service: --compare 1.4 1.5."),
    ] = None,
    state: State = "",
    service: Service = "",
    environment: Environment = "",
    tenant: Tenant = "",
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show the application's states: visits, time in them, tokens and cost of one; the ways between; who is stuck.

    Sessions are stuck where an operation of theirs is open for over 30 s or its process fell silent, long where they
    stay longer than 95 % of visits, abandoned where nothing was heard for 30 minutes before their end.
    """
    where = where_of(state=state, service=service, environment=environment, tenant=tenant)

    async def command() -> int:
        since_s = since_of(since)
        async with open_session(Place(namespace, redis_url)) as session:
            now_s = int((await session.server.call("TIME"))[0])
            found = await read_machine(
                session.server, session.keys, since_s=now_s - since_s, now_s=now_s, where=where, pair=compare
            )
        _check_versions(found)
        if as_json:
            print_json(machine_json(found))
        else:
            out = console()
            out.print(states_text(found, out.width))
        return 0

    run_async(command)


def _check_versions(found: Machine) -> None:
    known = [use.version for use in found.versions]
    for version in found.pair or ():
        if version not in known:
            there = ", ".join(map(harmless, known)) or "none"
            raise SettingsError(f"--compare: version {version!r} did nothing in this time; there are: {there}")
