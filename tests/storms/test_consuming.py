"""A short storm with every guard in place, and one without each: a storm that cannot fail proves nothing."""

import threading

import pytest
from storms.attempts import names_of_failed, until_caught, until_decided
from storms.consuming import Storm, raging, report, run
from storms.consuming_plan import LEAST_A_MINUTE, NEEDED, TAKES_S, WEIGHTS
from storms.consuming_variants import CAUGHT_BY, VARIANTS, edited
from storms.plan import plan, shortfalls

SECONDS = 16


def test_every_event_is_counted_once() -> None:
    """Workers and the server are killed, frozen, filled and rolled back; a naive model finds every number again."""
    outcome = until_decided(lambda seed: run(seed, SECONDS), seed=7)
    assert outcome.code == 0, report(outcome)
    assert outcome.lost > 0, report(outcome)


# Two books at once, a FLUSHALL and the rest of the controls take longer: `make storm` has them all.
@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"any_recipe", "late_validation"}))
def test_the_storm_catches_what_a_missing_guard_lets_through(variant: str) -> None:
    """Without one guard the same storm fails, by the check that the guard is there for."""
    outcome = until_caught(lambda seed: run(seed, 1, variant), seed=2, by=CAUGHT_BY[variant])
    assert names_of_failed(outcome) & CAUGHT_BY[variant], report(outcome)


def test_every_storm_has_every_kind_of_fault() -> None:
    """A storm as long as the one above plans every fault, whatever its seed; a variant's begins with its own."""
    planned = [plan(seed, SECONDS, WEIGHTS, takes_s=TAKES_S) for seed in range(100)]
    assert all({fault.name for fault in faults} == set(WEIGHTS) for faults in planned)
    assert set(WEIGHTS) <= {*LEAST_A_MINUTE, "remember the server"}
    for needed in NEEDED.values():
        assert [fault.name for fault in plan(1, 1, WEIGHTS, first=needed)][: len(needed)] == list(needed)


def test_a_variant_that_finds_nothing_to_remove_is_an_error() -> None:
    """A guard that has moved must not pass for one that nobody needs."""
    with pytest.raises(LookupError, match="bring this variant up to date"):
        edited("commit", ("no such text", ""))


def test_a_run_with_too_little_in_it_is_invalid() -> None:
    """What makes a short run valid does not do for a long one; of every kind there must be at least one."""
    enough = dict.fromkeys(LEAST_A_MINUTE, 1) | {"events": 1_000, "set aside": 10, "commit OK": 10}
    assert not shortfalls(enough, 3, LEAST_A_MINUTE)
    assert shortfalls(enough, 60, LEAST_A_MINUTE)
    assert shortfalls(enough | {"commit GONE": 0}, 3, LEAST_A_MINUTE) == ["commit GONE: 0, fewer than 1"]


def test_a_storm_that_breaks_leaves_nobody_behind() -> None:
    """An error of the storm's own ends its processes and its threads, and is seen."""
    before = threading.active_count()
    found: list[Storm] = []
    with pytest.raises(ZeroDivisionError):
        _break(found)
    (storm,) = found
    assert threading.active_count() == before
    assert all(process.returncode is not None for process in storm.workers.living.values())
    assert storm.server.process.returncode is not None


def _break(found: list[Storm]) -> None:
    with raging(1, "none", "valkey") as storm:
        found.append(storm)
        storm.workers.start()
        raise ZeroDivisionError
