"""Completeness: up to when everything appended is counted, and what the figures may miss.

Keeps: what cannot be known is None, never 0; a number that could be larger says so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.state import merge
from consumers.views.accounting import UnitAccount, read_unit_account
from consumers.views.status import SILENT_MS
from consumers.windows import DAY, DAY_S, HOUR_S
from pipeline.connection import AsyncServer, Command
from pipeline.keys import Keys
from pipeline.presence import Presence, read_presences
from pipeline.units import US_PER_MS, US_PER_S

METRICS: Final = MetricsHandler.name
COST: Final = CostHandler.name

_MS_PER_S: Final = US_PER_S // US_PER_MS
_AT_ONCE: Final = 500
_LOSSES_KEPT_S: Final = 90 * DAY_S
"""As long as `pipeline.presence` keeps them."""


class HandlerAccount(Struct, frozen=True):
    """How far one handler has come, over all partitions; events since the beginning, not of the range.

    Where it has never run, `declared` of `partitions` is less, and its figures there are unknown.
    """

    handler: str
    partitions: int
    declared: int
    as_of_ms: int
    since_ms: int
    """Complete since: what was appended before had been trimmed when the handler began; 0 is the very beginning."""
    outstanding: int
    outstanding_at_least: bool
    dead_letters: int
    skipped: int
    expired: int
    foreign: int

    @property
    def everywhere(self) -> bool:
        """Whether it has run in every partition."""
        return self.declared == self.partitions


class Losses(Struct, frozen=True):
    """Events of the range's hours (broker time) that never arrived, `<kind>:<reason>` -> count.

    What Redis `lost` its producers tell, when they meet the gap. Of one that was gone by then nobody can: where there
    are such, it is `lost_at_least`.
    """

    shed: Mapping[str, int] = {}
    invalid: Mapping[str, int] = {}
    lost: int = 0
    lost_at_least: bool = False

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.shed.values()) + sum(self.invalid.values()) + self.lost


class Completeness(Struct, frozen=True):
    """What the figures may miss.

    `waiting` events were still with living producers at their last word; `at_risk` with those that closed or fell
    silent, and may never come.
    """

    handlers: Sequence[HandlerAccount]
    losses: Losses
    waiting: int = 0
    at_risk: int = 0

    @property
    def as_of_ms(self) -> int | None:
        """Everything appended before this broker time is counted; None where a handler has not run everywhere."""
        if not all(handler.everywhere for handler in self.handlers):
            return None
        return min(handler.as_of_ms for handler in self.handlers)

    def complete(self, from_s: int) -> bool:
        """Return whether nothing from `from_s` (seconds) to `as_of_ms` is known to be missing.

        What is outstanding or waiting was not appended or not committed before `as_of_ms`: it is still to come.
        """
        return not (self.losses.total or self.at_risk) and all(
            handler.everywhere
            and not (handler.dead_letters or handler.skipped)
            and handler.since_ms <= from_s * _MS_PER_S
            for handler in self.handlers
        )

    def known(self, handler: str) -> bool:
        """Return whether `handler` has ever run, so that there are figures of it."""
        return any(account.handler == handler and account.declared for account in self.handlers)


async def read_completeness(reader: StateReader, covered_s: tuple[int, int]) -> Completeness:
    """Read what figures of a reader and of the range `covered_s` (seconds; losses are kept by the hour) may miss.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    server, keys = reader.server, reader.keys
    presences = await read_presences(server, keys)
    accounts = {handler: await _accounts(reader, handler, covered_s) for handler in (METRICS, COST)}
    now_ms = max(account.now_ms for versions in accounts.values() for units in versions for account in units)
    alive = [presence for presence in presences if not presence.closed and now_ms - presence.at_ms <= SILENT_MS]
    waiting = sum(map(_not_appended, alive))
    losses = await _read_losses(server, keys, covered_s, now_ms // _MS_PER_S)
    at_least = losses.lost > 0 and len(alive) < len(presences)
    return Completeness(
        handlers=[_handler_account(handler, versions) for handler, versions in accounts.items()],
        losses=msgspec.structs.replace(losses, lost_at_least=at_least),
        waiting=waiting,
        at_risk=sum(map(_not_appended, presences)) - waiting,
    )


def _not_appended(presence: Presence) -> int:
    return presence.buffered + presence.spooled + presence.in_flight + presence.unknown


async def _accounts(reader: StateReader, handler: str, covered: tuple[int, int]) -> list[list[UnitAccount]]:
    """Return the accounts of a handler's units in each version that answers for some day of a range."""
    days = range(DAY.start_of(covered[0]), max(covered[1], covered[0] + 1), DAY.width_s)
    versions = sorted({reader.versions.answering(handler, day_s) for day_s in days})
    partitions = [reader.keys.partition(number) for number in range(reader.partitions)]
    return [
        [await read_unit_account(reader.server, partition, handler, version=version) for partition in partitions]
        for version in versions
    ]


def _handler_account(handler: str, versions: Sequence[Sequence[UnitAccount]]) -> HandlerAccount:
    """Return the account of a handler; each version takes all events, so of several the worst off counts."""
    accounts = [account for version in versions for account in version]

    def most(of: Callable[[UnitAccount], int]) -> int:
        return max(sum(map(of, version)) for version in versions)

    return HandlerAccount(
        handler=handler,
        partitions=len(versions[0]),
        declared=min(sum(account.declared for account in version) for version in versions),
        as_of_ms=min(account.committed_to_ms for account in accounts),
        since_ms=max(account.since_ms for account in accounts),
        outstanding=most(lambda account: account.outstanding),
        outstanding_at_least=any(account.outstanding_at_least for account in accounts),
        dead_letters=most(lambda account: account.dead_letters),
        skipped=most(lambda account: account.skipped),
        expired=most(lambda account: account.expired),
        foreign=most(lambda account: account.foreign),
    )


async def _read_losses(server: AsyncServer, keys: Keys, covered: tuple[int, int], now_s: int) -> Losses:
    first_s = max(covered[0], now_s - _LOSSES_KEPT_S)
    hours = range(first_s - first_s % HOUR_S, min(covered[1], now_s + 1), HOUR_S)
    commands: list[Command] = [["HGETALL", keys.loss_window(hour_s)] for hour_s in hours]
    total: dict[str, int] = {}
    for first in range(0, len(commands), _AT_ONCE):
        for flat in await server.all(commands[first : first + _AT_ONCE]):
            merge(total, {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)})
    return Losses(_of_way(total, "shed:"), _of_way(total, "invalid:"), total.get("lost", 0))


def _of_way(losses: Mapping[str, int], way: str) -> dict[str, int]:
    return {name.removeprefix(way): count for name, count in sorted(losses.items()) if name.startswith(way)}
