"""Look through the keys of a namespace: what a version has, wherever it has it."""

from consumers.versions import Versions
from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys

_SCAN_COUNT = 1_000


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


async def declared(server: AsyncServer, partition: PartitionKeys) -> list[tuple[int, str]]:
    """Return what is declared in a partition and keeps a state, as (version, handler).

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    flat = await server.call("HGETALL", partition.handlers())
    found: list[tuple[int, str]] = []
    for name, kind in zip(flat[::2], flat[1::2], strict=True):
        version, _, handler = name.decode().partition(":")
        if kind in {b"fold", b"replay"}:
            found.append((int(version.removeprefix("v")), handler))
    return sorted(found)


async def orphans(server: AsyncServer, keys: Keys, partitions: int, versions: Versions) -> list[tuple[int, str]]:
    """Return the (version, handler) that are declared somewhere and stand in no document: nobody carries or reads them.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found = {unit for number in range(partitions) for unit in await declared(server, keys.partition(number))}
    return sorted((version, handler) for version, handler in found if version not in versions.all(handler))
