"""Takes away what is no longer wanted: one handler's state, or all keys of a namespace; says first what would go.

Keeps:
- A unit that a worker holds is never retired, and state is never deleted under a cursor.
- A hold ends at once in each partition; what is deleted after it goes in bounded steps, and can be gone on with.
- Only keys of the namespace are ever touched, also where another's name begins alike.
"""

import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import cast

import anyio

from consumers.keyspace import in_steps, raw, scan, unlink
from consumers.runtime.lease import LEASE_TTL_MS, RENEW_S
from pipeline.connection import AsyncServer
from pipeline.errors import PermanentError
from pipeline.keys import Keys, UnitKeys, kind_of
from pipeline.scripting import script


class HeldError(PermanentError):
    """Somebody still works on what should be taken away."""

    code = "held"


@dataclass(slots=True)
class Kind:
    """How many keys hold one kind of thing, and about how many bytes of the server's memory."""

    keys: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Survey:
    """What is there, by kind."""

    kinds: dict[str, Kind] = field(default_factory=dict[str, Kind])

    @property
    def keys(self) -> int:
        """All keys."""
        return sum(kind.keys for kind in self.kinds.values())

    @property
    def bytes(self) -> int:
        """All bytes."""
        return sum(kind.bytes for kind in self.kinds.values())

    def add(self, key: str, size_bytes: int) -> None:
        """Count one key."""
        kind = self.kinds.setdefault(kind_of(key), Kind())
        kind.keys += 1
        kind.bytes += size_bytes


async def survey_unit(server: AsyncServer, keys: Keys, partitions: int, unit: str) -> Survey:
    """Look at everything that a unit (`v<version>:<handler>`) has, in all partitions.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    return await _survey(server, keys.unit_pattern(unit), _owned_by(_units(keys, partitions, unit)))


async def survey_namespace(server: AsyncServer, keys: Keys) -> Survey:
    """Look at everything that a namespace has.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    return await _survey(server, keys.pattern(), keys.owns)


async def holders(server: AsyncServer, keys: Keys, partitions: int, unit: str) -> list[str]:
    """Return the workers that hold a lease of a unit, or are alive and run it.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    owners = await server.all([["GET", one.lease()] for one in _units(keys, partitions, unit)])
    running = await _alive(server, keys.workers_of(unit))
    return sorted({owner.decode() for owner in owners if owner} | set(running))


async def workers_alive(server: AsyncServer, keys: Keys) -> list[str]:
    """Return the workers of a namespace that are alive.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    return await _alive(server, keys.workers())


async def retire(server: AsyncServer, keys: Keys, partitions: int, unit: str) -> int:
    """End the hold of a unit in all partitions and delete its state; return how many keys went.

    Raises:
        HeldError: A worker holds it or runs it, or began it anew meanwhile.
        SidestreamError: See `AsyncServer.call`; called again, it goes on.
    """
    if found := await holders(server, keys, partitions, unit):
        raise HeldError(f"{unit} is held by {', '.join(found)}: stop that first")
    units = _units(keys, partitions, unit)
    leases = _Leases(server, units)
    gone = 0
    try:
        # All of them before anything goes.
        await leases.take()
        for number, one in enumerate(units):
            partition = keys.partition(number)
            wanted = [partition.stream(), partition.handlers(), one.cursor(), one.recipes(), one.lease()]
            answer, *rest = await server.run(script("retire"), wanted, [unit, leases.owner])
            if answer != b"OK":
                raise HeldError(f"{unit}, partition {number}, was taken meanwhile: {rest[0].decode() or 'by somebody'}")
            gone += int(rest[0])
            await leases.renew()
        async for some in scan(server, keys.unit_pattern(unit), _owned_by(units)):
            gone += await _sweep(server, units, some)
            await leases.renew()
    finally:
        with anyio.CancelScope(shield=True):
            await leases.hand_back()
    return gone


async def purge(server: AsyncServer, keys: Keys) -> int:
    """Delete every key of a namespace, in bounded steps; return how many went.

    Raises:
        SidestreamError: See `AsyncServer.call`; called again, it goes on.
    """
    gone = 0
    async for some in scan(server, keys.pattern(), keys.owns):
        gone += await unlink(server, some)
    return gone


def _units(keys: Keys, partitions: int, unit: str) -> list[UnitKeys]:
    return [keys.partition(number).named_unit(unit) for number in range(partitions)]


def _owned_by(units: Collection[UnitKeys]) -> Callable[[str], bool]:
    return lambda key: any(unit.owns(key) for unit in units)


async def _alive(server: AsyncServer, index: str) -> list[str]:
    seconds, microseconds = await server.call("TIME")
    now_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
    return sorted(name.decode() for name in await server.call("ZRANGEBYSCORE", index, now_ms, "+inf"))


async def _survey(server: AsyncServer, pattern: str, owns: Callable[[str], bool]) -> Survey:
    found = Survey()
    seen: set[str] = set()
    async for some in scan(server, pattern, owns):
        # SCAN may show a key twice.
        new = [key for key in some if key not in seen]
        seen.update(new)
        sizes = await server.all([["MEMORY", "USAGE", raw(key)] for key in new])
        for key, size_bytes in zip(new, sizes, strict=True):
            found.add(key, int(size_bytes or 0))
    return found


async def _sweep(server: AsyncServer, units: Sequence[UnitKeys], some: Sequence[str]) -> int:
    gone = 0
    for unit in units:
        mine = [key for key in some if unit.owns(key) and key != unit.lease()]
        for step in in_steps(mine):
            # The keys are those that the server has just named: whatever they are called, they are of this unit.
            wanted = [unit.cursor(), *map(raw, step)]
            answer, *rest = await server.run(script("sweep"), cast("list[str]", wanted), [])
            if answer != b"OK":
                raise HeldError(f"{unit.name} has been begun anew: stop what runs it, then retire it again")
            gone += int(rest[0])
    return gone


class _Leases:
    """Holds the leases of units, so that no worker begins them anew meanwhile."""

    def __init__(self, server: AsyncServer, units: Sequence[UnitKeys]) -> None:
        self.owner = f"retire:{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"
        self._server = server
        self._units = units
        self._taken_s = 0.0

    async def take(self) -> None:
        self._taken_s = time.monotonic()
        for unit in self._units:
            holder = await self._server.run(script("lease"), [unit.lease()], [self.owner, LEASE_TTL_MS])
            if holder.decode() != self.owner:
                raise HeldError(f"{unit.name} is held by {holder.decode()}: stop that first")

    async def renew(self) -> None:
        if time.monotonic() - self._taken_s >= RENEW_S:
            await self.take()

    async def hand_back(self) -> None:
        for unit in self._units:
            await self._server.run(script("lease"), [unit.lease()], [self.owner, 0])
