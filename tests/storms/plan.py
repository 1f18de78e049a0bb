"""What a storm will do, decided by its seed before it begins; and how much must have happened for a run to count."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

PAUSE_S: Final = (0.1, 0.5)
"""Between two faults."""

WEIGHTS: Final[Mapping[str, int]] = {
    "kill an application": 6,
    "kill a fork": 3,
    "freeze an application": 3,
    "freeze a fork": 2,
    "freeze the server": 2,
    "kill the server": 2,
    "remember the server": 2,
    "roll the server back": 1,
    "fill the server": 2,
    "forget scripts": 2,
    "cut connections": 3,
}
LEAST_A_MINUTE: Final[Mapping[str, int]] = {
    "taken": 20_000,
    "refused": 20,
    "appended": 40,
    "spooled": 10,
    "kill an application": 6,
    "kill a fork": 2,
    "freeze an application": 2,
    "freeze a fork": 1,
    "freeze the server": 1,
    "kill the server": 1,
    "roll the server back": 1,
    "fill the server": 1,
    "forget scripts": 1,
    "cut connections": 2,
    "refuse": 200,
    "drop_reply": 150,
    "cut_before": 40,
    "delay": 40,
}
"""Events, flushes that confirmed a level, and faults of each kind: in a minute, and at least one however short the run.

About a third of what two cores see at `RATES` of the proxy, and of what the rarest kinds come to by the dice.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens, how long after the fault before it, and for how long."""

    name: str
    after_s: float
    lasts_s: float


def plan(  # noqa: PLR0913 - each names a knob of the plan
    seed: int,
    seconds: float,
    kinds: Mapping[str, int] = WEIGHTS,
    *,
    takes_s: Mapping[str, float] = MappingProxyType({}),
    first: Sequence[str] | None = None,
    pause_s: tuple[float, float] = PAUSE_S,
) -> list[Fault]:
    """Return what will happen: every kind of fault once in a random order, then as the dice fall.

    Args:
        seed: Of the dice.
        seconds: How long it takes, about.
        kinds: Which faults there are, and how often each comes.
        takes_s: How long a fault takes besides what it lasts, about.
        first: What comes first, in this order and however short the time, instead of each kind once.
        pause_s: Between two faults, from and to.
    """
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    names, weights = list(kinds), list(kinds.values())
    given = first is not None
    first = list(first) if first is not None else dice.sample(names, len(names))
    # There must be something to go back to.
    if "remember the server" in first:
        first.remove("remember the server")
        first.insert(0, "remember the server")
    least_s, most_s = pause_s
    found: list[Fault] = []
    passed_s = 0.0
    while passed_s < seconds or (given and first):
        name = first.pop(0) if first else dice.choices(names, weights)[0]
        after_s = dice.uniform(least_s, min(most_s, max(least_s, seconds / 20)))
        lasts_s = dice.uniform(0.05, min(1.5, seconds / 12))
        passed_s += after_s + takes_s.get(name, 0.0) + (lasts_s if name.startswith(("freeze", "fill")) else 0.0)
        found.append(Fault(name, after_s, lasts_s))
    return found


def shortfalls(
    happened: Mapping[str, int], seconds: float, least_a_minute: Mapping[str, int] = LEAST_A_MINUTE
) -> list[str]:
    """Return what happened too seldom for a run of this length to prove anything."""
    found: list[str] = []
    for name, a_minute in least_a_minute.items():
        least = max(1, int(a_minute * seconds / 60))
        if happened.get(name, 0) < least:
            found.append(f"{name}: {happened.get(name, 0):,}, fewer than {least:,}")
    return found
