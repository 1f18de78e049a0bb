"""`sidestream states`: how sessions go through the application's states, and who is stuck."""

from typing import Annotated, TypeAlias

import typer

from consumers.alerts.rules import Where
from consumers.views.machine import Machine, read_machine
from consumers.views.report import Range
from consumers.views.states_json import machine_json
from pipeline.errors import SettingsError
from sidestream.cli.look.filters import Environment, Service, State, Tenant, where_of, why_nothing
from sidestream.cli.look.ranges import From, Since, Until, parse_range
from sidestream.cli.look.states_text import states_text
from sidestream.cli.session import (
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    console,
    open_session,
    print_json,
    run_async,
)
from sidestream.cli.tables import wide_enough
from sidestream.wording.human import harmless

_Refused: TypeAlias = Annotated[str, typer.Option(hidden=True)]
"""What `report` takes and this does not: refused with its reason, which Typer would not know."""


def states(
    *,
    since: Since = None,
    first: From = None,
    last: Until = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="BEFORE AFTER", help="Compare two versions of the service: --compare 1.4 1.5."),
    ] = None,
    state: State = "",
    service: Service = "",
    environment: Environment = "",
    tenant: Tenant = "",
    agent: _Refused = "",
    model: _Refused = "",
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show the application's states: visits, time in them, tokens and cost of one; the ways between; who is stuck.

    Sessions are stuck where an operation of theirs is open for over 30 s or its process fell silent, long where they
    stay longer than 95 % of visits, abandoned where nothing was heard for 30 minutes before their end. They are those
    of now: with --until there are none.
    """
    where = where_of(state=state, service=service, environment=environment, tenant=tenant)

    async def command() -> int:
        _refuse(agent=agent, model=model)
        asked = parse_range(since, first, last)
        async with open_session(Place(namespace, redis_url)) as session:
            now_s = int((await session.server.call("TIME"))[0])
            since_s, until_s = asked.at(now_s)
            found = await read_machine(
                session.server,
                session.keys,
                since_s=since_s,
                now_s=now_s,
                until_s=until_s,
                where=where,
                pair=compare,
            )
            covered = Range(since_s, until_s or now_s + 1)
            # Without a filter there is nothing that could not fit.
            nothing = where != Where() and not found.states
            why = await why_nothing(session.server, session.keys, where, covered, now_s) if nothing else ""
        _check_versions(found)
        if as_json:
            print_json(machine_json(found))
        else:
            out = wide_enough(console())
            out.print(states_text(found, out.width, why), crop=False)
        return 0

    run_async(command)


def _refuse(**filters: str) -> None:
    for name in (name for name, value in filters.items() if value):
        raise SettingsError(
            f"--{name}: transitions carry no {name}, so nothing here can be narrowed to one; "
            f"`sidestream report --by state --{name} ...` narrows tokens and cost"
        )


def _check_versions(found: Machine) -> None:
    known = [use.version for use in found.versions]
    for version in found.pair or ():
        if version not in known:
            there = ", ".join(map(harmless, known)) or "none"
            raise SettingsError(f"--compare: version {version!r} did nothing in this time; there are: {there}")
