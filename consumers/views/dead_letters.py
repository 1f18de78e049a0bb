"""Reads dead letters: the events a handler could not fold, where they lie, and why."""

from collections.abc import Sequence

from msgspec import Struct

from pipeline.connection import AsyncServer
from pipeline.keys import LIVE_VERSION, Keys


class StoredLetter(Struct, frozen=True):
    """One dead letter as it lies in Redis.

    `letter_id` is its own id, `entry_id` and `index` the event's place (-1: the whole entry), `events` what it counts.
    """

    handler: str
    partition: int
    letter_id: str
    entry_id: str
    index: int
    events: int
    code: str
    reason: str
    raw: bytes


async def read_dead_letters(
    server: AsyncServer, keys: Keys, partitions: int, *, handler: str | None = None, most: int = 100
) -> list[StoredLetter]:
    """Return up to `most` dead letters a unit, newest first.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: list[StoredLetter] = []
    for number in range(partitions):
        for name in await _handlers(server, keys, number):
            if handler in {None, name}:
                unit = keys.partition(number).unit(name, LIVE_VERSION)
                rows = await server.call("XREVRANGE", unit.dead_letters(), "+", "-", "COUNT", most)
                found += [_letter(name, number, row[0], row[1]) for row in rows]
    return sorted(found, key=lambda letter: _order(letter.letter_id), reverse=True)


async def find_dead_letter(server: AsyncServer, keys: Keys, partitions: int, letter_id: str) -> list[StoredLetter]:
    """Return the dead letters with this id: one, unless two units made one in the same millisecond.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: list[StoredLetter] = []
    for number in range(partitions):
        for name in await _handlers(server, keys, number):
            unit = keys.partition(number).unit(name, LIVE_VERSION)
            rows = await server.call("XRANGE", unit.dead_letters(), letter_id, letter_id)
            found += [_letter(name, number, row[0], row[1]) for row in rows]
    return found


async def declared_handlers(server: AsyncServer, keys: Keys, partitions: int) -> list[str]:
    """Return the handlers that have run here, in any partition.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    return sorted({name for number in range(partitions) for name in await _handlers(server, keys, number)})


async def _handlers(server: AsyncServer, keys: Keys, number: int) -> list[str]:
    names = await server.call("HKEYS", keys.partition(number).handlers())
    prefix = f"v{LIVE_VERSION}:"
    return sorted(name.decode().removeprefix(prefix) for name in names if name.decode().startswith(prefix))


def _letter(handler: str, partition: int, letter_id: bytes, flat: Sequence[bytes]) -> StoredLetter:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return StoredLetter(
        handler=handler,
        partition=partition,
        letter_id=letter_id.decode(),
        entry_id=fields[b"entry"].decode(),
        index=int(fields[b"index"]),
        events=int(fields[b"events"]),
        code=fields[b"code"].decode(),
        reason=fields[b"reason"].decode(errors="replace"),
        raw=fields[b"raw"],
    )


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
