"""What an exception says of how something ended, and in which words."""

import re
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from pipeline.events import Status
from pipeline.redact import Redactor

if TYPE_CHECKING:
    from types import MemberDescriptorType

_CANCELLED = frozenset({"CancelledError", "Cancelled", "KeyboardInterrupt", "SystemExit"})
"""By name, so that neither asyncio nor trio is imported for it."""

_CLIENT_LEFT = frozenset(
    {"GeneratorExit", "WebSocketDisconnect", "ClientDisconnect", "ClientDisconnected", "ConnectionClosedOK"}
)
"""What a generator, Starlette, uvicorn and websockets raise when the other side goes; by name too."""

_ANSWERS = frozenset({"HTTPException", "WebSocketException"})
"""How Starlette and FastAPI answer by an exception: below 500 it says what the client did, not that we failed."""

_SERVER_ERROR = 500


def status_of(error: BaseException | None) -> Status:
    """Return how something ended that raised `error`: cancelled, left by its client, or answered is no error."""
    if error is None:
        return "ok"
    if _is_group(error):
        return _status_of_group(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _CANCELLED:
        return "cancelled"
    if names & _CLIENT_LEFT:
        return "interrupted"
    if names & _ANSWERS and _is_an_answer(error):
        return "ok"
    return "error"


def _status_of_group(error: BaseException) -> Status:
    """Return what the leaves of a group say together: one that failed, and it failed."""
    found: list[Status] = [status_of(leaf) for leaf in leaves_of(error) if leaf is not error]
    return "error" if "error" in found or not found else found[0]


_MOST_LEAVES: Final = 10_000
"""Parts of a group that are looked at: more tasks than fail at once."""


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return what a group is made of, however deep; of anything else itself. Never raises."""
    if not _is_group(error):
        return [error]
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [error]
    for _ in range(_MOST_LEAVES):
        if not waiting:
            break
        one = waiting.pop()
        parts = _parts_of(one)
        waiting += reversed(parts)
        if not parts:
            leaves.append(one)
    return leaves


def _is_group(error: BaseException) -> bool:
    return issubclass(type(error), BaseExceptionGroup)  # its real class, whatever it says of itself


def _parts_of(error: BaseException) -> Sequence[BaseException]:
    """Return the parts of a group as Python itself keeps them, whatever a class made of its attribute."""
    return cast("Sequence[BaseException]", _EXCEPTIONS.__get__(error)) if _is_group(error) else ()


_EXCEPTIONS: Final = cast("MemberDescriptorType", vars(BaseExceptionGroup)["exceptions"])


def _is_an_answer(error: BaseException) -> bool:
    status: object = None
    with suppress(Exception):  # an exception's own attributes may do anything
        status = getattr(error, "status_code", None)
    return not isinstance(status, int) or status < _SERVER_ERROR


def type_name(error: BaseException | type[BaseException]) -> str:
    """Return the name of an exception's type, without its module: all that a vendor's saved attempts carry of it."""
    return (error if isinstance(error, type) else type(error)).__name__


_LOGGED_CHARS: Final = 200
_LOGGED_PLACES: Final = 8


def for_log(error: BaseException, redactor: Redactor) -> str:
    """Return an exception's type and text as our log may hold them, through the net that errors pass; never raises."""
    text = ""
    with suppress(Exception):  # whatever an exception of the application's does when it is asked
        text = redactor.redact(own_words(error), _LOGGED_CHARS)
    return f"{type_name(error)}: {text}" if text else type_name(error)


def fault(error: BaseException) -> str:
    """Return what our log says of a fault of ours beside the application's work: its type, and where it came up.

    Not its text, and not what was being handled meanwhile, as a traceback has it: these may quote the application.
    """
    places = [f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{type_name(error)} at {' > '.join(places[-_LOGGED_PLACES:])}"


_OF_AN_ANSWER: Final = ("body", "response", "raw_response", "details")
"""How the clients of vendors keep the answer, beside its status, that an exception is about."""

_MARKS: Final = re.compile(r"[:({=]")
"""Where pydantic-ai's sentences about a model or its answer begin to quote."""

_TOLD_TO_MODEL: Final = frozenset({"ModelRetry", "ToolFailed", "ToolFailedError", "ToolRetryError"})
"""pydantic-ai's ways to answer a model by an exception: all of the text is content."""

_OF_TRANSPORT: Final = frozenset({"ModelConnectionError", "ModelRequestTimeout"})
"""pydantic-ai's errors of a model whose words are the client's own: no answer came."""


def own_words(error: BaseException) -> str:
    """Return the text of `error` without what it may quote of a provider's answer, a model or a refused input.

    Everything is read by name: no vendor's package is imported for it. Secrets are still in it.
    """
    status = _status_of_answer(error)
    if status is not None:
        # The text of these ends with the body of the answer, which may echo the prompt.
        model = _text(error, "model_name")
        return f"HTTP status {status} from model {model}" if model else f"HTTP status {status}"
    if callable(count := getattr(error, "error_count", None)):
        # A validation error's text quotes the input that was refused.
        return f"{count()} validation errors for {_text(error, 'title')}"
    names = {kind.__name__ for kind in type(error).__mro__}
    if "UnexpectedModelBehavior" in names:
        return _before_quotes(error)
    if names & _TOLD_TO_MODEL or getattr(error, "body", None):
        return ""
    if "ModelAPIError" in names and not names & _OF_TRANSPORT:
        return ""  # a provider's own sentence, or the whole of an answer that was not understood
    return str(error)


def _status_of_answer(error: BaseException) -> int | None:
    numbers: tuple[object, ...] = (getattr(error, "status_code", None), getattr(error, "code", None))
    for number in numbers:
        if isinstance(number, int):
            return number if any(hasattr(error, name) for name in _OF_AN_ANSWER) else None
    return None


def _before_quotes(error: BaseException) -> str:
    return _MARKS.split(_text(error, "message"), maxsplit=1)[0].strip()


def _text(error: BaseException, name: str) -> str:
    value: object = getattr(error, name, "")
    return value if isinstance(value, str) else ""
