"""One exception object is reported once, whatever its class does."""

import gc

from producers.errors_seen import report_once


class _Refusing(Exception):  # noqa: N818 - named for what it does
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class _Inventing(Exception):  # noqa: N818 - named for what it does
    def __getattr__(self, name: str) -> object:
        return name


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
