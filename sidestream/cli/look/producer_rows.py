"""Producers as rows of `sidestream status`: what each offered, what of it waits, and what did not arrive."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from consumers.views.status import ProducerStatus
from pipeline.presence import Presence
from pipeline.units import US_PER_MS
from sidestream.cli.tables import Cell
from sidestream.wording.human import NOTHING, counted, duration, shown


@dataclass(frozen=True, slots=True)
class ProducerRow:
    """One row of producers: one alone, or several that are summed up."""

    service: str
    instance: str
    life: str
    of: Sequence[ProducerStatus]

    @property
    def presences(self) -> list[Presence]:
        """The last words that it sums up."""
        return [producer.presence for producer in self.of]

    @property
    def at_risk(self) -> int:
        """Events that producers which are gone still had."""
        return sum(producer.at_risk for producer in self.of)

    @property
    def worry(self) -> int:
        """What of it did not arrive, or may not."""
        return self.at_risk + sum(last.shed + last.invalid + last.lost for last in self.presences)

    @property
    def style(self) -> str:
        """Of the whole row."""
        if self.service == "all" and not self.life:
            return "bold"
        return "red" if self.at_risk else "dim" if self.life == "closed" else ""

    def cells(self, *, wide: bool, risk: bool) -> Sequence[Cell]:
        """Return what a table shows of it."""
        last = self.presences
        return [
            shown(self.service),
            shown(self.instance) if self.instance else "",
            self.life,
            f"{sum(one.offered for one in last):,}",
            *([f"{sum(one.appended for one in last):,}"] if wide else []),
            f"{sum(one.buffered + one.spooled + one.in_flight + one.unknown for one in last):,}",
            f"{sum(one.shed for one in last):,}",
            f"{sum(one.invalid for one in last):,}",
            f"{sum(one.lost for one in last):,}",
            *([f"{self.at_risk:,}"] if risk else []),
        ]


def producer_rows(producers: Sequence[ProducerStatus]) -> Iterator[ProducerRow]:
    """Give one row for each producer that lives or died, and one a service for those that said goodbye."""
    closed: dict[str, list[ProducerStatus]] = {}
    for producer in producers:
        service = _service(producer.presence)
        if producer.life == "closed" and not producer.at_risk:
            closed.setdefault(service, []).append(producer)
            continue
        silent = f" {duration(producer.silent_ms * US_PER_MS)}" if producer.life == "silent" else ""
        yield ProducerRow(service, producer.presence.instance or NOTHING, f"{producer.life}{silent}", [producer])
    for service, some in closed.items():
        yield ProducerRow(service, counted(len(some), "process", "processes"), "closed", some)


def may_go(rows: Sequence[ProducerRow], *last: str) -> list[str]:
    """Return the columns that may go: first those that would be full of zeros."""
    presences = [presence for row in rows for presence in row.presences]
    numbers = {"INVALID": "invalid", "LOST": "lost", "SHED": "shed"}
    idle = [head for head, field in numbers.items() if not any(getattr(last, field) for last in presences)]
    return ["APPENDED", *idle, *last]


def _service(presence: Presence) -> str:
    return f"{presence.service or NOTHING} {presence.version}".rstrip()


def lives(producers: Sequence[ProducerStatus]) -> str:
    """Return how many are alive, silent, recovered and closed."""
    lives = [producer.life for producer in producers]
    return ", ".join(
        f"{lives.count(life):,} {life}" for life in ("alive", "silent", "recovered", "closed") if life in lives
    )


def captures(producers: Sequence[ProducerStatus]) -> list[str]:
    """Say what producers that are alive do not see of the libraries they observe, once for all that say the same."""
    lines: set[str] = set()
    for producer in producers:
        for capture in producer.presence.captures if producer.life == "alive" else ():
            what = f"{_service(producer.presence)}: {capture.library} {capture.version}"
            if capture.unseen:
                lines.add(f"{what} is not observed completely: not {', '.join(capture.unseen)}.")
            if capture.faults:
                lines.add(f"{what}: observing it failed {counted(capture.faults, 'time', 'times')}; see its log.")
    return sorted(lines)
