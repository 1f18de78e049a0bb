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
            plan = decide(LeaseView(worker, "metrics", owners, alive))
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


def test_the_larger_shares_of_different_handlers_go_to_different_workers() -> None:
    """With four partitions and three workers nobody is left without work."""
    alive = ["a", "b", "c"]
    larger: set[str] = set()
    for handler in ("v1:metrics", "v1:cost", "v1:export"):
        plans = {worker: decide(LeaseView(worker, handler, [""] * 4, alive)) for worker in alive}
        assert sorted(len(plan.take) for plan in plans.values()) == [1, 1, 2]
        larger |= {worker for worker, plan in plans.items() if len(plan.take) > 1}
    assert len(larger) > 1


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
    first = decide(LeaseView("a", "metrics", [""] * UNITS, ["a", "b"]))
    second = decide(LeaseView("b", "metrics", [""] * UNITS, ["a", "b"]))
    assert not set(first.take) & set(second.take)


def test_a_worker_that_is_behind_leaves_everything_to_those_who_are_not() -> None:
    """Whoever is not among those that may carry every unit hands back what it has, and takes nothing."""
    plan = decide(LeaseView("old", "metrics", ["old", "", "new", "old"], ["new"]))
    assert (plan.take, plan.hand_back) == ([], [0, 3])


def test_among_workers_that_are_behind_each_takes_only_what_it_may() -> None:
    """There is nobody else: what none of them may carry stays free, the rest is shared."""
    plan = decide(LeaseView("a", "metrics", ["a", "", "a", ""], ["a"], frozenset({0, 1})))
    assert (sorted(plan.take), plan.hand_back) == ([2, 3], [0])
