"""`sidestream states`: how sessions go through the application's states, and who is stuck."""

from typing import Annotated, TypeAlias

import typer

from consumers.alerts.rules import Where
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.views.completeness import COST, METRICS, read_completeness
from consumers.views.figures import narrow, span
from consumers.views.machine import MOST_EDGES, Machine, read_machine
from consumers.views.rankings import read_edges
from consumers.views.report import Range
from consumers.views.states import compared, states_of, versions_of
from consumers.views.states_json import machine_json
from consumers.views.trend import range_windows
from pipeline.errors import SettingsError
from pipeline.presence import read_partitions
from sidestream.cli.look.filters import Environment, Service, State, Tenant, where_of, why_nothing
from sidestream.cli.look.ranges import From, Since, Until, parse_range
from sidestream.cli.look.states_text import states_text
from sidestream.cli.session import (
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    Session,
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
            if until_s is None:
                found = await read_machine(
                    session.server, session.keys, since_s=since_s, now_s=now_s, where=where, pair=compare
                )
            else:
                found = await _read_past(session, Range(since_s, until_s), now_s, where, compare)
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


async def _read_past(session: Session, asked: Range, now_s: int, where: Where, pair: tuple[str, str] | None) -> Machine:
    """Read what `read_machine` does of a range that has ended: without sessions, which are of now."""
    windows, names = range_windows(asked, now_s)
    server, keys = session.server, session.keys
    reader = StateReader(server, keys, await read_partitions(server, keys), await read_versions(server, keys))
    # Before the windows, so that these hold everything that it promises.
    completeness = await read_completeness(reader, span(names))
    of_metrics = narrow(await reader.cells(METRICS, windows), where)
    of_cost = narrow(await reader.cells(COST, windows), where)
    return Machine(
        namespace=keys.namespace,
        now_s=now_s,
        covered=Range(*span(windows)),
        names=Range(*span(names)),
        where=where,
        states=states_of(of_metrics, of_cost),
        edges=await read_edges(reader, names, MOST_EDGES),
        sessions=[],
        since_ms=None,
        versions=versions_of(of_metrics),
        pair=pair,
        changes=compared(of_metrics, of_cost, *pair) if pair else [],
        completeness=completeness,
    )


def _check_versions(found: Machine) -> None:
    known = [use.version for use in found.versions]
    for version in found.pair or ():
        if version not in known:
            there = ", ".join(map(harmless, known)) or "none"
            raise SettingsError(f"--compare: version {version!r} did nothing in this time; there are: {there}")
