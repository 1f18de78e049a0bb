"""Presence: the last word of each producer, what it lost by the hour, and the namespace's number of partitions.

Keeps:
- A presence is one snapshot: `offered = invalid + shed + buffered + spooled + in_flight + unknown + appended`.
- It outlives its producer by a day, so that one that died without a goodbye is shown with its last word.
- A loss is added to the window of its hour once, however often a presence is repeated.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec import Struct

from pipeline.errors import NewerSchemaError, TransientError
from pipeline.keys import DEFAULT_PARTITIONS, Keys
from pipeline.scripting import script

if TYPE_CHECKING:
    # An application that never gets to publish never loads the client library.
    from pipeline.connection import Arg, AsyncServer, Reply, Server

PRESENCE_TTL_MS: Final = 25 * 3600 * 1000
"""A day after its death, and an hour for whoever looks at "the last 24 h"."""

LOSS_WINDOW_TTL_MS: Final = 90 * 24 * 3600 * 1000
"""As long as the hourly windows that a loss makes incomplete."""

SCHEMA: Final = 1
"""How a namespace is laid out (docs/state.md); a later version that changes it writes its own number down first."""

_HOUR_S: Final = 3600
_READ_AT_ONCE: Final = 100
_PLACED: Final = frozenset({"producer", "at_ms", "clock_us", "losses"})
"""Written by the script itself or by the writer, not as plain fields."""


class OpenOperation(Struct, frozen=True):
    """An operation that has begun and not ended; `started_us` is the producer's clock.

    `kind` is `run`, `request`, `tool` or `step`, and empty in a word of before there were kinds. `operation_id` is what
    its events will say: a request's event has it as `span_id`. `model` is that of a request.
    """

    name: str
    agent: str
    started_us: int
    kind: str = ""
    model: str = ""
    operation_id: str = ""
    run_id: str = ""
    parent_id: str = ""
    session: str = ""


class Capture(Struct, frozen=True):
    """A library that the producer observes: what of it is not seen with this version, and how many hooks failed."""

    library: str
    version: str = ""
    unseen: tuple[str, ...] = ()
    faults: int = 0


class Acknowledged(Struct, frozen=True):
    """What a producer knows of one partition.

    The fence's next is at least `next`, and at most `next + unknown`: `unknown` events were sent and not answered.
    """

    next: int
    unknown: int = 0


class Presence(Struct, frozen=True):
    """One snapshot of one producer; counts are of events since it began.

    `losses` names every way an event did not arrive: `shed:<kind>:<reason>`, `invalid:<kind>:<reason>` and `lost`
    (appended, and then lost by the server). `partitions` is the number its events were routed by, 0 before it knew.
    `recovered` events of those appended were sent from its spool after its death: then a successor wrote this word.
    `clock_us` is the producer's clock when the word was sent, and `at_ms` the broker's when it came: a start that the
    producer tells is as old as its own clock says, wherever that stands.
    """

    producer: str
    service: str = ""
    version: str = ""
    environment: str = ""
    instance: str = ""
    pid: int = 0
    host: str = ""
    library: str = ""
    started_ms: int = 0
    at_ms: int = 0
    clock_us: int = 0
    offered: int = 0
    invalid: int = 0
    shed: int = 0
    buffered: int = 0
    spooled: int = 0
    in_flight: int = 0
    unknown: int = 0
    appended: int = 0
    lost: int = 0
    losses: Mapping[str, int] = {}
    acknowledged: Mapping[int, Acknowledged] = {}
    partitions: int = 0
    agents: tuple[str, ...] = ()
    captures: tuple[Capture, ...] = ()
    last_error: str = ""
    open_operations: tuple[OpenOperation, ...] = ()
    closed: int = 0
    recovered: int = 0

    def accounted(self) -> int:
        """Return the events whose place is known: equal to `offered`, or something vanished."""
        return self.invalid + self.shed + self.buffered + self.spooled + self.in_flight + self.unknown + self.appended

    @property
    def shed_by(self) -> dict[str, int]:
        """Events refused at the buffer, `<kind>:<reason>` -> count."""
        return {name.removeprefix("shed:"): n for name, n in self.losses.items() if name.startswith("shed:")}


class PresenceWriter:
    """Writes one producer's presence, over and over.

    Args:
        keys: The namespace's.
        producer: Whose it is.
        revision: That of the last word so far; only later ones are stored.
    """

    def __init__(self, keys: Keys, producer: str, revision: int = 0) -> None:
        self._keys = keys
        self._producer = producer
        self._revision = revision
        self._broker_ahead_s = 0.0

    def write(self, server: "Server", presence: Presence) -> int:
        """Store `presence` and return the broker's time (ms).

        Raises:
            SidestreamError: See `pipeline.connection.Server.call`.
        """
        self._revision += 1
        for _ in range(2):
            answer, at_ms = self._run(server, presence)
            if answer != b"HOUR":
                return at_ms
            self._broker_ahead_s = at_ms / 1000 - time.time()
        raise TransientError("the broker's hour changed twice in one second", code="clock")

    def _run(self, server: "Server", presence: Presence) -> tuple[bytes, int]:
        clock_us = time.time_ns() // 1_000
        now_s = int(clock_us / 1_000_000 + self._broker_ahead_s)
        hour_s = now_s - now_s % _HOUR_S
        keys = [
            self._keys.presence_index(),
            self._keys.presence(self._producer),
            self._keys.loss_window(hour_s),
        ]
        head: list[Arg] = [self._producer, self._revision, hour_s, PRESENCE_TTL_MS, LOSS_WINDOW_TTL_MS]
        reply = server.run(script("presence"), keys, [*head, *_arguments(presence), "clock_us", clock_us])
        answer, at_ms = cast("list[bytes]", reply)
        return answer, int(at_ms)


def _arguments(presence: Presence) -> "list[Arg]":
    args: list[Arg] = [len(presence.losses)]
    for name, total in presence.losses.items():
        args += [name, total]
    for field in Presence.__struct_fields__:
        if field not in _PLACED:
            value: object = getattr(presence, field)
            args += [field, value if isinstance(value, str | int) else msgspec.json.encode(value)]
    return args


def read_last_word(server: "Server", keys: Keys, producer: str) -> tuple[Presence | None, int]:
    """Return the last word of a producer, None where it has expired, and its revision.

    Raises:
        SidestreamError: See `pipeline.connection.Server.call`.
    """
    key = keys.presence(producer)
    return parse_presence(server.call("HGETALL", key)), int(server.call("HGET", key, "revision") or 0)


def parse_presence(reply: "Reply") -> Presence | None:
    """Read the flat reply of HGETALL; None when the key has expired."""
    flat = cast("list[bytes]", reply or [])
    stored = {k.decode(): v for k, v in zip(flat[::2], flat[1::2], strict=True)}
    if not stored:
        return None
    losses = {name.removeprefix("loss:"): int(n) for name, n in stored.items() if name.startswith("loss:")}
    fields: dict[str, object] = {"losses": losses}
    for name in ("acknowledged", "agents", "captures", "open_operations"):
        if name in stored:
            fields[name] = msgspec.json.decode(stored.pop(name))
    known = set(Presence.__struct_fields__)
    fields |= {name: value.decode("utf-8", "replace") for name, value in stored.items() if name in known}
    return msgspec.convert(fields, Presence, strict=False)


async def read_presences(server: "AsyncServer", keys: Keys) -> list[Presence]:
    """Read the last word of every producer of the last day, the latest word first.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    producers = cast("Sequence[bytes]", await server.call("ZRANGE", keys.presence_index(), 0, -1, "REV"))
    found: list[Presence] = []
    for start in range(0, len(producers), _READ_AT_ONCE):
        some = producers[start : start + _READ_AT_ONCE]
        for reply in await server.batch([["HGETALL", keys.presence(p.decode())] for p in some]):
            if isinstance(reply, Exception):
                raise reply
            presence = parse_presence(reply)
            if presence is not None:
                found.append(presence)
    return found


async def read_losses(server: "AsyncServer", keys: Keys, hour_s: int) -> dict[str, int]:
    """Read what was shed, invalid or lost in one hour (its start, seconds since 1970): name -> events.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    flat = cast("list[bytes]", await server.call("HGETALL", keys.loss_window(hour_s)))
    return {k.decode(): int(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}


def agree_partitions(server: "Server", keys: Keys, wanted: int) -> int:
    """Make the namespace have at least `wanted` partitions, and return how many it has.

    Raises:
        SidestreamError: See `pipeline.connection.Server.call`.
    """
    return int(server.run(script("partitions"), [keys.meta()], [wanted]))


async def read_partitions(server: "AsyncServer", keys: Keys) -> int:
    """Return how many partitions the namespace has; the default before any producer came.

    Raises:
        NewerSchemaError: A newer Sidestream keeps the namespace: this one must not touch it.
        SidestreamError: See `AsyncServer.call`.
    """
    stored, schema = await server.call("HMGET", keys.meta(), "partitions", "schema")
    if schema and int(schema) > SCHEMA:
        raise NewerSchemaError(
            f"namespace {keys.namespace} has schema {int(schema)}, and this Sidestream understands {SCHEMA}: "
            "a newer version keeps it; upgrade this one"
        )
    return int(stored) if stored else DEFAULT_PARTITIONS
