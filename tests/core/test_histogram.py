"""Histograms: a value is in the bucket that bounds it, and quantiles are within the promised error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.histogram import ZERO, bucket_of, middle, quantile, upper_bound


@given(st.integers(2, 2**53))
def test_a_value_lies_within_the_bounds_of_its_bucket(value: int) -> None:
    """The mapping agrees with its own bounds at every magnitude, powers of two included."""
    bucket = bucket_of(value)
    assert upper_bound(bucket - 1) < value * (1 + 1e-12)
    assert value <= upper_bound(bucket) * (1 + 1e-12)


@pytest.mark.parametrize("exponent", range(1, 54))
def test_a_power_of_two_is_the_upper_bound_of_its_bucket(exponent: int) -> None:
    """OpenTelemetry's mapping puts a boundary into the bucket it closes."""
    assert upper_bound(bucket_of(2**exponent)) == 2**exponent
    assert bucket_of(2**exponent + 1) > bucket_of(2**exponent)


def test_zero_has_a_bucket_of_its_own() -> None:
    """Zero is no small positive number."""
    assert bucket_of(0) == ZERO
    assert middle(ZERO) == 0
    assert bucket_of(1) == 0


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_within_five_percent_of_the_exact_one(values: list[int], ratio: float) -> None:
    """The error is half a bucket: 4.4 percent."""
    buckets: dict[int, int] = {}
    for value in values:
        buckets[bucket_of(value)] = buckets.get(bucket_of(value), 0) + 1
    exact = sorted(values)[max(1, math.ceil(ratio * len(values))) - 1]
    estimate = quantile(buckets, ratio)
    assert estimate is not None
    assert abs(estimate - exact) <= 0.05 * exact + 0.1


def test_an_empty_histogram_has_no_quantile() -> None:
    """No data is None, which is not 0."""
    assert quantile({}, 0.95) is None
