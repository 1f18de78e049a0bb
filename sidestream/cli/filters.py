"""What figures are narrowed to, as options of a command."""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

import typer

from consumers.alerts.rules import Where
from sidestream.cli.human import harmless

_PANEL = "Filters"

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
    return ", ".join(f"{dimension} {harmless(name)}" for dimension, name in filters.items())
