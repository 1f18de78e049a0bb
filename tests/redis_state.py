"""The whole state of a unit, as values: to be held against another."""

from typing import Any, cast

from consumers.keyspace import scan
from consumers.windows import day_name
from pipeline.connection import AsyncServer
from pipeline.keys import UnitKeys

_NOT_STATE = ("cursor", "recipes", "dlq", "lease")


async def state_of(server: AsyncServer, unit: UnitKeys) -> dict[str, dict[bytes, bytes]]:
    """Return every window, marginal, ranking and catalogue of a unit: key -> field or member -> value or score."""
    found: dict[str, dict[bytes, bytes]] = {}
    keys = {key async for some in scan(server, unit.pattern(), unit.owns) for key in some}
    for key in sorted(keys):
        name = key.removeprefix(f"{unit.prefix}:")
        if name in _NOT_STATE:
            continue
        is_set = name.startswith(("rank:", "slow:"))
        command = ["ZRANGE", key, 0, -1, "WITHSCORES"] if is_set else ["HGETALL", key]
        flat = cast("list[Any]", await server.call(*command))
        found[name] = dict(zip(flat[::2], flat[1::2], strict=True))
    return found


async def named_state_of(server: AsyncServer, unit: UnitKeys) -> dict[str, dict[bytes, bytes]]:
    """Return the same with cells by name: their numbers are given in the order in which cells first come."""
    found = await state_of(server, unit)
    named: dict[str, dict[bytes, bytes]] = {}
    for name, values in found.items():
        kind, _, window = name.partition(":")
        if kind == "cells":
            continue
        if kind == "w":
            start_s = int(window.partition(":")[2])
            cells = found[f"cells:{day_name(start_s) if start_s else 'all'}"]
            by_number = {number: cell for cell, number in cells.items()}
            named[name] = {by_number[number]: value for number, value in values.items()}
        else:
            named[name] = values
    return named
