"""Health, decided from what loops tell: every branch without a clock."""

import pytest

from consumers.runtime.health import HealthWatch, UnitHealth
from pipeline.errors import PermanentError, RefusedError, SidestreamError, UnavailableError, UnreachableError

A, B, TASK = ("metrics", 0), ("metrics", 1), ("alerts", None)
OLDER = PermanentError("a worker with a newer recipe has taken over", code="older_recipe")


def watching(*held: tuple[str, int | None]) -> HealthWatch:
    """Return the watch of a worker that began at 0 and holds units."""
    watch = HealthWatch(0.0)
    watch.holds(set(held), {}, 0.0)
    return watch


def turning(watch: HealthWatch, now_s: float) -> HealthWatch:
    """Let the loop turn, and Redis answer."""
    watch.turned(now_s)
    watch.answered(now_s)
    return watch


def state(watch: HealthWatch, now_s: float) -> tuple[bool, list[str]]:
    """Return whether the worker is ready, and the states of its units."""
    health = turning(watch, now_s).look(now_s)
    return health.ready, [unit.state for unit in health.units]


def test_a_unit_that_commits_or_has_nothing_to_do_is_ok_for_ever() -> None:
    """Days without an event are no trouble."""
    watch = watching(A)
    for now_s in range(0, 86_400, 50):
        watch.progressed(A, now_s)
        assert state(watch, now_s) == (True, ["ok"])


def test_a_unit_that_does_neither_is_stuck_whatever_the_reason() -> None:
    """Nothing failed, nothing was said: its cursor has not moved, and that is enough."""
    watch = watching(A, B)
    watch.progressed(B, 60)
    assert state(watch, 60) == (True, ["ok", "ok"])
    assert state(watch, 61) == (False, ["stuck", "ok"])
    assert watch.look(61).why.startswith("metrics, partition 0: stuck for 61 s: entries wait")
    watch.progressed(A, 62)
    assert state(watch, 62) == (True, ["ok", "ok"])


def test_what_may_go_on_by_itself_waits_and_is_stuck_after_a_while() -> None:
    """A restart of Redis is not yet an illness."""
    watch = watching(A)
    watch.progressed(A, 9)
    for now_s in (10, 40, 69):
        watch.failed(A, "unavailable", "LOADING", now_s)
    assert state(watch, 69) == (True, ["waiting"])
    assert watch.look(69).units == (UnitHealth("metrics", 0, "waiting", "unavailable", "LOADING", 59.0),)
    assert state(watch, 70) == (False, ["stuck"])


def test_what_repeating_cannot_mend_is_stuck_at_once() -> None:
    """NOPERM, WRONGTYPE, a revoked token: somebody is needed, now."""
    watch = watching(A, TASK)
    watch.failed(A, "refused", "NOPERM", 5, permanent=True)
    assert state(watch, 5) == (False, ["ok", "stuck"])
    watch.progressed(A, 6)
    watch.failed(TASK, "refused", "WRONGTYPE", 7, permanent=True)
    assert watch.look(8).why == "alerts: stuck for 1 s: WRONGTYPE"


def test_what_is_another_workers_duty_is_stuck_only_while_nobody_does_it() -> None:
    """A newer recipe is in force: as long as one that has it holds the unit, this worker is well."""
    watch = watching(A)
    watch.left(A, OLDER, 1)
    watch.holds(set(), {A: ""}, 2)
    assert state(watch, 61) == (True, ["waiting"])
    assert state(watch, 62) == (False, ["stuck"])
    assert "nobody holds it" in watch.look(62).why
    watch.holds(set(), {A: "w2"}, 63)
    assert state(watch, 120) == (True, ["waiting"])
    assert "left to w2" in watch.look(120).why
    watch.holds(set(), {A: ""}, 130)
    assert state(watch, 130) == (False, ["stuck"])
    watch.may_carry(A)
    watch.holds({A}, {A: "w1"}, 131)
    assert state(watch, 132) == (True, ["ok"])


def test_a_unit_that_is_handed_over_is_nobodys_trouble_here() -> None:
    """It is forgotten with its trouble; taken again, its time begins anew."""
    watch = watching(A)
    watch.failed(A, "refused", "NOPERM", 5, permanent=True)
    watch.holds(set(), {}, 6)
    assert state(watch, 6) == (True, [])
    watch.holds({A}, {}, 500)
    assert state(watch, 510) == (True, ["ok"])


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UnreachableError("refused"), "Redis has not answered for 75 s"),
        (UnavailableError("READONLY"), "Redis has taken nothing for 75 s: READONLY"),
    ],
)
def test_redis_away_for_longer_than_that_is_unhealthy(error: SidestreamError, why: str) -> None:
    """A worker that holds nothing says so as well; it stays live, for a restart brings no Redis back."""
    watch = watching()
    for now_s in (1, 30, 59):
        watch.turned(now_s)
        watch.unanswered(error, now_s, permanent=False)
        assert watch.look(now_s).ready
    watch.turned(75)
    health = watch.look(75)
    assert (health.live, health.ready, health.why, health.redis_error) == (True, False, why, error.code)
    watch.answered(76)
    assert watch.look(76).ready


def test_redis_that_refuses_the_worker_is_unhealthy_at_once() -> None:
    """A wrong password does not mend itself."""
    watch = watching()
    watch.unanswered(RefusedError("NOAUTH"), 3, permanent=True)
    assert not watch.look(3).ready


def test_a_loop_that_does_not_turn_is_not_live() -> None:
    """Whatever the units said last: nobody has looked since."""
    watch = watching(A)
    health = watch.look(60.5)
    assert (health.live, health.ready) == (False, False)
    assert health.why == "the worker's loop has not turned for 60 s"


def test_the_reason_is_that_of_the_worst() -> None:
    """Stuck before waiting, the longest first; the rest is counted."""
    watch = watching(A, B, TASK)
    watch.failed(TASK, "refused", "late", 5, permanent=True)
    watch.failed(A, "refused", "early", 2, permanent=True)
    watch.failed(B, "unreachable", "waits", 1)
    assert watch.look(10).why == "metrics, partition 0: stuck for 8 s: early (and 1 more)"
    assert [unit.why for unit in watch.look(10).troubles] == ["early", "late", "waits"]


def test_a_reason_is_one_line_and_short() -> None:
    """It may quote what a server said."""
    watch = watching(A)
    watch.failed(A, "refused", "a\nb\r\n" + "x" * 10_000, 1, permanent=True)
    assert len(watch.look(2).why.splitlines()) == 1
    assert len(watch.look(2).why) < 400
