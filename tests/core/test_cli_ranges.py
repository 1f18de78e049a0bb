"""`--since`, `--from` and `--until`: what they ask for, and what is refused by the option's name."""

import pytest

from consumers.views.report import Range
from pipeline.errors import SettingsError
from sidestream.cli.look.ranges import parse_range, said_range

NOW_S = 1_795_737_600 + 21 * 3_600
"""2026-11-27 21:00 UTC."""

DAY_S = 86_400
MIDNIGHT_S = NOW_S - 21 * 3_600


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((None, None, None), (NOW_S - DAY_S, None)),
        (("90m", None, None), (NOW_S - 5_400, None)),
        (("today", None, None), (MIDNIGHT_S, None)),
        (("yesterday", None, None), (MIDNIGHT_S - DAY_S, None)),
        ((None, "2026-11-26", None), (MIDNIGHT_S - DAY_S, None)),
        ((None, "2026-11-26", "2026-11-27T12:00"), (MIDNIGHT_S - DAY_S, MIDNIGHT_S + 12 * 3_600)),
        ((None, "2026-11-27T14:00+02:00", "2026-11-27T13:00:00Z"), (MIDNIGHT_S + 12 * 3_600, MIDNIGHT_S + 13 * 3_600)),
        ((None, "2026-11-26", "2030-01-01"), (MIDNIGHT_S - DAY_S, None)),
    ],
)
def test_a_range_is_a_duration_back_or_two_instants(
    options: tuple[str | None, str | None, str | None], wanted: tuple[int, int | None]
) -> None:
    """UTC where no zone is said; an end that is yet to come is now."""
    assert parse_range(*options).at(NOW_S) == wanted


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("gestern", None, None), "--since: 'gestern' is no duration"),
        (("0h", None, None), "--since: '0' covers no time"),
        (("1h", "2026-11-26", None), "--since and --from: say it by one of them"),
        (("1h", None, "2026-11-26"), "--since and --until: say it by one of them"),
        ((None, None, "2026-11-26"), "--until: say --from as well"),
        ((None, "yesterday", None), "--from: 'yesterday' is no instant"),
        ((None, "2026-11-26", "13:00"), "--until: '13:00' is no instant"),
        ((None, "2026-11-27", "2026-11-26"), "--until: 2026-11-26 is not after --from 2026-11-27"),
        ((None, "2026-11-27", "2026-11-27"), "--until: 2026-11-27 is not after --from 2026-11-27"),
        ((None, "2026-11-28", None), "--from: 2026-11-28 00:00 UTC is yet to come; it is 2026-11-27 21:00 UTC"),
        ((None, "2020-01-01", "2021-01-01"), "--until: nothing of before 2021-01-01 00:00 UTC is kept any more"),
    ],
)
def test_what_is_no_range_is_refused_by_the_options_name(
    options: tuple[str | None, str | None, str | None], said: str
) -> None:
    """Nothing else is shown instead."""
    with pytest.raises(SettingsError) as refused:
        parse_range(*options).at(NOW_S)
    assert str(refused.value).startswith(said)


def test_a_range_up_to_now_ends_now() -> None:
    """Not with the window that runs."""
    assert said_range(Range(MIDNIGHT_S, NOW_S + 10), NOW_S + 4) == "2026-11-27 00:00 to now (21:00:04 UTC)"
    assert said_range(Range(MIDNIGHT_S, NOW_S), NOW_S) == "2026-11-27 00:00 to 2026-11-27 21:00 UTC"
