"""What figures are narrowed to, as options of a command."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, NamedTuple, TypeAlias

import typer

from consumers.alerts.rules import Where
from consumers.measures import REQUESTS
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.state import CELL_DIMENSIONS, OTHER
from consumers.views.completeness import METRICS
from consumers.views.figures import Cells, filters_of, narrow
from consumers.views.report import Range
from consumers.views.trend import range_windows
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from sidestream.wording.human import harmless

_PANEL = "Filters"

_MOST_NAMED: Final = 5

Agent: TypeAlias = Annotated[str, typer.Option(help="Only of this agent.", rich_help_panel=_PANEL)]
Model: TypeAlias = Annotated[
    str, typer.Option(help="Only of this model; runs, tools and transitions carry none.", rich_help_panel=_PANEL)
]
State: TypeAlias = Annotated[str, typer.Option(help="Only of this state of the application.", rich_help_panel=_PANEL)]
Service: TypeAlias = Annotated[str, typer.Option(help="Only of this service.", rich_help_panel=_PANEL)]
Environment: TypeAlias = Annotated[
    str, typer.Option(help="Only of this environment, such as production.", rich_help_panel=_PANEL)
]
Tenant: TypeAlias = Annotated[str, typer.Option(help="Only of this tenant.", rich_help_panel=_PANEL)]


def where_of(
    *, agent: str = "", model: str = "", state: str = "", service: str = "", environment: str = "", tenant: str = ""
) -> Where:
    """Return what the options narrow to; an empty one matches everything."""
    return Where(service=service, environment=environment, tenant=tenant, agent=agent, model=model, state=state)


def said_filters(filters: Mapping[str, str]) -> str:
    """Return what is filtered, in words."""
    return ", ".join(_said(filters))


class Misfit(NamedTuple):
    """A filter that nothing fits: what is asked for, and the names that there are, the busiest first."""

    dimension: str
    name: str
    there: Sequence[str]


async def why_nothing(server: AsyncServer, keys: Keys, where: Where, asked: Range, now_s: int) -> str:
    """Return why nothing fits the filters in a range, and which names there are; empty where nothing happened at all.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    windows, _ = range_windows(asked, now_s)
    reader = StateReader(server, keys, await read_partitions(server, keys), await read_versions(server, keys))
    cells = await reader.cells(METRICS, windows)
    if not cells or narrow(cells, where):
        return ""
    if misfits := misfits_of(cells, where):
        return "\n".join(map(_said_misfit, misfits))
    return f"No event of this time is of {' and '.join(_said(filters_of(where)))} at once."


def misfits_of(cells: Cells, where: Where) -> list[Misfit]:
    """Return the filters that nothing fits; none where each fits something, and only all of them nothing."""
    return [
        Misfit(dimension, name, _names_in(cells, dimension))
        for dimension, name in filters_of(where).items()
        if not narrow(cells, where_of(**{dimension: name}))
    ]


def _names_in(cells: Cells, dimension: str) -> list[str]:
    place = CELL_DIMENSIONS.index(dimension)
    requests: dict[str, int] = {}
    for cell, measures in cells.items():
        requests[cell[place]] = requests.get(cell[place], 0) + measures.get(REQUESTS, 0)
    return sorted(requests.keys() - {"", OTHER}, key=lambda name: (-requests[name], name))


def _said_misfit(misfit: Misfit) -> str:
    dimension = misfit.dimension
    what = f"No event of this time is of {dimension} {harmless(misfit.name)}"
    if not misfit.there:
        return f"{what}: none has {_article(dimension)} {dimension}."
    named = ", ".join(map(harmless, misfit.there[:_MOST_NAMED]))
    hidden = len(misfit.there) - _MOST_NAMED
    # No report is by environment.
    lists = f" (`sidestream report --by {dimension}` lists them)" if dimension != "environment" else ""
    more = f" and {hidden:,} more{lists}" if hidden > 0 else ""
    return f"{what}. Names are exact; {dimension}s in this time: {named}{more}."


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _said(filters: Mapping[str, str]) -> list[str]:
    return [f"{dimension} {harmless(name)}" for dimension, name in filters.items()]
