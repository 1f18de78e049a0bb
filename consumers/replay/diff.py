"""Compare two versions of the state, bit by bit, where equality is promised.

Equality is promised at equal cursors, for windows that are wholly retained: those that begin more than `MAX_AHEAD_US`
after the oldest entry, because no trimmed entry can have reached into them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

import msgspec

from consumers.folding import MAX_AHEAD_US, entry_time_us
from consumers.keyspace import scan
from consumers.runtime.committing import Standing, parse_standing
from consumers.values import UnreadableValueError, unpack
from consumers.versions import ALL_DAYS, Days, Replay, Versions
from consumers.windows import DAY, LIFETIME, MARGINAL_RESOLUTIONS, RESOLUTIONS, day_name
from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys, UnitKeys
from pipeline.units import US_PER_S

NOT_OURS: Final = b"-"
"""In the place of a cursor: a recipe that a version was never computed with, but the one whose place it took."""

_RECIPE: Final = msgspec.json.Decoder(dict[str, object])

Fields: TypeAlias = dict[str, str]

MOST_SHOWN: Final = 20
_ABOUT_TO_EXPIRE_S: Final = 30
"""A window that expires while it is compared would look like a difference."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that two versions disagree on; `None` is "not there"."""

    handler: str
    partition: int
    window: str
    field: str
    live: str | None
    replayed: str | None


@dataclass(slots=True)
class Diff:
    """The result of a comparison; `comparable` is False where the cursors stand apart."""

    windows: int = 0
    fields: int = 0
    left_out: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])
    apart: list[str] = field(default_factory=list[str])
    causes: list[str] = field(default_factory=list[str])

    @property
    def equal(self) -> bool:
        """Whether something was compared and nothing differs."""
        return not self.differences and not self.apart and self.windows > 0


async def diff(server: AsyncServer, keys: Keys, partitions: int, versions: Versions, replay: Replay) -> Diff:
    """Compare a replay with the base, for its days.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    result = Diff()
    for partition in map(keys.partition, range(partitions)):
        for handler in replay.handlers:
            units = partition.unit(handler, versions.base(handler)), partition.unit(handler, replay.number)
            await _diff_unit(server, partition, handler, units, replay.days, result)
    return result


async def _diff_unit(  # noqa: PLR0913, PLR0917 - what is compared, and where the result goes
    server: AsyncServer,
    partition: PartitionKeys,
    handler: str,
    units: tuple[UnitKeys, UnitKeys],
    days: Days,
    result: Diff,
) -> None:
    live, shadow = units
    before = await _cursors(server, live, shadow)
    states = [await _state(server, unit) for unit in (live, shadow)]
    after = await _cursors(server, live, shadow)
    if before[0] is None or before[1] is None:
        result.apart.append(f"{handler}, partition {partition.number}: not declared in both versions")
        return
    if before != after or _place(before[0]) != _place(before[1]):
        stands = f"live stands at {_shown(after[0])}, the replay at {_shown(after[1])}"
        result.apart.append(f"{handler}, partition {partition.number}: {stands}")
        return
    await _note_cause(server, live, shadow, result)
    now_s = int((await server.call("TIME"))[0])
    kept_from_s = await _wholly_retained_from(server, partition, shadow)
    inherited = any(await server.all([["HGET", unit.cursor(), "inherited"] for unit in units]))
    totals = f"w:{LIFETIME}:"
    for window in sorted(states[0].keys() | states[1].keys()):
        if _compared(window, days, kept_from_s, now_s) and not (window.startswith(totals) and inherited):
            _compare(handler, partition.number, window, states, result)
        else:
            result.left_out += 1


def _compare(handler: str, partition: int, window: str, states: Sequence[Mapping[str, Fields]], result: Diff) -> None:
    live, replayed = (state.get(window, {}) for state in states)
    result.windows += 1
    for name in sorted(live.keys() | replayed.keys()):
        result.fields += 1
        if live.get(name) != replayed.get(name):
            result.differences.append(Difference(handler, partition, window, name, live.get(name), replayed.get(name)))


async def _cursors(server: AsyncServer, *units: UnitKeys) -> list[Standing | None]:
    """Return where units stand, with the tokens of their states: a dead letter changes a state where it stands."""
    replies = await server.all([["HGETALL", unit.cursor()] for unit in units])
    return [parse_standing(flat) if flat else None for flat in replies]


def _place(standing: Standing) -> tuple[str, int]:
    return standing.cursor.entry_id, standing.cursor.index


def _shown(standing: Standing | None) -> str:
    return f"{standing.cursor.entry_id} event {standing.cursor.index}" if standing else "nothing"


async def _note_cause(server: AsyncServer, live: UnitKeys, shadow: UnitKeys, result: Diff) -> None:
    replies = await server.all([["LRANGE", unit.recipes(), 0, -1] for unit in (live, shadow)])
    of_live, of_shadow = (
        [_RECIPE.decode(row.split(b" ", 2)[2]) for row in rows if not row.startswith(NOT_OURS)] for rows in replies
    )
    for part in sorted({name for recipe in (*of_live, *of_shadow) for name in recipe}):
        texts = [" then ".join(_parts(recipes, part)) for recipes in (of_live, of_shadow)]
        cause = f"{live.name.partition(':')[2]}: {part} was {texts[0]}, and is {texts[1]} in the replay"
        if texts[0] != texts[1] and cause not in result.causes:
            result.causes.append(cause)


def _parts(recipes: Sequence[Mapping[str, object]], part: str) -> list[str]:
    """Return what a part of the recipe was, one after the other, without repeating what did not change."""
    shown = [str(recipe.get(part, "nothing")) for recipe in recipes]
    return [text for number, text in enumerate(shown) if number == 0 or shown[number - 1] != text]


async def _wholly_retained_from(server: AsyncServer, partition: PartitionKeys, shadow: UnitKeys) -> int:
    """Return the first second from which windows hold events that both had; 0 where both had all there ever were."""
    joined, base, skipped = await server.call("HMGET", shadow.cursor(), "joined", "base", "skipped")
    if joined and base == skipped == b"0":
        return 0
    trimmed = await server.call("HMGET", partition.counters(), "trimmed", "trimmed_foreign")
    if not any(int(events or 0) for events in trimmed):
        return 0
    oldest = await server.call("XRANGE", partition.stream(), "-", "+", "COUNT", 1)
    entry_id = oldest[0][0] if oldest else await _last_id(server, partition)
    return (entry_time_us(entry_id.decode()) + MAX_AHEAD_US) // US_PER_S + 1


async def _last_id(server: AsyncServer, partition: PartitionKeys) -> bytes:
    """Return the id of the last entry that a stream ever had: no trimmed one is younger."""
    facts = await server.call("XINFO", "STREAM", partition.stream())
    return dict(zip(facts[::2], facts[1::2], strict=True))[b"last-generated-id"]


_WIDTHS: Final = {f"w:{r.name}": r for r in RESOLUTIONS} | {f"slow:{r.name}": r for r in RESOLUTIONS}
_MARGINALS: Final = {r.name: r for r in MARGINAL_RESOLUTIONS}


def _compared(window: str, days: Days, kept_from_s: int, now_s: int) -> bool:
    parts = window.split(":")
    start_s = int(parts[-1])
    if parts[1] == LIFETIME:
        return kept_from_s == 0 and days == ALL_DAYS
    if not days.cover(start_s):
        return False
    resolution = _WIDTHS.get(":".join(parts[:2])) or _MARGINALS.get(parts[-2], DAY)
    return start_s >= kept_from_s and resolution.expires_at(start_s) > now_s + _ABOUT_TO_EXPIRE_S


async def _state(server: AsyncServer, unit: UnitKeys) -> dict[str, Fields]:
    """Return every window of a unit, its fields under the names of cells instead of their numbers."""
    found: dict[str, Fields] = {}
    catalogues: dict[str, dict[str, str]] = {}
    keys = {key async for some in scan(server, unit.pattern(), unit.owns) for key in some}
    for key in sorted(keys):
        name = key.removeprefix(f"{unit.prefix}:")
        if name.startswith(("w:", "by:")):
            found[name] = _measures(await server.call("HGETALL", key))
        elif name.startswith(("rank:", "slow:")):
            found[name] = _pairs(await server.call("ZRANGE", key, 0, -1, "WITHSCORES"))
        elif name.startswith("cells:"):
            catalogue = _pairs(await server.call("HGETALL", key))
            catalogues[name.removeprefix("cells:")] = {number: cell for cell, number in catalogue.items()}
    for name, fields in found.items():
        if name.startswith("w:"):
            # Under traffic a window may know a cell that its catalogue, read earlier, lacks; the cursors differ then.
            found[name] = _named(fields, catalogues.get(_day_of(name), {}))
    return found


def _day_of(window: str) -> str:
    _, resolution, start = window.split(":")
    return LIFETIME if resolution == LIFETIME else day_name(int(start))


def _named(fields: Fields, catalogue: Mapping[str, str]) -> Fields:
    named: Fields = {}
    for name, value in fields.items():
        number, _, measure = name.partition(" ")
        named[f"{catalogue.get(number, f'cell {number}')} {measure}"] = value
    return named


def _measures(flat: Any) -> Fields:  # noqa: ANN401 - a raw reply
    """Return each measure of each value as a field of its own; what cannot be read stands as it is."""
    parts = cast("list[bytes]", flat)
    found: Fields = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        shown = name.decode("utf-8", "replace")
        try:
            found |= {f"{shown} {measure}": str(number) for measure, number in unpack(value).items()}
        except UnreadableValueError:
            found[f"{shown} ?"] = value.hex()
    return found


def _pairs(flat: Any) -> Fields:  # noqa: ANN401 - a raw reply
    parts = [part.decode("utf-8", "replace") for part in cast("list[bytes]", flat)]
    return dict(zip(parts[::2], parts[1::2], strict=True))
