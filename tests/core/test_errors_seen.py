"""One exception object is reported once, whatever its class does."""

import asyncio
import gc
from typing import Any

import pytest

import sidestream
from producers.errors_seen import report_once
from producers.exceptions import status_of
from sidestream.testing import Captured


class _Refusing(Exception):  # noqa: N818 - named for what it does
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class _Inventing(Exception):  # noqa: N818 - named for what it does
    def __getattr__(self, name: str) -> object:
        return name


class _Lying(ExceptionGroup[Exception]):
    """A group that says anything of itself but what is in it."""

    @property
    def exceptions(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride] # noqa: ANN401 - hostile
        """Refuse to say."""
        raise RuntimeError

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] # noqa: ANN401 - hostile
        raise RuntimeError

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    """Return a group, as a task group raises it."""
    return BaseExceptionGroup("tasks", errors)


def test_the_first_to_ask_reports_it() -> None:
    """Everyone further out is told that it has been reported."""
    error = ValueError("x")
    assert [report_once(error), report_once(error)] == [True, False]


def test_equal_exceptions_are_two() -> None:
    """It is the object that counts, not what it says."""
    assert report_once(ValueError("x"))
    assert report_once(ValueError("x"))


def test_an_exception_that_refuses_attributes_is_remembered() -> None:
    """Its memory is bounded, and a new object at an old address is a new exception."""
    error = _Refusing("x")
    assert [report_once(error), report_once(error)] == [True, False]
    del error
    gc.collect()
    errors = [_Refusing(str(number)) for number in range(3_000)]
    assert all([report_once(error) for error in errors])  # noqa: C419 - each must be asked
    assert not report_once(errors[-1])


def test_an_exception_that_invents_attributes_has_not_been_reported() -> None:
    """Only the mark itself counts, not something that is merely there."""
    error = _Inventing("x")
    assert [report_once(error), report_once(error)] == [True, False]


def test_a_group_of_what_was_reported_is_passed_over() -> None:
    """However deep; and a part that `except*` made of it afterwards, a new object, likewise."""
    first, second = ValueError("x"), _Refusing("y")
    assert report_once(first)
    assert report_once(second)
    whole = group(first, group(group(second)))
    assert [report_once(whole), report_once(whole)] == [False, False]
    assert not report_once(whole.derive([second]))


def test_a_group_with_a_new_leaf_is_one_error_and_speaks_for_all_of_them() -> None:
    """Who takes it apart further out, and meets a leaf again, has nothing new to say."""
    known, new = ValueError("x"), KeyError("y")
    assert report_once(known)
    whole = group(known, group(new))
    assert [report_once(whole), report_once(whole), report_once(new)] == [True, False, False]


def test_what_was_cancelled_beside_an_error_makes_no_other() -> None:
    """A task group cancels the others, which ended and did not fail; reported by hand they count as anything does."""
    failed = ValueError("x")
    assert report_once(failed)
    assert not report_once(group(failed, asyncio.CancelledError()))
    assert report_once(group(asyncio.CancelledError()))
    assert status_of(group(asyncio.CancelledError(), group(GeneratorExit()))) == "cancelled"
    assert status_of(group(asyncio.CancelledError(), failed)) == "error"


def test_a_hostile_group_never_raises() -> None:
    """What it says of itself is not asked; one too deep to look through is one error."""
    leaf = ValueError("x")
    hostile = _Lying("tasks", [leaf])
    assert status_of(hostile) == "error"
    assert [report_once(hostile), report_once(leaf)] == [True, False]
    layers: list[BaseException] = [ValueError("x")]
    for _ in range(20_000):
        layers.append(group(layers[-1]))
    assert [report_once(layers[-1]), report_once(layers[-1])] == [True, False]
    while layers:  # the outermost first, or the interpreter frees them in one recursion
        layers.pop()


async def test_tasks_that_failed_give_an_error_each_and_their_group_none(sidestream_events: Captured) -> None:
    """Each is reported at its operation; the group passes an operation and a context more."""

    async def step(name: str) -> None:
        with sidestream.operation(name):
            raise ValueError(name)

    async def steps() -> None:
        with sidestream.session_context("s-1"), sidestream.operation("all"):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(step("one"))
                tasks.create_task(step("two"))

    with pytest.raises(BaseExceptionGroup):
        await steps()
    assert sorted(error.operation for error in sidestream_events.errors) == ["one", "two"]
    assert [operation.status for operation in sidestream_events.operations] == ["error"] * 3
