"""The register of versions: read once a query, and changed by compare-and-set alone."""

from collections.abc import Callable
from typing import Final

from consumers.versions import Versions, decode_versions, encode_versions
from pipeline.connection import AsyncServer
from pipeline.errors import TransientError
from pipeline.keys import Keys
from pipeline.scripting import script

_TRIES: Final = 5


async def read_versions(server: AsyncServer, keys: Keys) -> Versions:
    """Return which version answers for what.

    Raises:
        VersionsError: A later Sidestream wrote the document.
        SidestreamError: See `AsyncServer.call`.
    """
    return decode_versions(await server.call("GET", keys.versions()))


async def change_versions(server: AsyncServer, keys: Keys, change: Callable[[Versions], Versions]) -> Versions:
    """Store what `change` makes of the document, and return it; where somebody else was quicker, `change` it anew.

    Raises:
        VersionsError: From `change`.
        SidestreamError: See `AsyncServer.call`; whether it happened, the document says.
    """
    for _ in range(_TRIES):
        stored = await server.call("GET", keys.versions())
        found = decode_versions(stored)
        changed = change(found)
        if changed == found:
            return found
        new = encode_versions(changed)
        if await server.run(script("versions"), [keys.versions()], [stored or b"", new]) == b"OK":
            return changed
    raise TransientError("others change the versions all the time; try again", code="busy")
