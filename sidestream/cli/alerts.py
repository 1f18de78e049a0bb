"""`sidestream alerts`: where every rule stands, and what fired."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from consumers.alerts.store import AlertRow, Incident, read_alerts, read_incidents
from pipeline.units import US_PER_S
from sidestream.cli.session import AsJson, Namespace, Place, RedisUrl, console, open_session, print_json, run_async

app = typer.Typer(no_args_is_help=True, help="Alert rules: where each stands, and what fired.")

SCHEMA = "sidestream.alerts/1"


@app.command("ls")
def list_alerts(
    *,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many incidents to show.")] = 10,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """List the rules with their value against their threshold, and the last incidents."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            rows = await read_alerts(session.server, session.keys)
            incidents = await read_incidents(session.server, session.keys, most)
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "rules": rows, "incidents": incidents}))
        elif rows:
            out = console()
            out.print(rules_table(rows))
            out.print()
            out.print(_incidents_table(incidents) if incidents else "Nothing has fired.")
        else:
            console().print("No rule has been evaluated yet: a worker with the handler 'alerts' does that.")
        return 0

    run_async(command)


def rules_table(rows: list[AlertRow]) -> Table:
    """Return the rules as a table."""
    table = _table("RULE", "STATE", "VALUE", "THRESHOLD", "WINDOW", "SINCE")
    for row in rows:
        table.add_row(
            Text(row.rule),
            row.status,
            amount(row.value, row.unit),
            amount(row.threshold, row.unit),
            f"{row.window_s} s",
            instant(row.since_s),
            style="bold red" if row.status == "firing" else "",
        )
    return table


def _incidents_table(incidents: list[Incident]) -> Table:
    table = _table("WHEN", "RULE", "WHAT", "VALUE", "SUMMARY")
    for incident in incidents:
        moved = incident.transition
        table.add_row(
            instant(incident.at_ms // 1000),
            Text(moved.rule),
            "fires" if moved.to == "firing" else "resolved",
            amount(moved.value, moved.unit),
            Text(moved.summary),
        )
    return table


def _table(*columns: str) -> Table:
    # One blank between columns: the rules fit 80 columns.
    table = Table(box=None, header_style="dim", pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in {"VALUE", "THRESHOLD"} else "left", overflow="fold")
    return table


def amount(value: int, unit: str) -> str:
    """Return a rule's value for people: microseconds as seconds."""
    return f"{value / US_PER_S:,.1f} s" if unit == "us" else f"{value:,} {unit}"


def instant(time_s: int) -> str:
    """Return an instant (seconds since 1970) in ISO 8601, UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
