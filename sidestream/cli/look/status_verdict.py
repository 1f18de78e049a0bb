"""How the pipeline stands, in a word and in sentences: what `sidestream status` says first, and what scripts ask.

Keeps: it is never good while events wait and nobody counts them, or while something that should go on stands still.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from consumers.alerts.store import AlertRow
from consumers.views.accounting import UnitAccount, handler_name
from consumers.views.flow import HandlerFlow, flows_of
from consumers.views.inflight import InFlight
from consumers.views.status import Status
from pipeline.units import US_PER_MS
from sidestream.cli.alerts import ordered
from sidestream.wording.human import counted, duration, harmless, percent
from sidestream.wording.trust import BEHIND_MS

Word: TypeAlias = Literal["ok", "empty", "at_risk", "behind", "stuck", "no_worker", "broken"]

_MOST_BROKEN: Final = 10
_MOST_NAMED: Final = 3

REPLAY: Final = "replay"
"""The kind of a version that answers for nothing yet: it is behind by its nature."""


class Waiting(Struct, frozen=True):
    """Events that one handler has not taken, of that which has most; the age of the oldest of any."""

    events: int = 0
    at_least: bool = False
    oldest_ms: int = 0

    @property
    def sentence(self) -> str:
        """What waits, and for how long."""
        if not self.events:
            return "nothing waits"
        number = f"{self.events:,}+ events" if self.at_least else counted(self.events, "event")
        verb = "waits" if self.events == 1 and not self.at_least else "wait"
        oldest = "" if self.events == 1 and not self.at_least else "the oldest "
        return f"{number} {verb}, {oldest}for {duration(self.oldest_ms * US_PER_MS)}"


class Standing(Struct, frozen=True):
    """The verdict; `advice` is what to do about it, empty where nothing is."""

    verdict: Word
    sentence: str
    waiting: Waiting
    advice: str = ""
    is_finding: bool = False
    """Whether a script should be told: accounting is broken, or events wait that no living worker will take."""


def judged(found: Status, unread: Sequence[UnitAccount], namespace: str) -> Standing:
    """Return how the pipeline stands.

    Args:
        found: What was read.
        unread: What lies in each partition, where no handler was ever declared.
        namespace: Whose it is; advice names it.
    """
    flows = [flow for flow in flows_of(found) if flow.kind != REPLAY]
    waiting = _waiting(flows or _flows_of_unread(found, unread))
    worker = f"Start one: `sidestream worker --namespace {namespace}`, with the same Redis."
    if found.broken:
        advice = "" if found.workers else f"No worker is alive: {waiting.sentence}. {worker}"
        places = counted(len(found.broken), "place")
        return Standing("broken", f"events are unaccounted for in {places}", waiting, advice, is_finding=True)
    if _is_empty(found, unread):
        return Standing("empty", f"nothing was ever published in the namespace {namespace}", waiting)
    if not found.workers:
        ever = "" if found.accounts else "; none has ever run here"
        late = waiting.oldest_ms > BEHIND_MS
        sentence = waiting.sentence if waiting.events else f"{waiting.sentence}, every event is accounted for"
        return Standing("no_worker", f"{sentence}{ever}", waiting, worker, is_finding=late)
    if alone := _alone(found, flows):
        which = ", ".join(flow.name for flow in alone)
        advice = f"Start one that does, or end the hold: `sidestream handler retire {alone[0].name.partition(' ')[0]}`."
        return Standing("no_worker", f"none runs {which}: {_waiting(alone).sentence}", waiting, advice, is_finding=True)
    return _going(found, flows, waiting)


def _going(found: Status, flows: Sequence[HandlerFlow], waiting: Waiting) -> Standing:
    """Judge a pipeline whose workers are there."""
    if still := {handler_name(unit.handler, unit.version) for unit in found.stalled}:
        return Standing("stuck", f"{', '.join(sorted(still))} stands still while entries wait", waiting)
    if stuck := sum(trouble.state == "stuck" for worker in found.workers for trouble in worker.troubles):
        return Standing(
            "stuck", f"{counted(stuck, 'duty of a worker makes', 'duties of workers make')} no progress", waiting
        )
    late = [flow for flow in flows if is_late(flow.outstanding, flow.behind_ms)]
    if late:
        names = ", ".join(flow.name for flow in late)
        return Standing("behind", f"{names}: {_waiting(late).sentence}", waiting)
    if at_risk := _at_risk(found):
        return Standing("at_risk", at_risk, waiting)
    return Standing("ok", "every event is accounted for", waiting)


def is_late(outstanding: int, behind_ms: int) -> bool:
    """Tell whether what waits has waited for longer than a worker that is alive takes."""
    return bool(outstanding) and behind_ms > BEHIND_MS


def _is_empty(found: Status, unread: Sequence[UnitAccount]) -> bool:
    """Tell whether nothing ever came: no producer, and no event on a stream, of ours or of others."""
    came = (
        row.appended + row.foreign + row.outstanding + row.outstanding_entries for row in [*found.accounts, *unread]
    )
    return not found.producers and not any(came)


def _flows_of_unread(found: Status, unread: Sequence[UnitAccount]) -> list[HandlerFlow]:
    """Return what waits where no handler was ever declared, as of one that has taken nothing."""
    status = Status(found.as_of_ms, found.partitions, found.memory, (), (), (), unread, ())
    return flows_of(status)


def _waiting(flows: Sequence[HandlerFlow]) -> Waiting:
    some = [flow for flow in flows if flow.outstanding]
    if not some:
        return Waiting()
    most = max(some, key=lambda flow: flow.outstanding)
    return Waiting(most.outstanding, most.at_least, max(flow.behind_ms for flow in some))


def _alone(found: Status, flows: Sequence[HandlerFlow]) -> list[HandlerFlow]:
    """Return the handlers that are late and that no living worker runs."""
    if not all(worker.handlers for worker in found.workers):
        # One that is not of the command line does not say what it runs.
        return []
    run = {name.partition(" ")[0] for worker in found.workers for name in worker.handlers.split(",")}
    late = [flow for flow in flows if is_late(flow.outstanding, flow.behind_ms)]
    return [flow for flow in late if flow.name.partition(" ")[0] not in run]


def broken_sums(found: Status) -> list[str]:
    """Return the sums that do not add up, the first of them."""
    lines = [f"{broken.where}: {broken.what}" for broken in found.broken[:_MOST_BROKEN]]
    hidden = len(found.broken) - _MOST_BROKEN
    return [*lines, f"and {hidden:,} more; --json has them"] if hidden > 0 else lines


def asides(found: Status, verdict: Word) -> Iterator[str]:
    """Say what has a place in the sums and became no figure, and what may be lost, where the verdict is another."""
    dead = max((sum(unit.dead for unit in units) for units in by_handler(found.accounts).values()), default=0)
    last = [producer.presence for producer in found.producers]
    ways = [
        (dead, "dead-lettered (`sidestream dlq ls`)"),
        (sum(unit.skipped for unit in found.accounts), "skipped by sinks too far behind"),
        (sum(one.shed for one in last), "shed"),
        (sum(one.invalid for one in last), "refused as invalid"),
        (sum(one.lost for one in last), "lost by Redis"),
    ]
    if said := [f"{number:,} {way}" for number, way in ways if number]:
        yield f"Not in the figures: {', '.join(said)}."
    at_risk = _at_risk(found)
    if at_risk and verdict != "at_risk":
        yield f"At risk: {at_risk}."


def _at_risk(found: Status) -> str:
    """Say what may be lost; empty where nothing is."""
    events = sum(producer.at_risk for producer in found.producers)
    gone = sum(bool(producer.at_risk) for producer in found.producers)
    whose = counted(gone, "producer that is gone", "producers that are gone")
    return f"{counted(events, 'event')} may be lost with {whose}" if events else ""


def going_on(found: Status, alerts: Sequence[AlertRow]) -> Iterator[str]:
    """Say what fires, what is open for long, and how full the server is."""
    if firing := [harmless(row.rule) for row in ordered(alerts) if row.status == "firing"]:
        names = ", ".join(firing[:_MOST_NAMED])
        more = f" and {len(firing) - _MOST_NAMED} more" if len(firing) > _MOST_NAMED else ""
        yield f"{names} fires." if len(firing) == 1 else f"{len(firing)} rules fire: {names}{more}."
    if found.in_flight:
        yield _open_sentence(found.in_flight)
    memory = found.memory
    if memory.level != "ok":
        left = f", and full in {memory.hours_left:.1f} h at the present rate" if memory.hours_left is not None else ""
        early = ": entries that all handlers have taken go early" if memory.level == "critical" else ""
        yield f"Redis's memory is {percent(memory.used / memory.limit)} full{left}{early}."


def _open_sentence(rows: Sequence[InFlight]) -> str:
    kinds = {row.operation.kind or "operation" for row in rows}
    kind = harmless(kinds.pop()) if len(kinds) == 1 else "operation"
    longest = duration(max(row.open_ms for row in rows) * US_PER_MS)
    number = counted(len(rows), f"{kind} is", f"{kind}s are")
    return f"{number} open for {longest if len(rows) == 1 else f'up to {longest}'}."


def by_handler(accounts: Sequence[UnitAccount]) -> dict[str, list[UnitAccount]]:
    """Return the units of each handler, those of the live version first."""
    found: dict[str, list[UnitAccount]] = {}
    for account in sorted(accounts, key=lambda row: (row.version, row.handler, row.partition)):
        found.setdefault(handler_name(account.handler, account.version), []).append(account)
    return found
