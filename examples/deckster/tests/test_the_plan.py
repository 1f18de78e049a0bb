"""The course of a run: states, visitors and alert rules."""

import tomllib
from pathlib import Path

from examples.deckster.conversation import AGENT_OF_STATE, State, next_state
from examples.deckster.visitors import plan_visitors

RULES = Path(__file__).parents[1] / "rules.toml"


def test_a_satisfied_user_comes_from_greeting_to_done() -> None:
    """Every state but the last has an agent, and leads onward."""
    state, way = State.GREETING, ["greeting"]
    while state is not State.DONE:
        assert state in AGENT_OF_STATE
        state = next_state(state, is_satisfied=True)
        way.append(state.value)
    assert way == [state.value for state in State]


def test_a_rejected_deck_is_written_again_and_an_unclear_brief_asked_again() -> None:
    """An unsatisfying result leads back, or leaves the presentation where it is."""
    assert next_state(State.REVIEWING, is_satisfied=False) is State.WRITING
    assert next_state(State.CLARIFYING, is_satisfied=False) is State.CLARIFYING


def test_the_same_seed_plans_the_same_visitors() -> None:
    """A run can be repeated; another seed gives another run."""
    assert plan_visitors(40, 25, 7) == plan_visitors(40, 25, 7) != plan_visitors(40, 25, 8)


def test_most_visitors_come_in_a_burst_and_the_end_is_quiet() -> None:
    """The burst makes the token rule fire, the quiet end lets it resolve."""
    arrivals = [plan.arrives_s / 25 for plan in plan_visitors(40, 25, 7)]
    assert sum(0.30 <= arrival <= 0.42 for arrival in arrivals) >= 28
    assert max(arrivals) <= 0.70


def test_a_run_of_any_size_has_one_visitor_who_wants_speaker_notes() -> None:
    """There is always an operation slow enough for the slow-operation rule."""
    for sessions in (1, 2, 3, 7, 40, 100):
        plans = plan_visitors(sessions, 25, 7)
        assert len(plans) == sessions
        assert sum("speaker notes" in plan.wish for plan in plans) == 1


def test_the_rules_are_complete() -> None:
    """Each rule has a name of its own, a kind, a threshold, a window and a sentence for whoever is woken by it."""
    rules = tomllib.loads(RULES.read_text(encoding="utf-8"))["alert"]
    assert [(rule["name"], rule["kind"]) for rule in rules] == [
        ("high-token-usage", "tokens"),
        ("slow-operation", "slow_operation"),
    ]
    for rule in rules:
        assert rule["threshold"] > 0
        assert rule["window"] == "10s"
        assert rule["summary"]
