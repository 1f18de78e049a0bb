"""What a replay would read, take and cost, before anything is done."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from consumers.archive.store import ArchiveStore
from consumers.register import read_versions
from consumers.removal import survey_unit
from consumers.replay.progress import Shelf, read_shelf
from consumers.runtime.effects import Effect
from consumers.versions import Days
from consumers.views.accounting import read_unit_account
from pipeline.connection import AsyncServer
from pipeline.keys import LIVE_VERSION, Keys

EVENTS_A_SECOND: Final = 30_000
"""Of one handler in one process; from a run of benchmarks/replaying.py (docs/benchmarks.md). It hangs on the cells."""


class PartitionPlan(Struct, frozen=True):
    """What would be read of one partition. `missing` events were trimmed, and are in no archive."""

    partition: int
    segments: int
    segment_bytes: int
    archived_events: int
    damaged_segments: Mapping[str, str]
    first_ms: int | None
    """When the first entry was appended that would be read; None where nothing would."""
    stream_entries: int
    stream_events: int
    stream_events_at_least: bool
    missing: int


class Plan(Struct, frozen=True):
    """What a replay would do."""

    number: int
    handlers: Sequence[str]
    days: Days
    recipes: Mapping[str, str]
    archive: str
    partitions: Sequence[PartitionPlan]
    foreign_partitions: Sequence[int]
    """Partitions that the archive has, and this namespace has not."""
    state_bytes: int
    """What the state of these handlers takes now: about as much comes on top of it."""

    @property
    def events(self) -> int:
        """Events that would be read, once for each handler."""
        return sum(one.archived_events + one.stream_events for one in self.partitions)

    @property
    def seconds(self) -> float:
        """About how long one process takes for it."""
        return self.events * len(self.handlers) / EVENTS_A_SECOND

    @property
    def missing(self) -> int:
        """Events that are no longer anywhere."""
        return sum(one.missing for one in self.partitions)


async def read_plan(  # noqa: PLR0913, PLR0917 - where, and what is asked
    server: AsyncServer,
    keys: Keys,
    partitions: int,
    effects: Sequence[Effect],
    days: Days,
    store: ArchiveStore | None,
) -> Plan:
    """Return what a replay would do; nothing is changed.

    Raises:
        SidestreamError: See `AsyncServer.call`, and `ArchiveStore.put`.
    """
    versions = await read_versions(server, keys)
    archived = await store.partitions() if store else []
    rows = [await _partition(server, keys, number, days, store) for number in range(partitions)]
    surveys = [
        await survey_unit(server, keys, partitions, f"v{versions.base(effect.name)}:{effect.name}")
        for effect in effects
    ]
    return Plan(
        number=versions.next,
        handlers=[effect.name for effect in effects],
        days=days,
        recipes={effect.name: effect.recipe()[1] for effect in effects},
        archive=store.url if store else "",
        partitions=rows,
        foreign_partitions=[number for number in archived if number >= partitions],
        state_bytes=sum(survey.bytes for survey in surveys),
    )


async def _partition(
    server: AsyncServer, keys: Keys, number: int, days: Days, store: ArchiveStore | None
) -> PartitionPlan:
    partition = keys.partition(number)
    # Nothing has this name: what it would have before it is the whole stream.
    account = await read_unit_account(server, partition, "nobody", version=LIVE_VERSION)
    oldest = await server.call("XRANGE", partition.stream(), "-", "+", "COUNT", 1)
    join = oldest[0][0].decode() if oldest else f"{account.now_ms}-0"
    shelf = await read_shelf(store, number, days) if store else Shelf(number, 0, 0, [], {}, None, [])
    trimmed = account.trimmed + account.trimmed_foreign
    first = [ms for ms in (shelf.first_ms, int(oldest[0][0].partition(b"-")[0]) if oldest else None) if ms is not None]
    return PartitionPlan(
        partition=number,
        segments=shelf.segments,
        segment_bytes=shelf.bytes,
        archived_events=shelf.ahead("0-0", join),
        damaged_segments=shelf.damaged,
        first_ms=min(first, default=None),
        stream_entries=account.outstanding_entries,
        stream_events=account.outstanding,
        stream_events_at_least=account.outstanding_at_least,
        missing=max(0, trimmed - shelf.below(join)),
    )
