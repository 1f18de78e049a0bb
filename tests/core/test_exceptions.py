"""What is taken of an exception's text: its own words, not what it quotes of an answer, a model or an input."""

import httpx
import pydantic
import pytest
from pydantic_ai import ModelRetry
from pydantic_ai.exceptions import ModelAPIError, ModelConnectionError, ModelHTTPError, UnexpectedModelBehavior
from starlette.exceptions import HTTPException

from pipeline.redact import Redactor
from producers.exceptions import fault, for_log, own_words

SAID = "what-the-model-said"


class OwnError(Exception):
    """An application's, which says how it would be answered."""

    status_code = 409


class OfAnSdkError(Exception):
    """A vendor's, with a code and the answer."""

    code = 400
    response = None


class Unreadable(Exception):  # noqa: N818 - it is no error of ours
    """One that raises when it is asked for its text."""

    def __str__(self) -> str:
        raise ValueError(SAID)


def refused() -> pydantic.ValidationError:
    """Return what a refused input gives."""
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(int).validate_python(SAID)
    return caught.value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModelHTTPError(400, "gpt-4o", {"error": SAID}), "HTTP status 400 from model gpt-4o"),
        (OfAnSdkError(f"400: {SAID}"), "HTTP status 400"),
        (UnexpectedModelBehavior(f"Unsupported response: {SAID}"), "Unsupported response"),
        (UnexpectedModelBehavior("Content filter triggered", f'["{SAID}"]'), "Content filter triggered"),
        (ModelAPIError("gpt-4o", f"Expected a JSON response, got: {SAID}"), ""),
        (ModelRetry(SAID), ""),
        (refused(), "1 validation errors for int"),
    ],
)
def test_what_an_exception_quotes_is_left_out(error: Exception, words: str) -> None:
    """Bodies of answers, what a model wrote or is told, and refused inputs are content."""
    assert own_words(error) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LookupError("no slides"), "no slides"),
        (OwnError("the deck is locked"), "the deck is locked"),
        (HTTPException(503, "no worker"), "503: no worker"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "[Errno 111] Connection refused"),
        (ModelConnectionError("gpt-4o", "Connection error."), "Connection error."),
        (KeyError(), ""),
    ],
)
def test_an_exception_that_quotes_nothing_keeps_its_words(error: Exception, words: str) -> None:
    """Also one that says by which status it would be answered."""
    assert own_words(error) == words


def test_our_log_says_the_type_and_a_text_without_secrets() -> None:
    """With the application's patterns, and the type alone where the text cannot be had."""
    redactor = Redactor((r"CUST-\d+",))
    assert for_log(ValueError("no CUST-1, token=abc"), redactor) == "ValueError: no ***, token=***"
    assert for_log(Unreadable(), redactor) == "Unreadable"


def test_our_log_says_of_a_fault_its_type_and_place() -> None:
    """Neither its text nor what was being handled meanwhile."""
    with pytest.raises(ZeroDivisionError) as caught:
        fail_while_handling(LookupError(SAID))
    assert fault(caught.value).startswith("ZeroDivisionError at test_exceptions.py:")
    assert SAID not in fault(caught.value)


def fail_while_handling(error: Exception) -> None:
    """Raise as a fault does, beside an exception of the application's."""
    try:
        raise error
    except LookupError:
        raise ZeroDivisionError(SAID)  # noqa: B904 - as a fault does
