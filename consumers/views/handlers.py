"""Handlers: what each has declared, how far it has come, and how much of the stream it holds."""

from collections.abc import Sequence

from msgspec import Struct

from consumers.views.accounting import UnitAccount, read_unit_accounts
from pipeline.connection import AsyncServer, Command
from pipeline.keys import Keys


class HandlerHold(Struct, frozen=True):
    """One handler of one version, over all partitions; times are the broker's, in ms.

    It holds the entries that it has not taken whole: those of a `fold` stay, those of a `sink` within its budget.
    """

    handler: str
    version: int
    kind: str
    partitions: int
    """In how many it is declared."""
    declared_ms: int
    """When it was first declared."""
    since_ms: int
    """Complete since, in every partition; 0 is the very beginning."""
    lag: int | None
    """Entries that it has not taken whole, as its consumer groups say; None where one of them does not know."""
    entries: int
    bytes: int
    """Of the server's memory, by the mean of the stream's entries."""
    oldest_ms: int | None
    """When the oldest of them was appended; None where it holds none."""
    skipped: int
    """Events that it was passed by, for it was too far behind."""
    still_ms: int
    """How long a cursor of it has stood still while entries waited."""


async def read_handlers(server: AsyncServer, keys: Keys, partitions: int) -> list[HandlerHold]:
    """Read what every declared handler holds, by name and version.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    accounts = await read_unit_accounts(server, keys, partitions)
    streams = {number: await _read_stream(server, keys, number) for number in {row.partition for row in accounts}}
    found: dict[tuple[str, int], list[UnitAccount]] = {}
    for account in accounts:
        found.setdefault((account.handler, account.version), []).append(account)
    return [_hold(found[name], [streams[row.partition] for row in found[name]]) for name in sorted(found)]


class _Stream(Struct, frozen=True):
    length: int
    added: int
    bytes: int


async def _read_stream(server: AsyncServer, keys: Keys, number: int) -> _Stream:
    stream = keys.partition(number).stream()
    if not await server.call("EXISTS", stream):
        return _Stream(0, 0, 0)
    commands: list[Command] = [["XINFO", "STREAM", stream], ["MEMORY", "USAGE", stream]]
    flat, used = await server.all(commands)
    facts = dict(zip(flat[::2], flat[1::2], strict=True))
    return _Stream(int(facts[b"length"]), int(facts[b"entries-added"]), int(used or 0))


def _hold(accounts: Sequence[UnitAccount], streams: Sequence[_Stream]) -> HandlerHold:
    first = accounts[0]
    held = [_entries(account, stream) for account, stream in zip(accounts, streams, strict=True)]
    sizes = [
        stream.bytes * entries // stream.length if stream.length else 0
        for entries, stream in zip(held, streams, strict=True)
    ]
    lags = [account.lag for account in accounts if account.lag is not None]
    return HandlerHold(
        handler=first.handler,
        version=first.version,
        kind=first.kind,
        partitions=len(accounts),
        declared_ms=min(account.declared_ms for account in accounts),
        since_ms=max(account.since_ms for account in accounts),
        lag=sum(lags) if len(lags) == len(accounts) else None,
        entries=sum(held),
        bytes=sum(sizes),
        oldest_ms=min((account.committed_to_ms for account in accounts if account.outstanding_entries), default=None),
        skipped=sum(account.skipped for account in accounts),
        still_ms=max(account.stood_still_ms() for account in accounts),
    )


def _entries(account: UnitAccount, stream: _Stream) -> int:
    """Return how many entries a unit has not taken whole: counted, or reckoned where they are too many to count."""
    if not account.outstanding_at_least:
        return account.outstanding_entries
    return max(account.outstanding_entries, min(stream.length, stream.added - account.entries))
