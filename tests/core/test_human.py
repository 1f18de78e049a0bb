"""Numbers as people read them: three digits or so, and never a 0 that is not one."""

import pytest

from sidestream.wording.human import NOTHING, amount, dollars, duration, instant, percent, shown, size


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.0k"),
        (1_234, "1.2k"),
        (99_940, "99.9k"),
        (99_960, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (3_400_000, "3.4M"),
        (2_500_000_000, "2.5G"),
        (7 * 10**15, "7000T"),
    ],
)
def test_amounts(number: int, text: str) -> None:
    """A unit changes where rounding would give a thousand of it."""
    assert amount(number) == text


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "$0"),
        (1, "<$0.0001"),
        (100_000, "$0.0001"),
        (584_300, "$0.000584"),
        (600_000, "$0.0006"),
        (999_999, "$0.0010"),
        (2_310_000, "$0.00231"),
        (3_500_000, "$0.0035"),
        (9_999_000, "$0.0100"),
        (12_300_000, "$0.0123"),
        (999_949_999, "$0.9999"),
        (999_960_000, "$1.00"),
        (12_340_000_000, "$12.34"),
        (999_996_000_000, "$1,000"),
        (1_234_567_000_000, "$1,235"),
    ],
)
def test_dollars(nano_usd: int, text: str) -> None:
    """Money is shown finely where it is little; only nothing is $0."""
    assert dollars(nano_usd) == text


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (None, NOTHING),
        (0, "0 us"),
        (950, "950 us"),
        (320_400, "320 ms"),
        (999_600, "1.0 s"),
        (1_300_000, "1.3 s"),
        (59_960_000, "1 m 00 s"),
        (125_000_000, "2 m 05 s"),
        (12_000_000_000, "3 h 20 m"),
    ],
)
def test_durations(time_us: int | None, text: str) -> None:
    """A duration that is not known is no 0."""
    assert duration(time_us) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(None, NOTHING), (0.0, "0 %"), (0.0004, "<0.1 %"), (0.042, "4.2 %"), (1.0, "100 %")]
)
def test_percentages(ratio: float | None, text: str) -> None:
    """One failure in a million is not "0 %"."""
    assert percent(ratio) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**40, "1.0 TiB"),
        (2**52, "4,096.0 TiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    """A unit changes where rounding would give a thousand and twenty-four of it."""
    assert size(size_bytes) == text


def test_instants_have_seconds_only_where_there_are_some() -> None:
    """Whole minutes are written as such."""
    assert instant(0) == "1970-01-01 00:00"
    assert instant(61.9) == "1970-01-01 00:01:01"


def test_a_name_is_one_line_of_text_without_control() -> None:
    """What a terminal would obey is replaced; none, and what a cap hid, are said in words."""
    assert shown("a\x1b[31m\nb\x9b\u202e").plain == "a\ufffd[31m\ufffdb\ufffd\ufffd"
    assert shown("[red]x").plain == "[red]x"
    assert shown("").plain == "(none)"
    assert shown("__other__").plain == "other (over the cap)"
