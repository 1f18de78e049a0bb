"""A short storm with every guard in place, and one without each: a storm that cannot fail proves nothing."""

import threading

import pytest
from storms.attempts import names_of_failed, until_caught, until_decided
from storms.plan import LEAST_A_MINUTE, WEIGHTS, plan, shortfalls
from storms.producing import Storm, raging, report, run
from storms.variants import CAUGHT_BY, VARIANTS


def test_nothing_safe_is_lost_or_doubled_and_every_loss_is_counted() -> None:
    """Applications, forks and the server are killed, frozen and put back; the oracle finds nothing against them."""
    outcome = until_decided(lambda seed: run(seed, seconds=12), seed=7)
    assert outcome.code == 0, report(outcome)
    assert outcome.lost > 0, report(outcome)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_storm_catches_what_a_missing_guard_lets_through(variant: str) -> None:
    """Without one guard the same storm fails, by the check that the guard is there for."""
    outcome = until_caught(lambda seed: run(seed, 3, variant), seed=2, by=CAUGHT_BY[variant])
    assert names_of_failed(outcome) & CAUGHT_BY[variant], report(outcome)


def test_a_seed_decides_what_happens() -> None:
    """The same seed plans the same storm, another one another."""
    assert plan(1, 60) == plan(1, 60) != plan(2, 60)


def test_every_storm_has_every_kind_of_fault() -> None:
    """A storm of twelve seconds or more plans every fault, whatever its seed."""
    assert all({fault.name for fault in plan(seed, 12)} == set(WEIGHTS) for seed in range(100))


def test_a_longer_storm_must_have_more_in_it() -> None:
    """What makes a short run valid does not do for a long one; of every kind there must be at least one."""
    once = dict.fromkeys(LEAST_A_MINUTE, 1) | {"taken": 1000}
    assert not shortfalls(once, 0.3)
    assert shortfalls(once, 60)
    assert shortfalls(once | {"delay": 0}, 0.3) == ["delay: 0, fewer than 1"]


def test_a_run_with_too_little_in_it_is_invalid() -> None:
    """A storm of a moment has too few events or faults: its exit code says that it proves nothing."""
    outcome = run(seed=1, seconds=0.1)
    assert outcome.code == 2
    assert outcome.invalid


def test_a_storm_that_breaks_leaves_nobody_behind() -> None:
    """An error of the storm's own ends its processes and its threads, and is seen."""
    before = threading.active_count()
    found: list[Storm] = []
    with pytest.raises(ZeroDivisionError):
        _break(found)
    (storm,) = found
    assert threading.active_count() == before
    assert not storm.applications.living
    assert storm.server.process.returncode is not None


def _break(found: list[Storm]) -> None:
    with raging(1, "none", "valkey") as storm:
        found.append(storm)
        storm.start_application()
        raise ZeroDivisionError
