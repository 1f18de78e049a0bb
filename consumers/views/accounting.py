"""Accounts: for every declared unit, what entered, what became of it, and what is still to be read.

Keeps: `outstanding` is counted from the unread entries, never found by subtraction; so the identity can fail, and tells
when it does.
"""

from typing import Final

from msgspec import Struct

from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.scripting import script

MOST_ENTRIES: Final = 2_000
"""Unread entries counted a unit; beyond it an account says "at least"."""


class UnitAccount(Struct, frozen=True):
    """One unit's account, all at one moment; events, where nothing else is said.

    `appended` and `lost` are of the partition since its beginning, `base` what was appended before it was declared.
    `foreign` counts what came by a bare XADD, committed or outstanding. `lag` is in entries, None where Redis does not
    know. `since_ms` and `at_ms` are broker times of the first event it can know of and of its last commit.
    """

    handler: str
    version: int
    kind: str
    partition: int
    cursor_id: str
    cursor_index: int
    appended: int
    lost: int
    base: int
    foreign: int
    committed: int
    known: int
    dead: int
    skipped: int
    expired: int
    outstanding: int
    outstanding_at_least: bool
    lag: int | None
    since_ms: int
    at_ms: int
    recipe: str

    def balance(self) -> int:
        """Return the events that entered and are nowhere; negative if more is counted than entered, 0 if well."""
        entered = self.appended + self.foreign - self.base
        return entered - (self.committed + self.known + self.dead + self.skipped + self.outstanding)


async def read_unit_accounts(
    server: AsyncServer, keys: Keys, partitions: int, most_entries: int = MOST_ENTRIES
) -> list[UnitAccount]:
    """Read the account of every declared unit.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: list[UnitAccount] = []
    for number in range(partitions):
        declared = _pairs(await server.call("HGETALL", keys.partition(number).handlers()))
        lags = await _lags(server, keys, number) if declared else {}
        for name, kind in sorted(declared.items()):
            version, _, handler = name.partition(":")
            row = _Declared(number, handler, int(version.removeprefix("v")), kind, lags.get(name))
            account = await _account(server, keys, row, most_entries)
            if account is not None:
                found.append(account)
    return found


class _Declared(Struct, frozen=True):
    """A declared unit, and what its group's lag is."""

    partition: int
    handler: str
    version: int
    kind: str
    lag: int | None


async def _account(server: AsyncServer, keys: Keys, row: _Declared, most: int) -> UnitAccount | None:
    partition = keys.partition(row.partition)
    unit = partition.unit(row.handler, row.version)
    names = [partition.stream(), unit.cursor(), partition.counters()]
    raw_cursor, raw_counters, fenced, foreign, more = await server.run(script("account"), names, [most])
    cursor, counters = _pairs(raw_cursor), _pairs(raw_counters)
    if not cursor:
        return None
    return UnitAccount(
        handler=row.handler,
        version=row.version,
        kind=row.kind,
        partition=row.partition,
        cursor_id=cursor["id"],
        cursor_index=int(cursor["index"]),
        appended=int(counters.get("appended", 0)),
        lost=int(counters.get("lost", 0)),
        base=int(cursor["base"]),
        foreign=int(cursor["foreign"]) + foreign,
        committed=int(cursor["committed"]),
        known=int(cursor["known"]),
        dead=int(cursor["dead"]),
        skipped=int(cursor["skipped"]),
        expired=int(cursor["expired"]),
        outstanding=fenced + foreign,
        outstanding_at_least=bool(more),
        lag=row.lag,
        since_ms=int(cursor["since"]),
        at_ms=int(cursor["at"]),
        recipe=cursor["recipe"],
    )


async def _lags(server: AsyncServer, keys: Keys, number: int) -> dict[str, int | None]:
    stream = keys.partition(number).stream()
    if not await server.call("EXISTS", stream):
        return {}
    groups = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in await server.call("XINFO", "GROUPS", stream)]
    return {group[b"name"].decode(): group[b"lag"] for group in groups}


def _pairs(flat: list[bytes]) -> dict[str, str]:
    texts = [part.decode() for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
