"""What the offline models say: one function for each agent, from what it was asked to what it answers."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import JsonValue

_WORDS = ("growth", "market", "margin", "customer", "launch", "roadmap", "quarter", "pilot", "budget", "forecast")
_ENOUGH_CHARACTERS = 120
"""A brief of this length answers all questions; a shorter one does so with the luck below."""
_LUCK_RATIO = 0.6
_APPROVED_RATIO = 0.75
_WORDS_OF_SPEAKER_NOTES = 2_400


@dataclass(frozen=True)
class Asked:
    """A request as a model sees it: the user's words, whether its tools have answered, and a source of chance."""

    prompt: str
    tools_answered: bool
    dice: random.Random


@dataclass(frozen=True)
class Reply:
    """What a model answers: text, the fields of a structured output, or tools to call with their arguments."""

    text: str = ""
    output: dict[str, JsonValue] | None = None
    tools: list[tuple[str, dict[str, JsonValue]]] = field(default_factory=list[tuple[str, dict[str, JsonValue]]])


Script = Callable[[Asked], Reply]


def greet(asked: Asked) -> Reply:
    """Welcome the user and ask what the presentation is about."""
    return Reply(text=f"Welcome to Deckster! {_prose(asked.dice, 25)} What is it about, and who will listen?")


def clarify(asked: Asked) -> Reply:
    """Ask what is still missing, until the brief is long enough to work with."""
    enough = len(asked.prompt) > _ENOUGH_CHARACTERS or asked.dice.random() < _LUCK_RATIO
    questions: list[JsonValue] = [f"{_prose(asked.dice, 10)[:-1]}?" for _ in range(0 if enough else 3)]
    return Reply(output={"enough": enough, "questions": questions})


def outline(asked: Asked) -> Reply:
    """Look for a template first, then order the slides."""
    if not asked.tools_answered:
        return Reply(tools=[("find_template", {"topic": asked.prompt[:40]})])
    slides: list[JsonValue] = [_prose(asked.dice, 8) for _ in range(asked.dice.randint(5, 9))]
    return Reply(output={"title": _prose(asked.dice, 5), "slides": slides})


def write(asked: Asked) -> Reply:
    """Look up figures and a layout at once, then write; speaker notes make it several times longer."""
    if not asked.tools_answered:
        return Reply(
            tools=[
                ("look_up_figures", {"topic": asked.prompt[:40]}),
                ("pick_layout", {"slides": asked.dice.randint(5, 9)}),
            ]
        )
    length = _WORDS_OF_SPEAKER_NOTES if "speaker notes" in asked.prompt else asked.dice.randint(150, 350)
    return Reply(text=_prose(asked.dice, length))


def review(asked: Asked) -> Reply:
    """Approve most decks, send some back with remarks."""
    if not asked.tools_answered:
        return Reply(tools=[("check_spelling", {"text": asked.prompt[:80]})])
    approved = asked.dice.random() < _APPROVED_RATIO
    remarks: list[JsonValue] = [_prose(asked.dice, 12) for _ in range(0 if approved else 2)]
    return Reply(output={"approved": approved, "remarks": remarks})


def _prose(dice: random.Random, words: int) -> str:
    return " ".join(dice.choices(_WORDS, k=words)).capitalize() + "."
