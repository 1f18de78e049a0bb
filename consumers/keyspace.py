"""Look through the keys of a namespace, and delete some, in steps that never hold up the server.

Keeps:
- Whatever a key is called, UTF-8 or not, its name comes and goes unharmed.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Final

from pipeline.connection import AsyncServer

_SCANNED_AT_ONCE: Final = 1_000
"""Keys that one step of SCAN looks at: under a millisecond of the server's time."""

_DELETED_AT_ONCE: Final = 500


async def scan(server: AsyncServer, pattern: str, owns: Callable[[str], bool]) -> AsyncGenerator[list[str]]:
    """Iterate over the keys that match and are owned, some at a time.

    A key that stays from beginning to end is among them; a key may come twice.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    cursor = b"0"
    while True:
        cursor, batch = await server.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED_AT_ONCE)
        if some := [key for name in batch if owns(key := name.decode("utf-8", "surrogateescape"))]:
            yield some
        if cursor == b"0":
            return


async def unlink(server: AsyncServer, keys: Sequence[str]) -> int:
    """Delete keys that `scan` has named; return how many went.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    return sum([int(await server.call("UNLINK", *map(raw, some))) for some in in_steps(keys)])


def in_steps(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Iterate over keys, as many at a time as one command may delete."""
    return (keys[first : first + _DELETED_AT_ONCE] for first in range(0, len(keys), _DELETED_AT_ONCE))


def raw(key: str) -> bytes:
    """Return the bytes of a name that `scan` has given."""
    return key.encode("utf-8", "surrogateescape")
