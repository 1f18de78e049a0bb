"""Who reads what: soft leases that spread the units of a handler over the workers that run it.

Keeps: nothing depends on a lease for being right. Two workers on one unit cost double work, never a double count.

The rule (`decide`): shares of a handler's units differ by at most one, and who has the larger ones differs by handler;
what is over a share is handed back, what is free is taken. A worker that joins or dies moves only what shares change.
Who has met a newer recipe in one unit is behind: it leaves all units of that handler to those who are not, and while
there is none it shares what it may carry with the others that are behind.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LEASE_TTL_MS: Final = 10_000
"""A dead worker's units are taken over within this time."""

RENEW_S: Final = 2.0
"""Seconds between renewals: four tries within a lease."""

LOOK_S: Final = 0.5
"""Seconds between looks at who is there: what someone leaves or joins moves within this time."""


@dataclass(frozen=True, slots=True)
class LeaseView:
    """What a worker knows of one handler when it decides: who holds each unit ('' when nobody), who runs it.

    `alive` are those who may carry every unit; where there is none, those who are behind. `left` are the positions that
    this worker may not carry.
    """

    worker: str
    handler: str
    owners: Sequence[str]
    alive: Sequence[str]
    left: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """Positions of units to renew or take, and to hand back."""

    take: list[int]
    hand_back: list[int]


def decide(view: LeaseView) -> LeasePlan:
    """Return which leases to take and which to hand back.

    Free units are taken from a place that differs by worker, so that two workers that look at once seldom collide.
    """
    mine = [position for position, owner in enumerate(view.owners) if owner == view.worker]
    if view.worker not in view.alive:
        return LeasePlan([], mine)
    kept = [position for position in mine if position not in view.left]
    workers = len(view.alive)
    place = view.alive.index(view.worker)
    # Another first worker for each handler, or the first would have the larger share of every one.
    rank = (place + zlib.crc32(view.handler.encode())) % workers
    share = len(view.owners) // workers + (rank < len(view.owners) % workers)
    free = [position for position, owner in enumerate(view.owners) if not owner and position not in view.left]
    turn = rank * len(free) // workers
    room = max(0, share - len(kept))
    taken = kept[:share] + (free[turn:] + free[:turn])[:room]
    return LeasePlan(taken, [position for position in mine if position not in taken])
