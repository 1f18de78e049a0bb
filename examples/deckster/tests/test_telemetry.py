"""What Deckster's agents report, as an application's own tests look at it: PydanticAI's TestModel, and no Redis.

The other tests here switch Sidestream off by its own switch. That does not hold for one that asks for
`sidestream_events`: what is reported is captured, whatever the environment says.
"""

from collections.abc import Generator

import pytest
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

import sidestream
from examples.deckster.agents import Deck, Team
from examples.deckster.conversation import State
from examples.deckster.journal import JOURNAL, Journal
from examples.deckster.models import Conditions
from sidestream.testing import Captured

CALM = Conditions(pace=0, failing_ratio=0, stalled_ratio=0, cut_ratio=0, broken_ratio=0)


@pytest.fixture
def team(sidestream_events: Captured) -> Generator[Team]:
    """The agents, observed as the application has them observed."""
    sidestream.instrument_pydantic_ai()
    JOURNAL.set(Journal("deck-1"))
    yield Team(CALM)
    sidestream.uninstrument_pydantic_ai()


async def nobody(_piece: str) -> None:
    """Listen to nothing."""


async def test_a_turn_is_reported_with_its_run_its_requests_and_its_tool(
    team: Team, sidestream_events: Captured
) -> None:
    """TestModel calls each tool once and then answers: two requests, about the session that the turn is of."""
    with (
        team.outliner.override(model=TestModel()),
        sidestream.session_context("deck-1", "ada", state="outlining"),
    ):
        await team.work(State.OUTLINING, Deck("A talk about tides"), "Go on", nobody)
    first, second = sidestream_events.usage
    tool, run = sidestream_events.operations
    assert [(request.agent, request.session, request.user) for request in (first, second)] == [
        ("outliner", "deck-1", "ada")
    ] * 2
    assert (first.tools, tool.name, tool.kind) == (("find_template",), "find_template", "tool")
    assert (run.name, run.kind, run.status, run.state) == ("outliner", "run", "ok", "outlining")
    assert first.run_id == second.run_id == tool.run_id == run.run_id
    assert first.input_tokens > 0
    assert not sidestream_events.errors


async def test_a_model_that_fails_is_one_failed_request_and_one_error(team: Team, sidestream_events: Captured) -> None:
    """The exception passes the request, the run and the session, and is counted once."""

    async def fail(_messages: object, _info: AgentInfo) -> None:
        raise ConnectionResetError("the line is cut")

    with (
        pytest.raises(ConnectionResetError),
        team.greeter.override(model=FunctionModel(fail)),  # pyright: ignore[reportArgumentType] - it never answers
        sidestream.session_context("deck-1"),
    ):
        await team.work(State.GREETING, Deck(), "Hello", nobody)
    assert [(request.agent, request.status) for request in sidestream_events.usage] == [("greeter", "error")]
    assert [error.message for error in sidestream_events.errors] == ["the line is cut"]
