"""The whole state of a unit, as values: to be held against another."""

from typing import Any, cast

from consumers.replay.keyspace import scan
from pipeline.connection import AsyncServer
from pipeline.keys import UnitKeys

_NOT_STATE = ("cursor", "recipes", "dlq", "lease")


async def state_of(server: AsyncServer, unit: UnitKeys) -> dict[str, dict[bytes, bytes]]:
    """Return every window, marginal, ranking and catalogue of a unit: key -> field or member -> value or score."""
    found: dict[str, dict[bytes, bytes]] = {}
    for key in await scan(server, f"{unit.prefix}:*"):
        name = key.removeprefix(f"{unit.prefix}:")
        if name in _NOT_STATE:
            continue
        is_set = name.startswith(("rank:", "slow:"))
        command = ["ZRANGE", key, 0, -1, "WITHSCORES"] if is_set else ["HGETALL", key]
        flat = cast("list[Any]", await server.call(*command))
        found[name] = dict(zip(flat[::2], flat[1::2], strict=True))
    return found
