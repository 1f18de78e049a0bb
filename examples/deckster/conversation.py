"""The states of a presentation, who works in each, and where each outcome leads."""

from enum import StrEnum


class State(StrEnum):
    """Where a presentation stands."""

    GREETING = "greeting"
    CLARIFYING = "clarifying"
    OUTLINING = "outlining"
    WRITING = "writing"
    REVIEWING = "reviewing"
    DONE = "done"


AGENT_OF_STATE: dict[State, str] = {
    State.GREETING: "greeter",
    State.CLARIFYING: "clarifier",
    State.OUTLINING: "outliner",
    State.WRITING: "writer",
    State.REVIEWING: "reviewer",
}

_ONWARD: dict[State, State] = {
    State.GREETING: State.CLARIFYING,
    State.CLARIFYING: State.OUTLINING,
    State.OUTLINING: State.WRITING,
    State.WRITING: State.REVIEWING,
    State.REVIEWING: State.DONE,
}
_BACK: dict[State, State] = {State.REVIEWING: State.WRITING}


def next_state(state: State, *, is_satisfied: bool) -> State:
    """Return the state that follows; an unsatisfying result leads back, or leaves the presentation where it is."""
    return _ONWARD[state] if is_satisfied else _BACK.get(state, state)
