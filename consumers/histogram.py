"""Exponential histograms of one fixed scale, whose buckets are plain counters.

Bucket `i` counts values in (base^i, base^(i+1)], base = 2^(2^-SCALE); two histograms add by adding their buckets.
Source: OpenTelemetry metrics data model, "Exponential Histogram", mapping function of positive scales.
"""

import math
from collections.abc import Mapping
from typing import Final

SCALE: Final = 3
"""Eight buckets an octave: a quantile is within 4.4 % of the truth."""

_PER_OCTAVE: Final = 2**SCALE
_FACTOR: Final = _PER_OCTAVE / math.log(2)

ZERO: Final = -1
"""The bucket of 0. The value 1, which the mapping puts here too, is counted in bucket 0 instead."""


def bucket_of(value: int) -> int:
    """Return the bucket of an integer: `ZERO` for 0 and below, else i with base^i < value <= base^(i+1), at least 0."""
    if value <= 1:
        return ZERO if value <= 0 else 0
    if value & (value - 1) == 0:
        # Exact powers of two sit on a boundary, where a rounded logarithm may fall on either side.
        return (value.bit_length() - 1) * _PER_OCTAVE - 1
    return math.ceil(math.log(value) * _FACTOR) - 1


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
