"""Reads dead letters: the events a handler could not fold, where they lie, and why."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from msgspec import Struct

from consumers.letters import DeadLetter
from consumers.views.accounting import handler_name
from pipeline.connection import AsyncServer
from pipeline.keys import LIVE_VERSION, Keys

_PAGE: Final = 200
"""Letters of one read: at most 13 MB of bodies."""


class StoredLetter(Struct, frozen=True):
    """One dead letter as it lies in Redis, in which handler's and partition's dead letters, under its own id."""

    handler: str
    partition: int
    letter_id: str
    letter: DeadLetter
    version: int = LIVE_VERSION
    """Of the state whose handler could not take it."""

    @property
    def unit(self) -> str:
        """Its handler, with the version where that is not the first."""
        return handler_name(self.handler, self.version)


async def read_dead_letters(
    server: AsyncServer, keys: Keys, partitions: int, *, handler: str | None = None, most: int = 100
) -> list[StoredLetter]:
    """Return up to `most` dead letters a unit, newest first.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: list[StoredLetter] = []
    for number in range(partitions):
        for name, version in await _handlers(server, keys, number):
            if handler in {None, name}:
                unit = keys.partition(number).unit(name, version)
                rows = await server.call("XREVRANGE", unit.dead_letters(), "+", "-", "COUNT", most)
                found += [_letter((name, version), number, row[0], row[1]) for row in rows]
    return sorted(found, key=lambda letter: _order(letter.letter_id), reverse=True)


async def find_dead_letter(server: AsyncServer, keys: Keys, partitions: int, letter_id: str) -> list[StoredLetter]:
    """Return the dead letters with this id: one, unless two units made one in the same millisecond.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: list[StoredLetter] = []
    for number in range(partitions):
        for name, version in await _handlers(server, keys, number):
            unit = keys.partition(number).unit(name, version)
            rows = await server.call("XRANGE", unit.dead_letters(), letter_id, letter_id)
            found += [_letter((name, version), number, row[0], row[1]) for row in rows]
    return found


class Wanted(Struct, frozen=True):
    """Which dead letters are meant: all that fit every condition given."""

    ids: frozenset[str] = frozenset()
    handler: str | None = None
    code: str | None = None
    before_ms: int | None = None
    """Set aside before this instant of the broker's (ms since 1970)."""

    def fits(self, stored: StoredLetter) -> bool:
        """Tell whether a letter is meant."""
        return (
            (not self.ids or stored.letter_id in self.ids)
            and self.handler in {None, stored.handler}
            and self.code in {None, stored.letter.code}
            and (self.before_ms is None or _order(stored.letter_id)[0] < self.before_ms)
        )


async def select_dead_letters(
    server: AsyncServer, keys: Keys, partitions: int, wanted: Wanted
) -> AsyncIterator[list[StoredLetter]]:
    """Give the dead letters that are meant, a page of one unit at a time, oldest first.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    for number in range(partitions):
        for name, version in await _handlers(server, keys, number):
            if wanted.handler not in {None, name}:
                continue
            unit = keys.partition(number).unit(name, version)
            after = "-"
            while rows := await server.call("XRANGE", unit.dead_letters(), after, "+", "COUNT", _PAGE):
                page = [_letter((name, version), number, row[0], row[1]) for row in rows]
                after = f"({page[-1].letter_id}"
                if some := [stored for stored in page if wanted.fits(stored)]:
                    yield some


async def declared_handlers(server: AsyncServer, keys: Keys, partitions: int) -> list[str]:
    """Return the handlers that have run here, in any partition.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    return sorted({name for number in range(partitions) for name, _ in await _handlers(server, keys, number)})


async def _handlers(server: AsyncServer, keys: Keys, number: int) -> list[tuple[str, int]]:
    """Return what is declared in a partition, as handler and version."""
    names = await server.call("HKEYS", keys.partition(number).handlers())
    units = [name.decode().partition(":") for name in names]
    return sorted((handler, int(version.removeprefix("v"))) for version, _, handler in units)


def _letter(unit: tuple[str, int], partition: int, letter_id: bytes, flat: Sequence[bytes]) -> StoredLetter:
    handler, version = unit
    return StoredLetter(handler, partition, letter_id.decode(), parse_letter(flat), version)


def parse_letter(flat: Sequence[bytes]) -> DeadLetter:
    """Read the fields of a dead letter."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return DeadLetter(
        entry_id=fields[b"entry"].decode(),
        index=int(fields[b"index"]),
        events=int(fields[b"events"]),
        code=fields[b"code"].decode(errors="replace"),
        reason=fields[b"reason"].decode(errors="replace"),
        producer=fields.get(b"producer", b"").decode(errors="replace"),
        first_seq=int(fields.get(b"first", b"0")),
        codec=fields.get(b"codec", b"").decode(errors="replace"),
        body=fields.get(b"body", b""),
    )


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
