"""A short storm with every guard in place, and one without each: a storm that cannot fail proves nothing."""

import pytest
from storms.producing import plan, report, run
from storms.variants import CAUGHT_BY, VARIANTS


def test_nothing_safe_is_lost_or_doubled_and_every_loss_is_counted() -> None:
    """Applications, forks and the server are killed, frozen and put back; the oracle finds nothing against them."""
    outcome = run(seed=7, seconds=12)
    assert outcome.code == 0, report(outcome)
    assert outcome.lost > 0, report(outcome)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_storm_catches_what_a_missing_guard_lets_through(variant: str) -> None:
    """Without one guard the same storm fails, by the check that the guard is there for."""
    outcome = run(seed=2, seconds=5, variant=variant)
    assert not outcome.invalid, report(outcome)
    failed = {check.name for check in outcome.failed}
    assert failed & CAUGHT_BY[variant], report(outcome)


def test_a_seed_decides_what_happens() -> None:
    """The same seed plans the same storm, another one another."""
    assert plan(1, 60) == plan(1, 60) != plan(2, 60)


def test_a_run_with_too_little_in_it_is_invalid() -> None:
    """A storm of a moment has too few events or faults: its exit code says that it proves nothing."""
    outcome = run(seed=1, seconds=0.1)
    assert outcome.code == 2
    assert outcome.invalid
