"""`sidestream alerts`: where every rule stands, and what fired.

Keeps: a rule's name and a time are never folded over two lines; what a rule is called is shown as text.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from consumers.alerts.rules import Severity, Unit
from consumers.alerts.store import AlertRow, Incident, read_alerts, read_incidents
from consumers.windows import DAY_S, HOUR_S, MINUTE_S
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    console,
    open_session,
    print_json,
    run_async,
)
from sidestream.cli.tables import Cell, new_table, spaced, titled
from sidestream.wording.human import amount, counted, duration, harmless, instant, shown

app = typer.Typer(no_args_is_help=True, help="Alert rules: where each stands, and what fired.")

SCHEMA = "sidestream.alerts/1"

_STATUSES: Final = ("firing", "pending", "inactive")
_SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "warning", "info")
_STYLES: Final = {"firing": "bold red", "pending": "yellow"}


@app.command("ls")
def list_alerts(
    *,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many incidents to show.")] = 10,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 while a rule fires.")] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """List the rules with their value against their threshold, those that fire first, and the last incidents."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            rows = await read_alerts(session.server, session.keys)
            incidents = await read_incidents(session.server, session.keys, most)
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "rules": rows, "incidents": incidents}))
        else:
            _print(console(), rows, incidents)
        return EXIT_FINDING if fail and any(row.status == "firing" for row in rows) else 0

    run_async(command)


def _print(out: Console, rows: Sequence[AlertRow], incidents: Sequence[Incident]) -> None:
    if not rows:
        out.print("No rule has been evaluated yet: a worker with the handler 'alerts' does that.")
        return
    title = Text.assemble(("Alerts  ", "bold"), fires_line(rows), ("; times are UTC", "dim"))
    fired = _fired(incidents, out.width) if incidents else Text("Nothing has fired.")
    out.print(Lines(*spaced([titled(title, rules_table(rows)), fired])))


def fires_line(rows: Sequence[AlertRow]) -> Text:
    """Return how many of the rules fire."""
    firing = sum(row.status == "firing" for row in rows)
    if not firing:
        return Text(f"none of {counted(len(rows), 'rule')} fires", style="dim")
    return Text(f"{firing} of {len(rows)} {'fires' if firing == 1 else 'fire'}", style="bold red")


def ordered(rows: Sequence[AlertRow]) -> list[AlertRow]:
    """Return the rules that fire first, of those the worst first, and rule-2 before rule-10."""
    return sorted(rows, key=lambda row: (_STATUSES.index(row.status), _SEVERITIES.index(row.severity), _natural(row)))


def _natural(row: AlertRow) -> str:
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), row.rule)


def rules_table(rows: Sequence[AlertRow], now_s: int | None = None) -> Table:
    """Return the rules as a table; with the time that it is now, an instant of today is that of its clock alone."""
    table = new_table(
        "RULE", "=IS", "#VALUE", "#THRESHOLD", "#IN", "=SINCE", "=SEVERITY", leave=("SEVERITY", "IN", "SINCE"),
        least_name=_RULE_CHARS,
    )  # fmt: skip
    for row in ordered(rows):
        value, threshold = _compared(row)
        table.add_row(
            shown(row.rule),
            Text(row.status),
            value,
            threshold,
            window(row.window_s),
            _since(row.since_s, now_s),
            row.severity,
            style=_STYLES.get(row.status, ""),
        )
    return table


_RULE_CHARS: Final = len("high-token-usage")
"""Of a rule's name, before a column goes."""


def _fired(incidents: Sequence[Incident], width: int) -> RenderableType:
    table = new_table("=WHEN", "=RULE", "=WHAT", "#VALUE", "SUMMARY", leave=("VALUE", "SUMMARY"))
    for incident in incidents:
        moved = incident.transition
        row: list[Cell] = [
            instant(incident.at_ms // 1_000),
            _name(moved.rule, max(_RULE_CHARS, width // 4)),
            "fires" if moved.to == "firing" else "resolved",
            _value(moved.value, moved.unit),
            # A sentence may take several lines.
            Text(harmless(moved.summary)),
        ]
        table.add_row(*row)
    return titled("What fired", table, "  newest first")


def _name(rule: str, most: int) -> Text:
    """Return a rule's name whole, but for one that would leave no room for what happened."""
    text = shown(rule)
    text.truncate(most, overflow="ellipsis")
    return text


def _compared(row: AlertRow) -> tuple[str, str]:
    """Return value and threshold, in full where they would look the same though one is above the other."""
    value, threshold = _value(row.value, row.unit), _value(row.threshold, row.unit)
    if value == threshold and row.value != row.threshold:
        value, threshold = f"{row.value:,}", f"{row.threshold:,}"
        return (value, f"{threshold} {row.unit}")
    return value, threshold if row.unit == "us" else f"{threshold} {row.unit}"


def _value(value: int, unit: Unit) -> str:
    if unit == "us":
        return duration(value) if value else "0 s"
    return amount(value)


def window(seconds: int) -> str:
    """Return how far back a rule looks: 30 s, 5 m, 1 h 30 m, 7 d."""
    parts: list[str] = []
    for unit_s, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "m"), (1, "s")):
        number, seconds = divmod(seconds, unit_s)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts)


def _since(time_s: int, now_s: int | None) -> str:
    at = datetime.fromtimestamp(time_s, UTC)
    is_today = now_s is not None and at.date() == datetime.fromtimestamp(now_s, UTC).date()
    return at.strftime("%H:%M:%S") if is_today else instant(time_s)
