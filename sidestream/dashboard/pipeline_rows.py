"""What the pipeline's view lists besides handlers: producers with their last word. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from consumers.state import merge
from consumers.views.accounting import UnitAccount, handler_name
from consumers.views.status import Memory, ProducerStatus, Status
from pipeline.presence import Presence
from pipeline.units import US_PER_MS
from sidestream.wording.human import counted, duration, instant, size

_TWO_DAYS_H: Final = 48


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


class BalanceRow(Struct, frozen=True):
    """One sum that must hold: whose, since when, what went in, and where it is."""

    whose: str
    since: str
    entered: str
    parts: str
    holds: bool
    least: bool = False
    """Whether something was too much to be counted whole, so that nobody can say if it holds."""
    reckoned: bool = False
    """Whether a part is the rest of the sum, so that it always holds."""


def balance_of(status: Status) -> list[BalanceRow]:
    """Return the identities in words: of the producers together, and of each handler over its partitions."""
    presences = [producer.presence for producer in status.producers]
    rows = [_producers_balance(presences)] if presences else []
    units: dict[str, list[UnitAccount]] = {}
    for account in status.accounts:
        units.setdefault(handler_name(account.handler, account.version), []).append(account)
    appended = {account.partition: account.appended for account in status.accounts}
    gone = sum(appended.values()) - sum(presence.appended for presence in presences)
    if gone > 0 and presences:
        rows.append(
            BalanceRow(
                "The stream",
                "since the beginning",
                f"{sum(appended.values()):,} appended",
                f"by the producers above ({sum(one.appended for one in presences):,} when they last spoke), by those "
                "that left more than a day ago, and by backfills",
                holds=True,
                reckoned=True,
            )
        )
    return rows + [_handler_balance(name, units[name]) for name in sorted(units)]


def _producers_balance(presences: Sequence[Presence]) -> BalanceRow:
    offered, appended, waiting, shed, invalid, lost = _numbers(presences)
    since_ms = min((presence.started_ms for presence in presences if presence.started_ms), default=0)
    afterwards = f"; Redis lost {lost:,} of the appended" if lost else ""
    return BalanceRow(
        counted(len(presences), "producer"),
        f"since {instant(since_ms / 1_000)}" if since_ms else "since they began",
        f"{offered:,} offered",
        f"{appended:,} appended + {waiting:,} waiting + {shed:,} shed + {invalid:,} invalid{afterwards}",
        holds=offered == appended + waiting + shed + invalid,
    )


def _handler_balance(name: str, accounts: Sequence[UnitAccount]) -> BalanceRow:
    def total(of: Callable[[UnitAccount], int]) -> int:
        return sum(map(of, accounts))

    entered = total(lambda one: one.appended + one.foreign + one.outstanding_foreign - one.base)
    known = total(lambda one: one.known)
    since_ms = max(account.since_ms for account in accounts)
    least = any(account.outstanding_at_least for account in accounts)
    return BalanceRow(
        name,
        f"since {instant(since_ms / 1_000)}" if since_ms else "since the beginning",
        f"{entered:,} entered",
        f"{total(lambda one: one.committed):,} counted"
        + (f" + {known:,} known from before" if known else "")
        + f" + {total(lambda one: one.dead):,} dead letters + {total(lambda one: one.skipped):,} skipped"
        + f" + {'at least ' if least else ''}{total(lambda one: one.outstanding):,} still to count",
        holds=least or total(UnitAccount.balance) == 0,
        least=least,
    )


def memory_words(memory: Memory) -> str:
    """Return how fast Redis's memory grows, how long it lasts, and what happens at its limit."""
    if not memory.limit:
        return (
            "How long Redis's memory lasts is unknown: it has no limit that anybody told. "
            "Set its maxmemory, or SIDESTREAM_MEMORY_BYTES of the workers."
        )
    if memory.bytes_per_hour is None:
        grows = "How fast Redis grows is not known yet: a worker has to watch it for five minutes."
    elif memory.hours_left is None:
        grows = "Redis does not grow: over the last hour, as far as it was watched."
    else:
        grows = f"Redis grows by {size(round(memory.bytes_per_hour))} per hour; so its limit is {_hours(memory)} away."
    return (
        f"{grows} From 90 % of the limit on, entries that every handler has taken go early. If that is not enough, "
        "Redis refuses new events: applications keep them, then spool them to disk, then shed and count them."
    )


def _hours(memory: Memory) -> str:
    hours = memory.hours_left or 0
    return f"{hours / 24:,.0f} days" if hours > _TWO_DAYS_H else f"{hours:.1f} hours"


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
