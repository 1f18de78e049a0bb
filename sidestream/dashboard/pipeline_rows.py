"""What the pipeline's view lists besides handlers: producers with their last word. Pure."""

from collections.abc import Sequence

from msgspec import Struct

from consumers.state import merge
from consumers.views.status import ProducerStatus, Status
from pipeline.presence import Presence
from pipeline.units import US_PER_MS
from sidestream.cli.human import counted, duration


class ProducerRow(Struct, frozen=True):
    """One producer that lives or died, or all of a service that said goodbye."""

    service: str
    version: str
    instance: str
    life: str
    tone: str
    numbers: tuple[int, int, int, int, int, int]
    """Offered, appended, waiting, shed, invalid, lost."""
    shed: str


def producers_of(status: Status) -> list[ProducerRow]:
    """Return the producers: those that live or died one by one, those that said goodbye a service and version."""
    closed: dict[tuple[str, str], list[ProducerStatus]] = {}
    rows: list[ProducerRow] = []
    for producer in status.producers:
        if producer.life == "closed" and not producer.at_risk:
            closed.setdefault((producer.presence.service, producer.presence.version), []).append(producer)
        else:
            rows.append(_producer(producer))
    return [*rows, *map(_closed, closed.values())]


def _producer(producer: ProducerStatus) -> ProducerRow:
    presence, life = producer.presence, producer.life
    if life == "silent":
        life = f"silent for {duration(producer.silent_ms * US_PER_MS)}, {counted(producer.at_risk, 'event')} at risk"
    tone = "good" if life == "alive" else "bad" if producer.at_risk else ""
    return ProducerRow(
        service=presence.service,
        version=presence.version,
        instance=presence.instance,
        life=life,
        tone=tone,
        numbers=_numbers([presence]),
        shed=_shed([presence]),
    )


def _closed(producers: Sequence[ProducerStatus]) -> ProducerRow:
    presences = [producer.presence for producer in producers]
    return ProducerRow(
        service=presences[0].service,
        version=presences[0].version,
        instance=counted(len(presences), "process", "processes"),
        life="closed",
        tone="",
        numbers=_numbers(presences),
        shed=_shed(presences),
    )


def _numbers(presences: Sequence[Presence]) -> tuple[int, int, int, int, int, int]:
    return (
        sum(last.offered for last in presences),
        sum(last.appended for last in presences),
        sum(last.buffered + last.spooled + last.in_flight + last.unknown for last in presences),
        sum(last.shed for last in presences),
        sum(last.invalid for last in presences),
        sum(last.lost for last in presences),
    )


def _shed(presences: Sequence[Presence]) -> str:
    total: dict[str, int] = {}
    for presence in presences:
        merge(total, presence.shed_by)
    return ", ".join(f"{way} {count:,}" for way, count in sorted(total.items()))
