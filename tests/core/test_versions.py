"""The document of versions: which version answers, who carries it, and what cannot be done."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.versions import (
    ALL_DAYS,
    FIRST_VERSION,
    Days,
    Replay,
    Versions,
    VersionsError,
    decode_versions,
    encode_versions,
)

DAY_S = 86_400
NOV = Days(1_793_491_200, 1_793_491_200 + 3 * DAY_S)
"""From 2026-11-01 to 2026-11-03."""


def asked(handlers: tuple[str, ...] = ("cost",), days: Days = ALL_DAYS) -> Replay:
    """Return what is asked for, with one recipe and one that it replaces."""
    recipes = dict.fromkeys(handlers, "new")
    return Replay(0, "b0", handlers, days, recipes, 1, replaces=dict.fromkeys(handlers, ("old",)))


def swapped(versions: Versions, replay: Replay) -> Versions:
    """Begin a replay and bring it to answering."""
    begun = versions.begin(replay)
    number = begun.next - 1
    return begun.caught_up(number).swap(number)


def test_a_fresh_namespace_has_one_version() -> None:
    """It answers for everything, and nothing is stored of it."""
    assert decode_versions(None) == FIRST_VERSION
    assert FIRST_VERSION.answering("metrics", 0) == 1
    assert FIRST_VERSION.read("metrics") == FIRST_VERSION.carried("metrics") == FIRST_VERSION.all("metrics") == [1]


def test_a_replay_answers_for_its_days_and_handlers_once_it_is_swapped_in() -> None:
    """Before that, and outside of them, the base does."""
    begun = FIRST_VERSION.begin(asked(days=NOV)).caught_up(2)
    assert begun.answering("cost", NOV.from_s) == 1
    found = begun.swap(2)
    assert [found.answering("cost", NOV.from_s + n * DAY_S) for n in (-1, 0, 2, 3)] == [1, 2, 2, 1]
    assert found.answering("metrics", NOV.from_s) == 1
    assert found.read("cost") == [1, 2]
    assert found.read("metrics") == [1]


def test_the_latest_swap_answers_and_rolls_back_first() -> None:
    """Two that overlap lie one over the other."""
    found = swapped(swapped(FIRST_VERSION, asked()), asked(days=NOV))
    assert (found.answering("cost", NOV.from_s), found.answering("cost", 0)) == (3, 2)
    assert found.read("cost") == [2, 3], "the base answers for nothing"
    back, number = found.rollback()
    assert number == 3
    assert back.answering("cost", NOV.from_s) == 2
    back, number = back.rollback()
    assert (number, back.answering("cost", NOV.from_s)) == (2, 1)
    assert back.swap(3).answering("cost", NOV.from_s) == 3, "what was rolled back can be swapped in again"


def test_what_is_being_built_is_carried_by_replays_alone() -> None:
    """Workers take it once it has caught up."""
    begun = FIRST_VERSION.begin(asked())
    assert begun.carried("cost") == [1]
    assert begun.caught_up(2).carried("cost") == [1, 2]
    assert begun.caught_up(2).caught_up(2) == begun.caught_up(2)


def test_recipes_decide_who_carries_a_replay() -> None:
    """Before it answers the named one alone; then also later ones, but never one that it has replaced."""
    begun = FIRST_VERSION.begin(asked()).caught_up(2)
    assert [begun.replay(2).takes("cost", recipe) for recipe in ("new", "old", "later")] == [True, False, False]
    answering = begun.swap(2)
    assert [answering.replay(2).takes("cost", recipe) for recipe in ("new", "old", "later")] == [True, False, True]
    back, _ = answering.rollback()
    assert back.replay(2).takes("cost", "later"), "what has taken it over meanwhile can go on"
    assert not back.replay(2).takes("metrics", "new")


def test_a_base_is_replaced_by_what_was_swapped_in_first() -> None:
    """Its number stays known to readers as the base, and is never used again."""
    both = swapped(swapped(FIRST_VERSION, asked()), asked(days=NOV))
    with pytest.raises(VersionsError, match="version 2 was swapped in before version 3"):
        both.taken_over(3)
    found = both.taken_over(2)
    assert (found.base("cost"), found.base("metrics")) == (2, 1)
    assert found.answering("cost", NOV.from_s) == 3
    assert found.next == 4


WRONG: dict[str, Callable[[Versions], object]] = {
    "drop one before another is begun": lambda found: found.begin(asked()).begin(asked()),
    "answers already": lambda found: found.swap(2),
    "has not caught up": lambda found: found.begin(asked()).swap(3),
    "no replay of version 7; there are: 2": lambda found: found.replay(7),
    "rollback` first, if it is to go": lambda found: found.dropped(2),
    "that of version 2 by now": lambda found: found.rolled_back(3),
    "nothing to roll back": lambda found: found.rollback()[0].rollback(),
    "has not been swapped in": lambda found: found.rollback()[0].taken_over(2),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_cannot_be_done_says_why(why: str) -> None:
    """And names what can be."""
    with pytest.raises(VersionsError, match=why):
        WRONG[why](swapped(FIRST_VERSION, asked()))


def test_a_document_survives_its_bytes() -> None:
    """And a later one is refused by its schema."""
    found = swapped(FIRST_VERSION, asked(days=NOV))
    assert decode_versions(encode_versions(found)) == found
    assert encode_versions(found) == (
        b'{"next":3,"replays":[{"number":2,"born":"b0","handlers":["cost"],"days":[1793491200,1793750400],'
        b'"recipes":{"cost":"new"},"began_ms":1,"progress":"swapped","answered":true,"replaces":{"cost":["old"]}}]}'
    )
    with pytest.raises(VersionsError, match="schema 2"):
        decode_versions(b'{"schema":2}')
    with pytest.raises(VersionsError, match="cannot be read"):
        decode_versions(b"[]")


def test_days_say_what_they_are() -> None:
    """In words, the last day included."""
    assert [str(days) for days in (ALL_DAYS, NOV, Days(NOV.from_s), Days(0, NOV.until_s))] == [
        "all days",
        "from 2026-11-01 to 2026-11-03",
        "from 2026-11-01",
        "to 2026-11-03",
    ]
    assert str(Days(NOV.from_s, NOV.from_s + DAY_S)) == "2026-11-01"


_ends = st.integers(0, 6)


@given(_ends, _ends, _ends, _ends)
def test_days_include_what_they_cover(first: int, last: int, other_first: int, other_last: int) -> None:
    """One includes another exactly if it covers each of its days."""
    one, other = Days(first * DAY_S, last * DAY_S), Days(other_first * DAY_S, other_last * DAY_S)
    if (last and last <= first) or (other_last and other_last <= other_first):
        return
    days = [n * DAY_S for n in range(12)]
    assert one.include(other) == all(one.cover(day) for day in days if other.cover(day))
