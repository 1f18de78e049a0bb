"""Which other namespaces a Redis has, for whoever looks into an empty one.

Keeps: a large keyspace is looked through for a second, in steps that hold nobody up; what was found by then is shown.
"""

from typing import Final

import anyio

from consumers.keyspace import scan
from pipeline.connection import AsyncServer
from pipeline.errors import SettingsError
from pipeline.keys import DEFAULT_NAMESPACE, Keys

_MOST_S: Final = 1.0
"""About a million keys."""

_BEFORE, _AFTER = Keys(DEFAULT_NAMESPACE).meta().split(DEFAULT_NAMESPACE)


async def other_namespaces(server: AsyncServer, keys: Keys) -> list[str]:
    """Return the namespaces that producers have begun, but for this one, by name.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found: set[str] = set()
    with anyio.move_on_after(_MOST_S):
        async for some in scan(server, f"{_BEFORE}*{_AFTER}", _is_meta):
            found.update(map(_name, some))
    return sorted(found - {keys.namespace})


def _name(key: str) -> str:
    return key.removeprefix(_BEFORE).removesuffix(_AFTER)


def _is_meta(key: str) -> bool:
    """Tell whether a key is the facts of a namespace: anybody may have written one that only looks so."""
    try:
        return Keys(_name(key)).meta() == key
    except SettingsError:
        return False
