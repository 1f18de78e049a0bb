"""The word of a producer about itself: when to say it, and what it says."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Final

from pipeline import limits
from pipeline.events import Event, Resource
from pipeline.keys import Keys
from pipeline.presence import OpenOperation, Presence, PresenceWriter
from producers.captures import captures
from producers.delivery import Delivery
from producers.ledger import Counts

if TYPE_CHECKING:
    from pipeline.connection import Server

PRESENCE_EVERY_S: Final = 1.0
HEARTBEAT_S: Final = 5.0
"""A presence is repeated this often although nothing has changed."""

AGENTS_SHOWN: Final = 100

_NEVER_S: Final = float("-inf")


class Agents:
    """The names that events gave as agents, the first hundred."""

    def __init__(self) -> None:
        self._seen: set[object] = {""}
        self._names: set[str] = set()

    def see(self, events: Iterable[Event]) -> None:
        """Take note of who reported events, which are not proven yet."""
        seen = self._seen
        for event in events:
            agent = getattr(event, "agent", "")
            if type(agent) is str and agent not in seen and len(seen) <= AGENTS_SHOWN:
                seen.add(agent)
                self._names.add(agent[: limits.MAX_NAME_CHARS].encode("utf-8", "replace").decode())

    def names(self) -> tuple[str, ...]:
        """Return the names in order, as they may be stored."""
        return tuple(sorted(self._names))


class Word:
    """What one producer id says of itself, over and over.

    Args:
        keys: The namespace's.
        producer: The id.
        resource: Who speaks.
        base: What the ids of this process before this one have said: their events are not repeated.
        open_operations: Lists what has been open for long, at a wall-clock time in microseconds.
    """

    def __init__(
        self,
        keys: Keys,
        producer: str,
        resource: Resource,
        base: Counts,
        open_operations: Callable[[int], Sequence[OpenOperation]],
    ) -> None:
        self.started_ms = time.time_ns() // 1_000_000
        self._producer = producer
        self._resource = resource
        self._base = base
        self._open_operations = open_operations
        self._writer = PresenceWriter(keys, producer)
        self._said = Counts()
        self._at_s = _NEVER_S

    def wanted(self, now_s: float) -> bool:
        """Return whether enough time has passed since the last word."""
        return now_s - self._at_s >= PRESENCE_EVERY_S

    def has_news(self, counts: Counts, now_s: float) -> bool:
        """Return whether there is something to say: counts that have changed, or simply that one is there."""
        return counts != self._said or now_s - self._at_s >= HEARTBEAT_S

    def due_in_s(self, counts: Counts, now_s: float) -> float:
        """Return seconds until a word is due although nothing happens."""
        if self._at_s == _NEVER_S:
            return PRESENCE_EVERY_S  # no event has come yet, but an operation has begun: it may hang
        every_s = HEARTBEAT_S if counts == self._said else PRESENCE_EVERY_S
        return max(0.05, self._at_s + every_s - now_s)

    def tried(self, now_s: float) -> None:
        """Take note of a try: whether it goes well or not, the next is not due at once."""
        self._at_s = now_s

    def say(self, server: "Server", presence: Presence, counts: Counts) -> None:
        """Write it.

        Raises:
            SidestreamError: See `pipeline.connection.Server.call`.
        """
        self._writer.write(server, presence)
        self._said = counts

    def presence(  # noqa: PLR0913 - each is a part of what it says
        self,
        counts: Counts,
        delivery: Delivery,
        *,
        partitions: int,
        agents: Agents,
        last_error: str,
        closed: bool,
    ) -> Presence:
        """Return what there is to say."""
        resource = self._resource
        counts = counts.since(self._base)
        clock_us = time.time_ns() // 1000
        return Presence(
            producer=self._producer,
            service=resource.service,
            version=resource.version,
            environment=resource.environment,
            instance=resource.instance,
            pid=os.getpid(),
            host=socket.gethostname(),
            library=_LIBRARY,
            started_ms=self.started_ms,
            offered=counts.offered,
            invalid=counts.invalid,
            shed=counts.shed,
            buffered=counts.buffered,
            spooled=counts.spooled,
            in_flight=counts.in_flight,
            unknown=counts.unknown,
            appended=counts.appended,
            lost=counts.lost,
            losses=counts.losses,
            acknowledged=delivery.acknowledged(),
            partitions=partitions,
            agents=agents.names(),
            captures=captures(),
            last_error=last_error,
            open_operations=tuple(self._open_operations(clock_us)),
            closed=int(closed),
        )


def without_buffered(counts: Counts) -> Counts:
    """Return the counts of a producer whose buffered events the next one takes over."""
    return replace(counts, offered=counts.offered - counts.buffered, buffered=0)


def _library_version() -> str:
    try:
        return metadata.version("sidestream")
    except metadata.PackageNotFoundError:
        return ""


_LIBRARY: Final = _library_version()
"""Read when the module is imported: it imports modules of its own (see `pipeline.connection`)."""
