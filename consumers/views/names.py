"""The names of a marginal (runs, sessions, errors) that rank highest in a range, and what is known of them.

The 200 highest names are kept by window and partition; those with the highest sums are found from what each offers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from consumers.reader import StateReader
from consumers.state import Caps, Measures, merge
from consumers.values import unpack
from consumers.windows import Window

_OFFERED: Final = 4
"""A window offers so many times what is asked for: a name may be high in the sum and nowhere the highest."""

_RANKED: Final = Caps().ranked


@dataclass(frozen=True, slots=True)
class Ranked:
    """Names that windows offered, the highest rank first; `cut`: a window may have had more to offer."""

    names: Sequence[str]
    cut: bool


async def ranked_names(
    reader: StateReader, handler: str, dimension: str, windows: Sequence[Window], most: int
) -> Ranked:
    """Return the names that windows offer where `most` are wanted, which are more than that where there are more.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    offered = most * _OFFERED
    rows = await reader.ask(
        handler,
        windows,
        lambda unit, window: [
            "ZRANGE",
            unit.ranking(dimension, window[0].name, window[1]),
            0,
            offered - 1,
            "REV",
            "WITHSCORES",
        ],
    )
    ranks: dict[bytes, float] = {}
    for _, _, reply in rows:
        for name, rank in zip(reply[::2], reply[1::2], strict=True):
            ranks[name] = ranks.get(name, 0) + float(rank)
    ordered = sorted(ranks, key=lambda name: (-ranks[name], name))
    # A ranking holds 200 names at most, and then nobody knows of others.
    cut = any(len(reply) // 2 >= min(offered, _RANKED) for _, _, reply in rows)
    return Ranked([name.decode() for name in ordered], cut)


async def measures_of(  # noqa: PLR0913 - a query: of which state, when, whose, what
    reader: StateReader,
    handler: str,
    dimension: str,
    windows: Sequence[Window],
    *,
    names: Collection[str],
    measures: Sequence[str],
) -> dict[str, Measures]:
    """Return the measures of names, summed over windows and partitions; a name without any is left out.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    if not names:
        return {}
    rows = await reader.ask(
        handler,
        windows,
        lambda unit, window: ["HMGET", unit.marginal(dimension, window[0].name, window[1]), *names],
    )
    found: dict[str, Measures] = {}
    for _, _, row in rows:
        for name, value in zip(names, row, strict=True):
            if value is not None:
                stored = unpack(value)
                wanted = {measure: stored[measure] for measure in measures if measure in stored}
                merge(found.setdefault(name, {}), wanted)
    return found
