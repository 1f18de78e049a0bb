"""Exponential histograms of one fixed scale, whose buckets are plain counters.

Bucket `i` counts values in (base^i, base^(i+1)], base = 2^(2^-SCALE); two histograms add by adding their buckets.
Source: OpenTelemetry metrics data model, "Exponential Histogram", mapping function of positive scales.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

SCALE: Final = 3
"""Eight buckets an octave: a quantile is within 4.4 % of the truth."""

_PER_OCTAVE: Final = 2**SCALE
_OCTAVES: Final = 63


ZERO: Final = -1
"""The bucket of 0. The value 1, which the mapping puts here too, is counted in bucket 0 instead."""


def _upper_bounds() -> tuple[int, ...]:
    """Return floor(2^(octave + k/8)), k = 1..8, for each octave: exact integers, the same on every machine."""
    # Three integer square roots are the floor of the eighth root.
    roots = [math.isqrt(math.isqrt(math.isqrt(1 << (k + _PER_OCTAVE * _OCTAVES)))) for k in range(1, _PER_OCTAVE + 1)]
    return (0, *(root >> (_OCTAVES - octave) for octave in range(_OCTAVES) for root in roots))


UPPER_BOUNDS: Final = _upper_bounds()
"""The largest integer of each bucket, `ZERO` first: `bisect_left` finds the place of a value's bucket at once."""


def bucket_of(value: int) -> int:
    """Return the bucket of an integer: `ZERO` for 0 and below, else i with base^i < value <= base^(i+1), at least 0.

    Integers alone decide: a rounded logarithm may differ between machines, and a replay must give the same bits.
    """
    return bisect_left(UPPER_BOUNDS, value) + ZERO


def observe(measures: dict[str, int], measure: str, values: Iterable[int]) -> None:
    """Add values to a measure's sum, and each to its bucket."""
    names, get, total = _bucket_names(measure), measures.get, 0
    for value in values:
        name = names[bisect_left(UPPER_BOUNDS, value)]
        measures[name] = get(name, 0) + 1
        total += value
    measures[measure] = get(measure, 0) + total


@cache
def _bucket_names(measure: str) -> tuple[str, ...]:
    """Return the names of a measure's counters, `<measure>.<bucket>`, in the order of `UPPER_BOUNDS`."""
    return tuple(f"{measure}.{bucket + ZERO}" for bucket in range(len(UPPER_BOUNDS)))


def upper_bound(bucket: int) -> float:
    """Return the largest value of a bucket."""
    return 0.0 if bucket == ZERO else 2.0 ** ((bucket + 1) / _PER_OCTAVE)


def middle(bucket: int) -> float:
    """Return the value that stands for a bucket: the geometric middle of its bounds."""
    return 0.0 if bucket == ZERO else 2.0 ** ((bucket + 0.5) / _PER_OCTAVE)


def quantile(buckets: Mapping[int, int], ratio: float) -> float | None:
    """Return the value below which `ratio` (0-1) of the counts lie, or None of an empty histogram."""
    total = sum(buckets.values())
    if total == 0:
        return None
    rank = max(1, math.ceil(ratio * total))
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return middle(bucket)
    raise AssertionError("the ranks of a histogram end at its total")


def buckets_of(measures: Mapping[str, int], measure: str) -> dict[int, int]:
    """Return the histogram of a measure: bucket -> count."""
    prefix = f"{measure}."
    return {int(name[len(prefix) :]): value for name, value in measures.items() if name.startswith(prefix)}
