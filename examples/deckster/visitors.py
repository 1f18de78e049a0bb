"""Who visits Deckster, when, and with what temper: the plan of a run, drawn from its seed."""

import random
from dataclasses import dataclass
from typing import Literal

from examples.deckster.conversation import State

Whim = Literal["none", "cancels", "drops", "gives_up"]

_QUIET_RATIO = 0.15
"""Visitors before the burst, and again after it, of all visitors; the rest come in the burst."""
_BURST_BEGINS, _BURST_ENDS, _LAST_ARRIVES = 0.30, 0.42, 0.70
"""Moments as parts of the run: it ends quietly, so that an alert that fired in the burst resolves."""
_NOTES_CHARACTERS = 6_000
"""Those of the burst have a board meeting tomorrow, and send all their notes along."""


@dataclass(frozen=True)
class Plan:
    """What one visitor is going to do.

    Args:
        session_id: The session's name.
        user_id: The user's name; some users have several sessions.
        arrives_s: Seconds after the run began.
        brief: What the presentation is about.
        wish: What is said when it is written.
        whim: What goes differently, once: a turn is cancelled, the connection drops and comes back, or the visitor
            leaves for good in the middle of a turn.
        whim_state: The state in which the whim comes.
    """

    session_id: str
    user_id: str
    arrives_s: float
    brief: str
    wish: str
    whim: Whim
    whim_state: State


def plan_visitors(sessions: int, seconds: float, seed: int) -> list[Plan]:
    """Plan a run of `sessions` visitors within `seconds`; the last of the burst wants speaker notes, which are long."""
    quiet = round(sessions * _QUIET_RATIO)
    in_burst = range(quiet, max(quiet + 1, sessions - quiet))
    return [_plan(number, sessions, seconds, seed, in_burst) for number in range(sessions)]


def _plan(number: int, sessions: int, seconds: float, seed: int, in_burst: range) -> Plan:
    dice = random.Random(f"{seed}/visitor/{number}")  # noqa: S311 - chance that can be repeated, not a secret
    if number < in_burst.start:
        arrives = _between(0, _BURST_BEGINS, number, in_burst.start)
    elif number in in_burst:
        arrives = _between(_BURST_BEGINS, _BURST_ENDS, number - in_burst.start, len(in_burst))
    else:
        arrives = _between(_BURST_ENDS, _LAST_ARRIVES, number - in_burst.stop + 1, sessions - in_burst.stop)
    wants_notes = number == in_burst[-1]
    whims: tuple[Whim, ...] = ("none", "cancels", "drops", "gives_up")
    return Plan(
        session_id=f"deck-{seed}-{number:03}",
        user_id=f"user-{dice.randrange(max(1, sessions * 2 // 3)):02}",
        arrives_s=arrives * seconds,
        brief="A deck for the board. " + "Notes of the year. " * (_NOTES_CHARACTERS // 19 if number in in_burst else 5),
        wish="Write it, with full speaker notes for every slide." if wants_notes else "Write it.",
        whim="none" if wants_notes else dice.choices(whims, weights=(60, 16, 16, 8))[0],
        whim_state=dice.choice((State.CLARIFYING, State.OUTLINING, State.WRITING, State.WRITING, State.REVIEWING)),
    )


def _between(start: float, end: float, number: int, of: int) -> float:
    return start + (end - start) * number / max(1, of)
