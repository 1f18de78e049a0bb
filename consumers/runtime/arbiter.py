"""Keeps a worker's leases: says that it is alive, renews, takes and hands back (`lease.decide` says what)."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from consumers.runtime.lease import LEASE_TTL_MS, LeaseView, decide
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.scripting import script

Wanted: TypeAlias = Mapping[str, Sequence[str]]
"""What a worker runs: handler or periodic task -> the keys of its leases."""


class Arbiter:
    """One worker's hold on leases; `held` are the keys that it may work on, shared fairly with who runs the same."""

    def __init__(self, server: AsyncServer, keys: Keys, worker: str) -> None:
        self.worker = worker
        self.held: frozenset[str] = frozenset()
        self._handlers: list[str] = []
        self._server = server
        self._keys = keys

    async def renew(self, wanted: Wanted, presence: Mapping[str, str]) -> None:
        """Refresh this worker's presence and its leases.

        Raises:
            SidestreamError: Redis is away; what is held stays held until it says otherwise.
        """
        self._handlers = list(wanted)
        alive = await self._announce(LEASE_TTL_MS, presence)
        held: set[str] = set()
        surplus: list[str] = []
        for handler, lease_keys in wanted.items():
            replies = await self._server.all([["GET", key] for key in lease_keys])
            owners = [(owner or b"").decode() for owner in replies]
            plan = decide(LeaseView(self.worker, handler, owners, alive[handler]))
            held.update([lease_keys[n] for n in plan.take if await self._take(lease_keys[n])])
            surplus += [lease_keys[n] for n in plan.hand_back]
        self.held = frozenset(held)
        for key in surplus:
            await self.hand_back(key)

    async def hand_back(self, key: str) -> None:
        """Let another worker take this lease at once.

        Raises:
            SidestreamError: Redis is away; the lease ends by itself.
        """
        self.held -= {key}
        await self._server.run(script("lease"), [key], [self.worker, 0])

    async def leave(self) -> None:
        """Hand everything back and say goodbye.

        Raises:
            SidestreamError: Redis is away; the leases end by themselves.
        """
        for key in sorted(self.held):
            await self.hand_back(key)
        await self._announce(0, {})

    async def _take(self, key: str) -> bool:
        owner = await self._server.run(script("lease"), [key], [self.worker, LEASE_TTL_MS])
        return owner.decode() == self.worker

    async def _announce(self, ttl_ms: int, presence: Mapping[str, str]) -> dict[str, list[str]]:
        flat = [part for item in presence.items() for part in item]
        indexes = [self._keys.workers_of(handler) for handler in self._handlers]
        keys = [self._keys.worker(self.worker), self._keys.workers(), *indexes]
        _, *alive = await self._server.run(script("worker"), keys, [self.worker, ttl_ms, *flat])
        return {
            handler: [name.decode() for name in names] for handler, names in zip(self._handlers, alive, strict=True)
        }
