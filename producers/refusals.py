"""Why a call is refused as invalid, in words for the log and an application's tests: which field, and what is wrong.

Keeps: nothing here raises, whatever the application passed. What was raised may quote a value: who logs it redacts it.
"""

from collections.abc import Mapping
from typing import cast

from pipeline.events import Event
from producers.exceptions import type_name

MOST_CHARS = 200


def what_is_wrong(error: BaseException, texts: Mapping[str, object]) -> str:
    """Return which of some arguments is no text, else what `error` says of the call that raised it.

    Args:
        error: What building the event raised.
        texts: Arguments that must be text, by name.
    """
    for name, value in texts.items():
        if not issubclass(type(value), str):
            return f"{name}: text is wanted, not {type(value).__name__}"
    try:
        text = str(error)[:MOST_CHARS].partition("\n")[0]
    except Exception:  # noqa: BLE001 - an exception of the application's own making
        text = ""
    return text or type_name(error)


def half_character(event: Event) -> str:
    """Return which field holds what UTF-8 cannot write, in words; empty where none does."""
    for name in event.__struct_fields__:
        value: object = getattr(event, name)
        texts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and not _is_writable(text) for text in texts):
            return f"{name}: half of a character (a lone surrogate, as of a text cut in the middle) cannot be written"
    return ""


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
