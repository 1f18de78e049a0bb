"""Look through the keys of a namespace: what a version has, wherever it has it."""

from pipeline.connection import AsyncServer
from pipeline.keys import Keys

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


async def read_declared(server: AsyncServer, keys: Keys, partitions: int) -> list[tuple[int, str]]:
    """Return the (version, handler) that are declared in some partition and keep a state.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: set[tuple[int, str]] = set()
    for number in range(partitions):
        flat = await server.call("HGETALL", keys.partition(number).handlers())
        for name, kind in zip(flat[::2], flat[1::2], strict=True):
            version, _, handler = name.decode().partition(":")
            if kind in {b"fold", b"replay"}:
                found.add((int(version.removeprefix("v")), handler))
    return sorted(found)
