"""Leases: fair, stable, and decided by a pure function."""

from hypothesis import given
from hypothesis import strategies as st

from consumers.runtime.lease import LeaseView, decide

UNITS = 12


def settle(alive: list[str], owners: list[str]) -> list[str]:
    """Let every worker decide in turn until nothing changes; the one who asks first gets a free unit."""
    owners = [owner if owner in alive else "" for owner in owners]
    for _ in range(len(alive) * 3):
        for worker in alive:
            plan = decide(LeaseView(worker, owners, alive))
            for position in plan.hand_back:
                owners[position] = ""
            for position in plan.take:
                owners[position] = owners[position] or worker
    return owners


@given(st.integers(1, 7))
def test_every_unit_has_an_owner_and_nobody_has_more_than_a_fair_share(workers: int) -> None:
    """Shares differ by what rounding up costs, and no unit is left."""
    alive = [f"w{n}" for n in range(workers)]
    owners = settle(alive, [""] * UNITS)
    assert "" not in owners
    assert max(owners.count(worker) for worker in alive) <= -(-UNITS // workers)


def test_a_worker_that_joins_takes_only_its_share() -> None:
    """Units move to the newcomer, and between nobody else."""
    before = settle(["a", "b"], [""] * UNITS)
    after = settle(["a", "b", "c"], before)
    moved = [position for position in range(UNITS) if before[position] != after[position]]
    assert {after[position] for position in moved} == {"c"}
    assert len(moved) == UNITS // 3


def test_a_worker_that_dies_leaves_its_units_to_the_others() -> None:
    """Nothing else moves."""
    before = settle(["a", "b", "c"], [""] * UNITS)
    after = settle(["a", "b"], before)
    assert all(after[n] == before[n] for n in range(UNITS) if before[n] != "c")
    assert "" not in after


def test_two_that_look_at_once_reach_for_different_units() -> None:
    """They would otherwise both try the same lease and lose half their tries."""
    first = decide(LeaseView("a", [""] * UNITS, ["a", "b"]))
    second = decide(LeaseView("b", [""] * UNITS, ["a", "b"]))
    assert not set(first.take) & set(second.take)
