"""An operation by hand: around a block, awaited or not, and around a function."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

import sidestream
from sidestream.testing import Captured


@sidestream.operation("render", agent="director")
def render(deck: str, *, pages: int = 1) -> str:
    """Render a deck."""
    return f"{deck} of {pages}"


@sidestream.operation("fetch", kind="tool")
async def fetch(deck: str) -> str:
    """Fetch a deck."""
    await asyncio.sleep(0)
    if not deck:
        raise ValueError("no deck")
    return deck


def test_each_call_of_a_function_is_an_operation(sidestream_events: Captured) -> None:
    """The function stays what it was: arguments, result, name and signature."""
    assert [render("a"), render("b", pages=2)] == ["a of 1", "b of 2"]
    first, second = sidestream_events.operations
    assert (first.name, first.kind, first.agent, first.status) == ("render", "step", "director", "ok")
    assert first.operation_id != second.operation_id
    assert (render.__name__, str(inspect.signature(render))) == ("render", "(deck: str, *, pages: int = 1) -> str")


async def test_an_async_function_is_timed_until_it_is_done(sidestream_events: Captured) -> None:
    """What it raises ends it as an error; two at once are two."""
    assert inspect.iscoroutinefunction(fetch)
    assert await asyncio.gather(fetch("a"), fetch("b")) == ["a", "b"]
    with pytest.raises(ValueError, match="no deck"):
        await fetch("")
    assert [operation.status for operation in sidestream_events.operations] == ["ok", "ok", "error"]
    assert [error.operation for error in sidestream_events.errors] == ["fetch"]


async def test_it_may_be_entered_by_async_with(sidestream_events: Captured) -> None:
    """The same, for those who write it so."""
    async with sidestream.operation("outline", kind="run", agent="writer") as run:
        sidestream.usage("", "m", 1)
    (request,), (operation,) = sidestream_events.usage, sidestream_events.operations
    assert (request.run_id, operation.operation_id, operation.status) == (run.run_id, run.run_id, "ok")


def test_inside_another_operation_it_is_its_child(sidestream_events: Captured) -> None:
    """A decorated function takes agent and run from where it is called, each time anew."""
    show = sidestream.operation("show")(lambda: sidestream.usage("", "m", 1))
    with sidestream.operation("deck", kind="run", agent="director") as run:
        show()
    show()
    inside, outside = sidestream_events.usage
    assert (inside.agent, inside.run_id, outside.agent) == ("director", run.run_id, "")


def _one() -> Generator[int]:
    yield 1


async def _some() -> AsyncGenerator[int]:
    yield 1


@pytest.mark.parametrize("generator", [_one, _some])
def test_a_generator_is_refused(generator: Any) -> None:  # noqa: ANN401 - both kinds
    """Its call would be timed, and not what it does: better to hear of it at once."""
    with pytest.raises(TypeError, match="use `with"):
        sidestream.operation("stream")(generator)


def test_switched_off_a_function_runs_as_it_is() -> None:
    """Decorated at import, before anything is configured."""
    assert render("a") == "a of 1"
