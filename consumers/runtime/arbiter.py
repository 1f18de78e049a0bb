"""Keeps a worker's leases: says that it is alive, renews, takes and hands back (`lease.decide` says what)."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from consumers.runtime.lease import LEASE_TTL_MS, LeaseView, decide
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.scripting import script

Wanted: TypeAlias = Mapping[str, Sequence[str]]
"""What a worker runs: handler or periodic task -> the keys of its leases."""

_Company: TypeAlias = Mapping[str, Sequence[str]]
"""Handler -> those among whom it is shared."""


class Arbiter:
    """One worker's hold on leases; `held` are the keys that it may work on, shared fairly with who runs the same.

    `left` are the keys of units that this worker may not carry; `owners` says who held what at the last renewal.
    """

    def __init__(self, server: AsyncServer, keys: Keys, worker: str) -> None:
        self.worker = worker
        self.held: frozenset[str] = frozenset()
        self.left: frozenset[str] = frozenset()
        self.owners: dict[str, str] = {}
        self._wanted: Wanted = {}
        self._company: _Company | None = None
        self._server = server
        self._keys = keys

    async def renew(self, wanted: Wanted, presence: Mapping[str, str], *, due: bool = True) -> bool:
        """Refresh this worker's presence and its leases; return whether leases were looked at.

        Args:
            wanted: What it runs.
            presence: What it says of itself.
            due: Whether leases must be renewed; else they are looked at only where someone came, left or fell behind.

        Raises:
            SidestreamError: Redis is away; what is held stays held until it says otherwise.
        """
        self._wanted = wanted
        company = await self._announce(LEASE_TTL_MS, presence)
        if not due and company == self._company:
            return False
        held: set[str] = set()
        surplus: list[str] = []
        for handler, lease_keys in wanted.items():
            replies = await self._server.all([["GET", key] for key in lease_keys])
            owners = [(owner or b"").decode() for owner in replies]
            left = frozenset(n for n, key in enumerate(lease_keys) if key in self.left)
            plan = decide(LeaseView(self.worker, handler, owners, company[handler], left))
            self.owners |= dict(zip(lease_keys, owners, strict=True))
            held.update([lease_keys[n] for n in plan.take if await self._take(lease_keys[n])])
            surplus += [lease_keys[n] for n in plan.hand_back]
        self.held = frozenset(held)
        for key in surplus:
            await self.hand_back(key)
        self._company = company
        return True

    def leave_to_others(self, key: str) -> None:
        """Carry this unit no longer: its lease is handed back at the next renewal."""
        self.left |= {key}
        self.held -= {key}

    def may_carry(self, key: str) -> None:
        """Take note that this worker may carry a unit again that it had left."""
        self.left -= {key}

    async def hand_back(self, key: str) -> None:
        """Let another worker take this lease at once.

        Raises:
            SidestreamError: Redis is away; the lease ends by itself.
        """
        self.held -= {key}
        await self._server.run(script("lease"), [key], [self.worker, 0])

    async def leave(self) -> None:
        """Hand everything back and say goodbye: whoever sees that this worker has left finds its leases free.

        Raises:
            SidestreamError: Redis is away; the leases end by themselves.
        """
        for key in sorted(self.held | self.left):
            await self.hand_back(key)
        await self._announce(0, {})

    async def _take(self, key: str) -> bool:
        owner = (await self._server.run(script("lease"), [key], [self.worker, LEASE_TTL_MS])).decode()
        self.owners[key] = owner
        return owner == self.worker

    async def _announce(self, ttl_ms: int, presence: Mapping[str, str]) -> _Company:
        """Say how this worker is, and learn for each handler among whom its units are shared."""
        flat = [part for item in presence.items() for part in item]
        behind = {name for name, lease_keys in self._wanted.items() if not self.left.isdisjoint(lease_keys)}
        able, others = self._keys.workers_of, self._keys.workers_behind
        mine = [others(name) if name in behind else able(name) for name in self._wanted]
        rest = [able(name) if name in behind else others(name) for name in self._wanted]
        keys = [self._keys.worker(self.worker), self._keys.workers(), *mine, *rest]
        args = [self.worker, ttl_ms, 1 + len(mine), *flat]
        _, *alive = await self._server.run(script("worker"), keys, args)
        found = {key: [name.decode() for name in names] for key, names in zip(keys[2:], alive, strict=True)}
        return {name: found[able(name)] or found[others(name)] for name in self._wanted}
