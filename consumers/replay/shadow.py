"""Fold the retained stream into a second version of the state, and let it go again.

Keeps: the live version is only read. A replay never reaches a sink or an alert: those read the live version alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from consumers.runtime.effects import Effect
from consumers.runtime.run import Worker, WorkerOptions
from pipeline.connection import AsyncServer
from pipeline.keys import LIVE_VERSION, Keys

SHADOW_VERSION: Final = LIVE_VERSION + 1
"""The version a replay writes."""

_SCAN_COUNT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did: events moved behind the shadow's cursors in this call, and units carried."""

    events: int
    units: int
    version: int


async def replay(server: AsyncServer, keys: Keys, effects: Sequence[Effect]) -> Replayed:
    """Fold everything the stream retains into the shadow version, from where its cursors stand to the stream's end.

    Raises:
        OlderRecipeError: The shadow was begun with a newer recipe; drop it first.
        SidestreamError: See `AsyncServer.call`.
    """
    worker = Worker(server, keys, effects, options=WorkerOptions(version=SHADOW_VERSION))
    events = await worker.run_until_idle()
    return Replayed(events, len(worker.units), SHADOW_VERSION)


async def drop(server: AsyncServer, keys: Keys, partitions: int, version: int = SHADOW_VERSION) -> int:
    """Delete a version of the state that is not the live one; return how many keys went.

    Raises:
        ValueError: `version` is the live one.
        SidestreamError: See `AsyncServer.call`.
    """
    if version == LIVE_VERSION:
        raise ValueError("the live version is never dropped")
    gone = 0
    for number in range(partitions):
        partition = keys.partition(number)
        units = [partition.unit(name, version) for name, _ in await declared(server, keys, number, version)]
        for unit in units:
            # A worker that still carries it must not bring back what goes: its commits and its reads are refused.
            await server.call("HSET", unit.cursor(), "token", "dropped", "recipe", "dropped")
        cursors = [unit.cursor() for unit in units]
        for key in await scan(server, f"{partition.tag}:v{version}:*"):
            if key not in cursors:
                gone += int(await server.call("UNLINK", key))
        for unit in units:
            gone += int(await server.call("UNLINK", unit.cursor()))
            await server.call("XGROUP", "DESTROY", partition.stream(), unit.name)
            await server.call("HDEL", partition.handlers(), unit.name)
    return gone


async def declared(server: AsyncServer, keys: Keys, number: int, version: int) -> list[tuple[str, str]]:
    """Return the handlers declared in a partition with a version, as (name, kind).

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    flat = await server.call("HGETALL", keys.partition(number).handlers())
    prefix = f"v{version}:"
    rows = [(name.decode(), kind.decode()) for name, kind in zip(flat[::2], flat[1::2], strict=True)]
    return [(name.removeprefix(prefix), kind) for name, kind in rows if name.startswith(prefix)]


async def scan(server: AsyncServer, pattern: str) -> list[str]:
    """Return every key that matches a SCAN pattern; a namespace holds no glob character.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, batch = await server.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
        found.update(key.decode() for key in batch)
        if cursor == b"0":
            return sorted(found)
