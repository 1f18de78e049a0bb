"""States of a pipeline by hand: all well, and what can be wrong with one, for tests of what a reader sees."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace
from rich.console import Console, RenderableType

from consumers.alerts.evaluate import Status as RuleStatus
from consumers.alerts.rules import Severity
from consumers.alerts.store import AlertRow
from consumers.views.accounting import UnitAccount
from consumers.views.inflight import in_flight
from consumers.views.status import Memory, ProducerStatus, Status, WorkerPresence
from pipeline.connection import ServerFacts
from pipeline.presence import OpenOperation, Presence
from sidestream.cli.look.status_text import Look, status_text
from sidestream.cli.look.status_verdict import judged

NOW_MS = 1_795_811_674_000
"""2026-11-27 20:34:34 UTC."""

HOSTILE = "evil\x1b[31m\n[red]\u202e" + "x" * 90
URL = "redis://127.0.0.1:7399/0"


_UNIT = msgspec.convert(
    dict.fromkeys(UnitAccount.__struct_fields__, 0)
    | {
        "handler": "metrics",
        "version": 1,
        "kind": "fold",
        "declared": True,
        "cursor_id": "1795811674345-0",
        "done": "1795811674345-0",
        "recipe": "r",
        "at_ms": NOW_MS,
        "now_ms": NOW_MS,
        "committed_to_ms": NOW_MS,
        "committed": 2_558,
        "appended": 2_558,
        "outstanding_at_least": False,
    },
    UnitAccount,
)
_PRODUCER = Presence(
    "ab" * 16, "deckster", "1.5.0", instance="vm:6754", at_ms=NOW_MS, clock_us=NOW_MS * 1_000, offered=79, appended=79
)
_WORKER = WorkerPresence("vm:6761:6d796b", "0.1.0", "metrics,cost,alerts", 8, 102, 0)
_RULE = AlertRow(
    rule="high-token-usage",
    status="inactive",
    severity="warning",
    value=139_482,
    threshold=40_000,
    unit="tokens",
    window_s=300,
    since_s=NOW_MS // 1_000 - 14,
    watermark_s=NOW_MS // 1_000,
    incident="i",
)


def unit(handler: str = "metrics", partition: int = 0, **other: object) -> UnitAccount:
    """Return a unit that has counted 2,558 events, and nothing waits."""
    return replace(_UNIT, handler=handler, partition=partition, **other)


def behind(events: int, for_ms: int, **other: object) -> UnitAccount:
    """Return a unit before which events wait."""
    waits = {
        "appended": 2_558 + events,
        "outstanding": events,
        "outstanding_entries": events,
        "lag": events,
        "committed_to_ms": NOW_MS - for_ms,
    }
    return replace(_UNIT, **waits | other)


def units(*instead: UnitAccount) -> list[UnitAccount]:
    """Return two handlers in four partitions each, but for those given instead."""
    usual = [unit(handler, number) for handler in ("cost", "metrics") for number in range(4)]
    places = {(one.handler, one.version, one.partition): one for one in [*usual, *instead]}
    return list(places.values())


def producer(life: str = "alive", at_risk: int = 0, **other: object) -> ProducerStatus:
    """Return a producer that has offered 79 events."""
    return ProducerStatus(replace(_PRODUCER, **other), life, 26_000 if life == "silent" else 0, at_risk)


def hanging(life: str = "alive", session: str = "deck-hangs", agent: str = "illustrator") -> ProducerStatus:
    """Return a producer with a request that has been open for ten seconds."""
    started_us = NOW_MS * 1_000 - 10_000_000
    operation = OpenOperation("chat", agent, started_us, "request", "gpt-4o", "op-1", session=session)
    return producer(life, open_operations=(operation,))


def worker(**other: object) -> WorkerPresence:
    """Return a worker that is alive."""
    return replace(_WORKER, **other)


def rule(
    name: str = "high-token-usage", status: RuleStatus = "inactive", severity: Severity = "warning", **other: object
) -> AlertRow:
    """Return where a rule stands, since 14 s."""
    return replace(_RULE, rule=name, status=status, severity=severity, **other)


def look(
    *,
    alerts: Sequence[AlertRow] = (_RULE,),
    unread: Sequence[UnitAccount] = (),
    others: Sequence[str] = (),
    **other: object,
) -> Look:
    """Return a look at a pipeline where all is well but for what is given: fields of `Status` too."""
    memory = Memory(7_444_889, 256 << 20)
    well = Status(NOW_MS, 4, memory, [producer()], [], [worker()], units(), broken=())
    found = replace(well, **other)
    found = replace(
        found, in_flight=[row for one in found.producers for row in in_flight(one.presence, one.life, NOW_MS)]
    )
    facts = ServerFacts("valkey", "9.1.2", "noeviction", aof=True)
    return Look(found, alerts, judged(found, unread, "demo"), facts, URL, "demo", others)


def printed(part: RenderableType, width: int) -> list[str]:
    """Return the lines that a terminal of `width` columns shows."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(part)
    return [line.rstrip() for line in capture.get().splitlines()]


def lines_of(found: Look, width: int = 80, *, all_partitions: bool = False) -> list[str]:
    """Return what `sidestream status` shows in a terminal of `width` columns."""
    return printed(status_text(found, width, all_partitions=all_partitions), width)
