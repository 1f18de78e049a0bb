"""What the consuming side's storm will do, and how much must have happened for a run to count."""

from collections.abc import Mapping, Sequence
from typing import Final

WEIGHTS: Final[Mapping[str, int]] = {
    "kill a worker": 6,
    "freeze a worker": 3,
    "drain a worker": 2,
    "commit too late": 3,
    "freeze the server": 2,
    "kill the server": 2,
    "remember the server": 2,
    "roll the server back": 1,
    "roll back under a commit": 2,
    "fill the server": 2,
    "forget scripts": 2,
    "cut connections": 3,
}
KILLS: Final[Mapping[str, int]] = {"kill a worker": 12, "freeze a worker": 1, "commit too late": 1}
"""What happens where only workers suffer, and the server does not."""

KILLS_PAUSE_S: Final = (0.8, 2.2)
"""Between two of these: a worker needs a second to begin."""

TAKES_S: Final[Mapping[str, float]] = {
    "freeze a worker": 1.5,
    "commit too late": 2.5,
    "roll back under a commit": 1.0,
    "kill the server": 0.5,
    "roll the server back": 0.5,
}
"""How long a fault takes, besides what it lasts."""

LEAST_A_MINUTE: Final[Mapping[str, int]] = {
    "events": 20_000,
    "set aside": 200,
    "commit OK": 200,
    "commit STALE": 4,
    "commit GONE": 1,
    "kill a worker": 4,
    "freeze a worker": 2,
    "drain a worker": 1,
    "commit too late": 1,
    "freeze the server": 1,
    "kill the server": 1,
    "roll the server back": 1,
    "roll back under a commit": 1,
    "fill the server": 1,
    "forget scripts": 1,
    "cut connections": 1,
    "refuse": 15,
    "drop_reply": 30,
    "cut_before": 10,
    "delay": 10,
}
"""Events, commits by their answer, and faults of each kind: in a minute, and at least one however short the run."""

ALWAYS_NEEDED: Final = ("events", "set aside", "commit OK")
KILLED_A_MINUTE: Final = 20
"""Workers killed, where only they suffer."""

MALFORMED_A_MINUTE: Final = 10_000
"""Events that must be set aside, where most entries are bad."""

TRIMMED_A_MINUTE: Final = 2_000
"""Events, where streams are trimmed, since the last rollback: it takes the counter along."""

NEEDED: Final[Mapping[str, Sequence[str]]] = {
    "no_cursor": ("commit too late", "freeze a worker"),
    "no_gone": ("roll back under a commit",),
    "any_recipe": ("kill a worker", "drain a worker"),
    "cursor_first": ("kill a worker", "kill a worker"),
    "maxlen": ("kill a worker", "freeze a worker"),
    "late_validation": ("plant a wrong type",),
    "letters_again": ("cut connections",),
    "early_answer": ("kill a worker",),
    "two_books": ("kill a worker", "drain a worker"),
    "wrong_type": ("plant a wrong type", "kill a worker"),
    "flushed": ("kill a worker", "kill the server"),
    "killed": ("kill a worker", "freeze a worker", "commit too late"),
    "malformed": ("kill a worker", "freeze a worker", "commit too late"),
    "trimmed": ("remember the server", "kill a worker", "roll the server back", "freeze a worker", "commit too late"),
}
"""Variant -> the faults its guard is there for: they come first, and a short run has no others."""
