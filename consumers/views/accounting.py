"""Accounts: where every unit stands, and whether every event that entered its partition has a place.

Keeps:
- One account is of one instant: a script reads cursor, counters and unread entries together.
- `outstanding` is counted from the unread entries; reckoned from the counters, the identity could never be broken.
"""

from collections.abc import Sequence
from typing import Final, cast

from msgspec import Struct

from pipeline.connection import AsyncServer, Reply
from pipeline.errors import RefusedError
from pipeline.keys import LIVE_VERSION, Keys, PartitionKeys
from pipeline.scripting import script

MOST_ENTRIES: Final = 1_000
"""Unread entries that are counted; beyond it the count is "at least"."""

MOST_BYTES: Final = 8 << 20
"""Bytes of unread entries that are looked through: 5-15 ms of the server's time."""

STOOD_STILL_MS: Final = 24 * 3_600_000
"""A handler that takes nothing for a day while entries wait is dead, and holds the stream: somebody must look."""


def stood_still_ms(now_ms: int, at_ms: int, oldest_ms: int) -> int:
    """Return how long a cursor has stood still while entries waited.

    Args:
        now_ms: The broker's time.
        at_ms: That of the cursor's last move.
        oldest_ms: That of the oldest entry which it has not taken whole; `now_ms` where there is none.
    """
    return max(0, now_ms - max(at_ms, oldest_ms))


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
    declared_ms: int
    """When the unit was declared."""
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
    """Appended events that are no longer in the stream."""
    trimmed_foreign: int
    """Foreign ones."""
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

    def stood_still_ms(self) -> int:
        """Return how long the cursor has stood still while entries waited; 0 where it never began."""
        return stood_still_ms(self.now_ms, self.at_ms, self.committed_to_ms) if self.declared else 0


def handler_name(handler: str, version: int) -> str:
    """Return a handler's name, with the version of its state where it is not the live one."""
    return handler if version == LIVE_VERSION else f"{handler} v{version}"


async def read_unit_accounts(
    server: AsyncServer, keys: Keys, partitions: int, unreadable: dict[str, str] | None = None
) -> list[UnitAccount]:
    """Read the account of every declared unit, in the order of partition, version and handler.

    Args:
        server: Where.
        keys: The namespace's.
        partitions: How many it has.
        unreadable: Where it is given, a unit whose account is refused (a key that somebody has overwritten) is put
            here, with the reason, and the others are read all the same.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    declared = await server.all([["HGETALL", keys.partition(number).handlers()] for number in range(partitions)])
    found: list[UnitAccount] = []
    for number, flat in enumerate(declared):
        for (version, handler), kind in sorted(_parse_declared(flat).items()):
            try:
                account = await read_unit_account(server, keys.partition(number), handler, version=version, kind=kind)
            except RefusedError as error:
                if unreadable is None:
                    raise
                unreadable[f"{handler} v{version}, partition {number}"] = str(error)
            else:
                found.append(account)
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
        declared_ms=int(cursor.get("declared", 0)),
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
        trimmed_foreign=int(counters.get("trimmed_foreign", 0)),
        outstanding=int(events),
        outstanding_foreign=int(foreign),
        outstanding_entries=int(entries),
        outstanding_at_least=bool(bounded),
        dead_letters=int(dead_letters),
        # Below 0 the group says that it has read more than ever was: somebody has deleted the stream.
        lag=None if lag is None or int(lag) < 0 else int(lag),
    )


def _fields(flat: Reply) -> dict[str, str]:
    parts = [part.decode() for part in cast("list[bytes]", flat)]
    return dict(zip(parts[::2], parts[1::2], strict=True))
