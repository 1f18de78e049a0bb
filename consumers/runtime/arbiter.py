"""Keeps a worker's leases: says that it is alive, renews, takes and hands back (`lease.decide` says what)."""

from collections.abc import Mapping, Sequence

from consumers.runtime.lease import LEASE_TTL_MS, LeaseView, decide
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.scripting import script


class Arbiter:
    """One worker's hold on a list of leases (by key); `held` are the keys that it may work on."""

    def __init__(self, server: AsyncServer, keys: Keys, worker: str, lease_keys: Sequence[str]) -> None:
        self.worker = worker
        self.held: frozenset[str] = frozenset()
        self.lease_keys = list(lease_keys)
        self._server = server
        self._keys = keys

    async def renew(self, record: Mapping[str, str]) -> None:
        """Refresh this worker's presence (`record`) and its leases.

        Raises:
            SidestreamError: Redis is away; what is held stays held until it says otherwise.
        """
        alive = await self._announce(LEASE_TTL_MS, record)
        replies = await self._server.all([["GET", key] for key in self.lease_keys])
        owners = [(owner or b"").decode() for owner in replies]
        plan = decide(LeaseView(self.worker, owners, alive))
        held: set[str] = set()
        for position in plan.take:
            key = self.lease_keys[position]
            owner = await self._server.run(script("lease"), [key], [self.worker, LEASE_TTL_MS])
            if owner.decode() == self.worker:
                held.add(key)
        self.held = frozenset(held)
        for position in plan.hand_back:
            await self.hand_back(self.lease_keys[position])

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

    async def _announce(self, ttl_ms: int, record: Mapping[str, str]) -> list[str]:
        flat = [part for item in record.items() for part in item]
        keys = [self._keys.workers(), self._keys.worker(self.worker)]
        reply = await self._server.run(script("worker"), keys, [self.worker, ttl_ms, *flat])
        return [name.decode() for name in reply]
