"""Housekeeping: trims the streams, watches the server's memory, and cursors that stand still; one worker does it.

Keeps:
- A round ends soon: what is left, the next one does. Between two calls of the trim script everybody else is served.
- Trouble in one partition is said once and keeps no other from being trimmed.
- An append fails last: from `memory_watch.CRITICAL_RATIO` on, what is only kept for a replay goes first.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio

from consumers.runtime.memory_watch import Level, MemoryReading, MemoryWatch, Rate
from consumers.runtime.trimming import Retention, trim
from consumers.views.accounting import STOOD_STILL_MS, stood_still_ms
from pipeline.connection import AsyncServer, parse_info
from pipeline.errors import PermanentError, SettingsError
from pipeline.keys import Keys, PartitionKeys
from pipeline.scripting import script

log = logging.getLogger("sidestream.worker")

EVERY_S: Final = 5.0
"""Seconds between rounds: at 200,000 events/s that is 100 MB of frames."""

_CALLS_A_ROUND: Final = 200
"""Calls of the trim script in one round: up to 400 MiB of entries, in 2 s."""

_PAUSE_S: Final = 0.005
"""Between two calls, as long as a call: at most half of the server's time goes to trimming."""

_LOOK_AT_CURSORS_MS: Final = 60_000
_SINKS_PART: Final = 4
"""All sinks together hold at most this part of the memory, whatever their budget says."""

_ARCHIVES_PART: Final = 2
"""An archive likewise."""

_MS_PER_S: Final = 1_000
_MS_PER_HOUR: Final = 3_600_000
_DAY_S: Final = 86_400
_MOST_BYTES: Final = 1 << 50


@dataclass(frozen=True, slots=True)
class HousekeepingSettings:
    """How long entries stay that all fold handlers have taken, and what sinks may hold beyond.

    Args:
        retention_s: Every entry stays this long: a day, so that a replay, and a handler that is added, have yesterday
            to read. It gives way where memory is short.
        sink_age_s: A sink that fell behind holds entries up to this age: three days, a weekend.
        sink_bytes: And up to this much of the server's memory, over all partitions.
        archive_age_s: An archive that fell behind holds entries up to this age: two weeks.
        archive_bytes: And up to this much of the server's memory, over all partitions.
        memory_bytes: The memory that the server may use, where it has no `maxmemory`; 0 where nobody says.

    Raises:
        SettingsError: One is out of its range; the message begins with its name.
    """

    retention_s: int = _DAY_S
    sink_age_s: int = 3 * _DAY_S
    sink_bytes: int = 256 << 20
    archive_age_s: int = 14 * _DAY_S
    archive_bytes: int = 1 << 30
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("retention_s", "sink_age_s", "archive_age_s"):
            if not 0 <= getattr(self, name) <= 366 * _DAY_S:
                raise SettingsError(f"{name} {getattr(self, name)!r}: use a duration from 0s to 366d")
        for name in ("sink_bytes", "archive_bytes"):
            if not 0 <= getattr(self, name) <= _MOST_BYTES:
                raise SettingsError(f"{name} {getattr(self, name)!r}: use 0 to 2^50")
        if self.memory_bytes and not 1 << 20 <= self.memory_bytes <= _MOST_BYTES:
            raise SettingsError(f"memory_bytes {self.memory_bytes!r}: use 0, or 1 MiB to 2^50")


@dataclass(slots=True)
class HousekeepingStatistics:
    """What it did in this process; `relieved` are entries that went before their retention, for want of memory."""

    rounds: int = 0
    entries: int = 0
    events: int = 0
    skipped: int = 0
    relieved: int = 0


@dataclass(slots=True)
class _Said:
    """What has been logged, and is not logged again until it is over."""

    refused: set[int] = field(default_factory=set[int])
    passed: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    still: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])


class Housekeeper:
    """Keeps one namespace; `partitions` says how many there are, for they may grow."""

    def __init__(
        self,
        server: AsyncServer,
        keys: Keys,
        settings: HousekeepingSettings,
        *,
        partitions: Callable[[], Awaitable[int]],
    ) -> None:
        self.statistics = HousekeepingStatistics()
        self._server = server
        self._keys = keys
        self._settings = settings
        self._partitions = partitions
        self._memory = MemoryWatch()
        self._reading = MemoryReading(0, 0)
        self._rate = Rate()
        self._said = _Said()
        self._looked_ms = 0

    async def run(self) -> None:
        """Do one round.

        Raises:
            SidestreamError: See `AsyncServer.call`; the next round goes on.
        """
        partitions = [self._keys.partition(number) for number in range(await self._partitions())]
        calls = await self._trim(partitions, _CALLS_A_ROUND, relief=False)
        before = self.statistics.entries
        await self._trim(partitions, calls, relief=True)
        self.statistics.relieved += self.statistics.entries - before
        now_ms = await self._now_ms()
        # After the trimming: what could be freed needs no warning.
        self._rate, news = self._memory.look(now_ms, await self._read_memory())
        if news is not None:
            self._tell(news)
        if now_ms - self._looked_ms >= _LOOK_AT_CURSORS_MS:
            self._looked_ms = now_ms
            await self._look_at_cursors(partitions)
        self.statistics.rounds += 1

    def presence(self) -> Mapping[str, str]:
        """Return what the worker that keeps house says of itself, for `sidestream status`."""
        hours, growth = self._rate.hours_left, self._rate.bytes_per_hour
        return {
            "memory_limit": str(self._reading.limit),
            "memory_hours_left": "" if hours is None else f"{hours:.1f}",
            "memory_bytes_per_hour": "" if growth is None else f"{growth:.0f}",
        }

    async def _read_memory(self) -> MemoryReading:
        fields = parse_info(await self._server.call("INFO", "memory"))
        limit = int(fields.get("maxmemory", 0)) or self._settings.memory_bytes
        self._reading = MemoryReading(int(fields.get("used_memory", 0)), limit)
        return self._reading

    async def _now_ms(self) -> int:
        seconds, microseconds = await self._server.call("TIME")
        return int(seconds) * _MS_PER_S + int(microseconds) // 1_000

    async def _trim(self, partitions: Sequence[PartitionKeys], calls: int, *, relief: bool) -> int:
        """Trim, in turn, every partition that has more to trim, with about `calls` calls; return how many are left.

        `relief`: what retention would keep goes as well, the oldest first, as long as memory is short.
        """
        pending = list(partitions)
        while pending and calls > 0:
            reading = await self._read_memory()
            if relief and reading.level != "critical":
                break
            retention = self._retention(len(partitions), reading, relief=relief)
            calls -= len(pending)
            pending = [partition for partition in pending if await self._trim_once(partition, retention)]
        return calls

    def _retention(self, partitions: int, reading: MemoryReading, *, relief: bool) -> Retention:
        settings = self._settings
        most = reading.limit or _MOST_BYTES
        return Retention(
            kept_ms=0 if relief else settings.retention_s * _MS_PER_S,
            sink_ms=settings.sink_age_s * _MS_PER_S,
            sink_bytes=min(settings.sink_bytes, most // _SINKS_PART) // partitions,
            archive_ms=settings.archive_age_s * _MS_PER_S,
            archive_bytes=min(settings.archive_bytes, most // _ARCHIVES_PART) // partitions,
            relief=int(relief),
        )

    async def _trim_once(self, partition: PartitionKeys, retention: Retention) -> bool:
        """Call the script once; return whether there is more to trim."""
        try:
            done = await trim(self._server, partition, retention)
        except PermanentError as error:
            if partition.number not in self._said.refused:
                self._said.refused.add(partition.number)
                log.error("A partition cannot be trimmed", extra={"reason": str(error)})  # noqa: TRY400 - no fault of ours
            return False
        self._said.refused.discard(partition.number)
        self.statistics.entries += done.entries
        self.statistics.events += done.events
        self.statistics.skipped += sum(done.skipped.values())
        self._tell_passed(partition.number, done.skipped)
        if done.more:
            await anyio.sleep(_PAUSE_S)
        return done.more

    def _tell_passed(self, number: int, skipped: Mapping[str, int]) -> None:
        for name in skipped.keys() - self._said.passed.get(number, set()):
            about: dict[str, object] = {"unit": name, "partition": number, "events": skipped[name]}
            log.warning("A unit is too far behind: events that it has not taken are skipped", extra=about)
        self._said.passed[number] = set(skipped)

    def _tell(self, level: Level) -> None:
        about: dict[str, object] = {"used_bytes": self._reading.used, "limit_bytes": self._reading.limit}
        if self._rate.hours_left is not None:
            about["hours_left"] = round(self._rate.hours_left, 1)
        match level:
            case "ok":
                log.info("Redis has room again", extra=about)
            case "high":
                log.warning("Redis fills up", extra=about)
            case "critical":
                log.warning("Redis is nearly full: entries that all handlers have taken go early", extra=about)

    async def _look_at_cursors(self, partitions: Sequence[PartitionKeys]) -> None:
        still = {place: stood_ms for partition in partitions for place, stood_ms in await self._still(partition)}
        for unit, number in still.keys() - self._said.still:
            about = {"unit": unit, "partition": number, "hours": still[unit, number] // _MS_PER_HOUR}
            log.warning("A handler stands still while entries wait: it holds the stream", extra=about)
        self._said.still = set(still)

    async def _still(self, partition: PartitionKeys) -> list[tuple[tuple[str, int], int]]:
        """Return the fold units of a partition that have stood still for too long, and for how many ms."""
        flat = await self._server.call("HGETALL", partition.handlers())
        names = [name.decode() for name, kind in zip(flat[::2], flat[1::2], strict=True) if kind != b"sink"]
        cursors = [partition.named_unit(name).cursor() for name in names]
        now, *oldest = await self._server.run(script("watermark"), [partition.stream(), *cursors], [])
        moved = await self._server.all([["HGET", cursor, "at"] for cursor in cursors])
        stood = [
            stood_still_ms(int(now), int(moved_ms or 0), int(oldest_ms or now))
            for moved_ms, oldest_ms in zip(moved, oldest, strict=True)
        ]
        return [((name, partition.number), ms) for name, ms in zip(names, stood, strict=True) if ms >= STOOD_STILL_MS]
