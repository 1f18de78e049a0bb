"""What is asked of the server before anything is fed: how events are routed, and which of them are there already."""

from collections.abc import AsyncIterable, Collection
from typing import Final

from pipeline.connection import AsyncServer
from pipeline.keys import DEFAULT_PARTITIONS, Keys, PartitionKeys
from pipeline.presence import read_partitions
from pipeline.scripting import script
from pipeline.stream import parse_entries, read_after
from pipeline.wire import StoredEntry, entry_producer
from producers.backfill.holdings import Fence, Holdings, oldest_us

_AT_ONCE: Final = 64
"""Entries of one look at a stream: of full frames 2.4 MB."""

_ROUTED_BY: Final = "backfill_partitions"


async def agree_routing(server: AsyncServer, keys: Keys, *, dry: bool = False) -> int:
    """Return how many partitions backfilled events are routed over: as many as there were at the first backfill.

    Args:
        server: Where.
        keys: Of the namespace.
        dry: Write nothing down.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    if not dry:
        partitions = int(await server.run(script("partitions"), [keys.meta()], [DEFAULT_PARTITIONS]))
        await server.call("HSETNX", keys.meta(), _ROUTED_BY, partitions)
    agreed = await server.call("HGET", keys.meta(), _ROUTED_BY)
    return int(agreed) if agreed else await read_partitions(server, keys)


async def read_holdings(
    server: AsyncServer,
    keys: Keys,
    owners: Collection[tuple[str, int]],
    archived: AsyncIterable[tuple[int, StoredEntry]] | None = None,
) -> Holdings:
    """Return what the namespace has of these (producer or foreign entry, partition).

    Args:
        server: Where.
        keys: Of the namespace.
        owners: Who appended the events that are asked about.
        archived: The entries of an archive, with their partition; read only where fences do not tell.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    holdings = Holdings()
    wanted = sorted(owner for owner in owners if "-" not in owner[0])
    for first in range(0, len(wanted), _AT_ONCE):
        some = wanted[first : first + _AT_ONCE]
        commands = [["HMGET", keys.partition(number).fence(owner), "next", "lost"] for owner, number in some]
        for owner, (following, lost) in zip(some, await server.all(commands), strict=True):
            if following is not None:
                holdings.fences[owner] = Fence(int(following), int(lost or 0))
    if holdings.needs_streams(owners):
        for number in sorted({number for _, number in owners}):
            await _read_stream(server, keys.partition(number), holdings, owners)
        async for number, entry in archived or _nothing():
            _note(holdings, number, entry, owners)
    return holdings


async def _read_stream(
    server: AsyncServer, partition: PartitionKeys, holdings: Holdings, owners: Collection[tuple[str, int]]
) -> None:
    number = partition.number
    trimmed = any(
        int(count or 0) for count in await server.call("HMGET", partition.counters(), "trimmed", "trimmed_foreign")
    )
    after, inclusive = "-", True
    while True:
        if inclusive:
            entries = parse_entries(await server.call("XRANGE", partition.stream(), "-", "+", "COUNT", _AT_ONCE))
        else:
            entries = await read_after(server, partition, after, inclusive=False, most=_AT_ONCE)
        if inclusive and trimmed:
            # Where nothing is left, everything was trimmed that is older than now.
            seconds, _ = await server.call("TIME")
            holdings.oldest_us[number] = oldest_us(entries[0].entry_id if entries else f"{int(seconds) * 1_000}-0")
        for entry in entries:
            _note(holdings, number, entry, owners)
        if len(entries) < _AT_ONCE:
            return
        after, inclusive = entries[-1].entry_id, False


def _note(holdings: Holdings, number: int, entry: StoredEntry, owners: Collection[tuple[str, int]]) -> None:
    if (entry_producer(entry.fields) or entry.entry_id, number) in owners:
        holdings.add(number, entry)


async def _nothing() -> AsyncIterable[tuple[int, StoredEntry]]:
    return
    yield
