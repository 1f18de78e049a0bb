"""What is refused as invalid says which field, and what is wrong: once in the log, and in an application's tests."""

import logging
from typing import Any, cast

import pytest

import sidestream
from pipeline.events import Resource, UsageEvent
from producers.ledger import MOST_SAID, Ledger
from producers.sealing import Sealer
from sidestream.testing import InvalidEventsError, capture

NOTHING = cast("Any", None)

WRONG: list[tuple[Any, str]] = [
    (lambda: sidestream.usage(NOTHING, "m"), "usage:arguments: agent: text is wanted, not NoneType"),
    (lambda: sidestream.usage("a", cast("Any", 7)), "usage:arguments: model: text is wanted, not int"),
    (lambda: sidestream.usage("a", "m", tags="beta"), "usage:arguments: tags: several texts are wanted, not str"),
    (lambda: sidestream.usage("a", "m", **cast("Any", {"colour": 1})), "'colour'"),
    (lambda: sidestream.usage("a", "m", -1), "UsageEvent: Expected `int` >= 0 - at `$.input_tokens`"),
    (lambda: sidestream.usage("a\ud83d", "m"), "UsageEvent: agent: half of a character (a lone surrogate"),
    (lambda: sidestream.usage("a", "m", tools=["x\udc00"]), "UsageEvent: tools: half of a character (a lone surrogate"),
    (
        lambda: sidestream.track_state_transition("a", "b"),
        "there is no session: give session_id, or use session_context",
    ),
    (lambda: sidestream.track_state_transition("a", "", "s"), "transition:arguments: to_state: it is empty"),
    (lambda: sidestream.track_state_transition("a", "b", cast("Any", 7)), "session_id: text is wanted, not int"),
    (lambda: sidestream.error("E", code=cast("Any", 7)), "error:arguments: code: text is wanted, not int"),
    (lambda: sidestream.error("E", cast("Any", 7)), "error:arguments: message: text is wanted, not int"),
    (lambda: sidestream.operation_done(NOTHING, duration_us=1), "operation:arguments: name: text is wanted, not"),
    (lambda: sidestream.emit(cast("Any", "event")), "unknown:type: an event is wanted, not str"),
]


@pytest.mark.parametrize(("call", "words"), WRONG)
def test_each_wrong_call_is_named_with_its_field(call: Any, words: str) -> None:  # noqa: ANN401 - any call
    """A test of the application shows what production would only count."""
    with pytest.raises(InvalidEventsError) as refused, capture():
        call()
    assert words in str(refused.value)


def test_several_are_shown_a_line_each() -> None:
    """What is wrong in the same way stands once, with how often."""

    def wrong() -> None:
        with capture():
            for _ in range(2):
                sidestream.usage(NOTHING, "m")
            sidestream.track_state_transition("a", "b")

    with pytest.raises(InvalidEventsError) as refused:
        wrong()
    assert [line.strip().partition(":")[0] for line in str(refused.value).splitlines()[1:]] == [
        "2 x usage",
        "1 x transition",
    ]


def test_another_mistake_of_the_same_kind_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    """Each once, up to a few dozen; then one line says that there are more, and all are counted."""
    ledger = Ledger()
    with caplog.at_level(logging.WARNING, "sidestream"):
        for number in range(MOST_SAID + 10):
            for _ in range(3):
                ledger.invalid("usage", "arguments", why=f"field_{number}: is wrong\nat length")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == MOST_SAID + 1
    assert said[1].endswith("(usage, arguments): field_1: is wrong")
    assert "refuses more calls" in said[-1]
    assert ledger.counts(0).losses == {"invalid:usage:arguments": 3 * (MOST_SAID + 10)}
    assert sum(ledger.refusals().values()) == 3 * (MOST_SAID + 10)


def test_a_lone_surrogate_says_what_it_is() -> None:
    """The event alone is refused, by the field that cannot be written; those beside it go out."""
    good, bad = UsageEvent(1, agent="a", model="m"), UsageEvent(1, agent="a", model="m\ud83d")
    encoded = Sealer(Resource(), "mz").encode([good, bad, good])
    assert sum(piece.count for piece in encoded.pieces) == 2
    [(kind, reason, why)] = encoded.invalid
    assert (kind, reason) == ("usage", "unstorable")
    assert why.startswith("model: half of a character")
