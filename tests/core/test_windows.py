"""Windows: every instant is in one window of each width, and a range is covered without gap or overlap."""

from hypothesis import given
from hypothesis import strategies as st

from consumers.windows import DAY, HOUR, MINUTE, RESOLUTIONS, TEN_SECONDS, cover, day_name, finest_start_s

NOW = 1_790_000_000
instants = st.integers(NOW - 90 * 86_400, NOW)


@given(st.integers(0, 2**53))
def test_an_instant_lies_in_the_window_that_is_named_for_it(time_us: int) -> None:
    """The finest window begins at or before the instant and ends after it."""
    start = finest_start_s(time_us)
    assert start * 1_000_000 <= time_us < (start + TEN_SECONDS.width_s) * 1_000_000


@given(since=instants, length_s=st.integers(1, 3 * 86_400))
def test_a_cover_has_no_gap_and_no_overlap(since: int, length_s: int) -> None:
    """Windows follow one another from at or before the beginning to at or after the end."""
    until = min(since + length_s, NOW)
    windows = list(cover(since, until, NOW))
    assert all(a.expires_at(s) > NOW for a, s in windows)
    assert [s + r.width_s for r, s in windows[:-1]] == [s for _, s in windows[1:]]
    if windows:
        assert windows[0][1] <= since
        assert windows[-1][1] + windows[-1][0].width_s >= until


def test_a_day_is_covered_by_the_widest_windows_that_fit() -> None:
    """A whole past day is one window; a ragged one uses finer windows only at its ends."""
    midnight = NOW - NOW % 86_400
    assert list(cover(midnight - 86_400, midnight, NOW)) == [(DAY, midnight - 86_400)]
    ragged = list(cover(midnight - 3_660, midnight, NOW))
    assert ragged == [(MINUTE, midnight - 3_660), (HOUR, midnight - 3_600)]


def test_retention_is_measured_from_the_end_of_a_window() -> None:
    """Expiry is absolute: it does not depend on when the window was written."""
    assert [r.expires_at(0) for r in RESOLUTIONS] == [7_210, 172_860, 7_779_600, 63_158_400]


def test_days_are_utc() -> None:
    """23:59:59 and 00:00:00 UTC lie in different days wherever the worker runs."""
    assert (day_name(86_399), day_name(86_400)) == ("19700101", "19700102")
