"""Accounts: where every unit stands, and whether every event that entered its partition has a place.

Keeps:
- One account is of one instant: a script reads cursor, counters and unread entries together.
- `outstanding` is counted from the unread entries; reckoned from the counters, the identity could never be broken.
"""

from collections.abc import Sequence
from typing import Final, cast

from msgspec import Struct

from pipeline.connection import AsyncServer, Reply
from pipeline.keys import LIVE_VERSION, Keys, PartitionKeys
from pipeline.scripting import script

MOST_ENTRIES: Final = 1_000
"""Unread entries that are counted; beyond it the count is "at least"."""

MOST_BYTES: Final = 8 << 20
"""Bytes of unread entries that are looked through: 5-15 ms of the server's time."""


class UnitAccount(Struct, frozen=True):
    """One unit (a handler, a version of its state, a partition) at the broker's time `now_ms`.

    Counts are of events since the beginning, except `entries` and `frames`. `lag` is what the consumer group says, in
    entries; None is unknown. `outstanding_at_least` says that there is more than was counted.
    """

    handler: str
    version: int
    partition: int
    kind: str
    declared: bool
    """Whether there is a cursor; where there is none, everything in the stream is outstanding."""
    cursor_id: str
    cursor_index: int
    done: str
    recipe: str
    since_ms: int
    """Complete since: entries appended before had been trimmed when the unit was declared; 0 is the very beginning."""
    at_ms: int
    """Time of the last commit."""
    now_ms: int
    committed_to_ms: int
    """Everything appended before has been committed: the time of the oldest unread entry, `now_ms` without one."""
    base: int
    entries: int
    committed: int
    known: int
    foreign: int
    dead: int
    skipped: int
    expired: int
    """Increments left out of a window that had already expired."""
    appended: int
    frames: int
    lost: int
    trimmed: int
    outstanding: int
    outstanding_foreign: int
    outstanding_entries: int
    outstanding_at_least: bool
    dead_letters: int
    lag: int | None

    def balance(self) -> int:
        """Return the events that entered less those that have a place: 0, or something is wrong.

        Positive: events vanished. Negative: events were counted twice. It says nothing where the count of
        `outstanding` was cut short.
        """
        entered = self.appended + self.foreign + self.outstanding_foreign - self.base
        return entered - (self.committed + self.known + self.dead + self.skipped + self.outstanding)


async def read_unit_accounts(server: AsyncServer, keys: Keys, partitions: int) -> list[UnitAccount]:
    """Read the account of every declared unit, in the order of partition, version and handler.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    declared = await server.all([["HGETALL", keys.partition(number).handlers()] for number in range(partitions)])
    found: list[UnitAccount] = []
    for number, flat in enumerate(declared):
        for (version, handler), kind in sorted(_parse_declared(flat).items()):
            found.append(await read_unit_account(server, keys.partition(number), handler, version=version, kind=kind))
    return found


async def read_unit_account(
    server: AsyncServer, partition: PartitionKeys, handler: str, *, version: int = LIVE_VERSION, kind: str = "fold"
) -> UnitAccount:
    """Read the account of one unit, whether it has been declared or not.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    unit = partition.unit(handler, version)
    keys = [partition.stream(), unit.cursor(), partition.counters(), unit.dead_letters()]
    reply = await server.run(script("account"), keys, [unit.name, MOST_ENTRIES, MOST_BYTES])
    return _parse_account(reply, handler, version, partition.number, kind)


def _parse_declared(flat: Sequence[bytes]) -> dict[tuple[int, str], str]:
    units: dict[tuple[int, str], str] = {}
    for name, kind in zip(flat[::2], flat[1::2], strict=True):
        version, _, handler = name.decode().partition(":")
        units[int(version.removeprefix("v")), handler] = kind.decode()
    return units


def _parse_account(reply: Reply, handler: str, version: int, partition: int, kind: str) -> UnitAccount:
    now, cursor_flat, counters_flat, dead_letters, lag, entries, events, foreign, bounded, oldest = reply
    cursor, counters = _fields(cursor_flat), _fields(counters_flat)
    now_ms = int(now)
    return UnitAccount(
        handler=handler,
        version=version,
        partition=partition,
        kind=kind,
        declared=bool(cursor),
        cursor_id=cursor.get("id", "0-0"),
        cursor_index=int(cursor.get("index", 0)),
        done=cursor.get("done", "0-0"),
        recipe=cursor.get("recipe", ""),
        since_ms=int(cursor.get("since", 0)),
        at_ms=int(cursor.get("at", 0)),
        now_ms=now_ms,
        committed_to_ms=int(oldest.partition(b"-")[0]) if oldest else now_ms,
        base=int(cursor.get("base", 0)),
        entries=int(cursor.get("entries", 0)),
        committed=int(cursor.get("committed", 0)),
        known=int(cursor.get("known", 0)),
        foreign=int(cursor.get("foreign", 0)),
        dead=int(cursor.get("dead", 0)),
        skipped=int(cursor.get("skipped", 0)),
        expired=int(cursor.get("expired", 0)),
        appended=int(counters.get("appended", 0)),
        frames=int(counters.get("frames", 0)),
        lost=int(counters.get("lost", 0)),
        trimmed=int(counters.get("trimmed", 0)),
        outstanding=int(events),
        outstanding_foreign=int(foreign),
        outstanding_entries=int(entries),
        outstanding_at_least=bool(bounded),
        dead_letters=int(dead_letters),
        lag=None if lag is None else int(lag),
    )


def _fields(flat: Reply) -> dict[str, str]:
    parts = [part.decode() for part in cast("list[bytes]", flat)]
    return dict(zip(parts[::2], parts[1::2], strict=True))
