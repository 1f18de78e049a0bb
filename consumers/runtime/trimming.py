"""Trims streams: the typed face of the trim script.

Keeps: what may go is decided in the partition's slot, from what is declared there; what a worker believes counts not.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from pipeline.connection import Arg, AsyncServer
from pipeline.errors import RefusedError, UnavailableError
from pipeline.keys import PartitionKeys
from pipeline.scripting import script

MOST_ENTRIES: Final = 1_000
"""Entries of one call: of small ones 4-5 ms of the server's time, as one commit takes."""

MOST_BYTES: Final = 2 << 20
"""Bytes of the entries of one call: of full frames 2-5 ms, by server. The entry that passes it still goes."""

_TRIES: Final = 3
"""Units are declared when workers first start or a replay begins: not between each look and its call."""


class Retention(Struct, frozen=True):
    """What stays in a stream though every fold handler has taken it.

    Everything younger than `kept_ms`, and what a sink has not taken while that is younger than `sink_ms` and takes at
    most `sink_bytes` of the partition's stream; what an archive has not taken likewise. With `relief` (1: memory is
    short) not what a replay has still to take.
    """

    kept_ms: int
    sink_ms: int
    sink_bytes: int
    archive_ms: int = 0
    archive_bytes: int = 0
    relief: int = 0


class Trimmed(Struct, frozen=True):
    """What one call did; `skipped` are events that a sink was passed by, `more` says that a bound ended the call."""

    entries: int = 0
    events: int = 0
    foreign: int = 0
    more: bool = False
    skipped: Mapping[str, int] = {}


async def trim(
    server: AsyncServer,
    partition: PartitionKeys,
    retention: Retention,
    *,
    most_entries: int = MOST_ENTRIES,
    most_bytes: int = MOST_BYTES,
) -> Trimmed:
    """Delete the oldest entries of a partition that nobody needs any more, a bounded number.

    Raises:
        RefusedError: A key of the partition holds something else than it should; nothing was changed.
        SidestreamError: See `AsyncServer.call`.
    """
    budget: list[Arg] = [*msgspec.structs.astuple(retention), most_entries, most_bytes]
    for _ in range(_TRIES):
        names = [name.decode() for name in await server.call("HKEYS", partition.handlers())]
        cursors = [partition.named_unit(name).cursor() for name in names]
        keys = [partition.stream(), partition.counters(), partition.handlers(), *cursors]
        reply = cast("list[Any]", await server.run(script("trim"), keys, [*budget, *names]))
        if reply[0] == b"BAD":
            raise RefusedError(
                f"partition {partition.number} is not trimmed: {reply[1].decode()} is not as it should be"
            )
        if reply[0] == b"OK":
            return _parse(reply[1:])
    raise UnavailableError(f"partition {partition.number} is not trimmed: its handlers change all the time")


def _parse(reply: Sequence[Any]) -> Trimmed:
    entries, events, foreign, more, *skipped = reply
    return Trimmed(
        entries=int(entries),
        events=int(events),
        foreign=int(foreign),
        more=bool(more),
        skipped={name.decode(): int(count) for name, count in zip(skipped[::2], skipped[1::2], strict=True)},
    )
