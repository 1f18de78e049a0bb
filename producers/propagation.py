"""The session's context across processes: as W3C baggage, in the headers of a request, a task or a message.

Keeps:
- What is read back is what was written, within the limits that every event has anyway.
- Whatever a header holds, reading it never raises: what is no baggage of ours says nothing.

Who is asked by strangers must not take their word for who they are: read these headers only from one's own processes.

Source: https://www.w3.org/TR/baggage/ (list members, percent-encoding, 8,192 bytes at most).
"""

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote

from msgspec import Struct

from pipeline import limits
from producers.context import Context

HEADER: Final = "baggage"
MAX_HEADER_BYTES: Final = 8192
_PREFIX: Final = "sidestream."
_NAMES: Final = ("session", "user", "tenant", "state")
_BETWEEN_TAGS: Final = "|"


class Carried(Struct, frozen=True):
    """What was carried; None where nothing was said."""

    session: str | None = None
    user: str | None = None
    tenant: str | None = None
    state: str | None = None
    tags: tuple[str, ...] | None = None


def to_headers(context: Context) -> dict[str, str]:
    """Return the headers that carry a context; none for one that says nothing."""
    said = {name: value for name in _NAMES if (value := getattr(context, name))}
    members = [f"{_PREFIX}{name}={_quoted(value)}" for name, value in said.items()]
    if context.tags:
        members.append(f"{_PREFIX}tags={_BETWEEN_TAGS.join(map(_quoted, context.tags))}")
    # What does not fit is left out from the end: tags first, the session last.
    while members and len(",".join(members)) > MAX_HEADER_BYTES:
        members.pop()
    return {HEADER: ",".join(members)} if members else {}


def from_headers(headers: object) -> Carried:
    """Return what headers carry.

    Args:
        headers: A mapping of names, in any case, or pairs; names and values may be bytes.
    """
    found: dict[str, str] = {}
    for name, value in _pairs(headers):
        if name.lower() == HEADER:
            found |= _members(value)
    tags = found.get("tags")
    return Carried(
        *(_text(found.get(name)) for name in _NAMES),
        tags=None if tags is None else tuple(map(_unquoted, tags.split(_BETWEEN_TAGS)))[: limits.MAX_TAGS],
    )


def _pairs(headers: object) -> Iterable[tuple[str, str]]:
    pairs: Iterable[object] = headers.items() if isinstance(headers, Mapping) else headers  # pyright: ignore[reportAssignmentType, reportUnknownMemberType, reportUnknownVariableType]
    try:
        return [(_decoded(name), _decoded(value)) for name, value in pairs]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType, reportUnknownArgumentType]
    except (TypeError, ValueError):
        return []


def _decoded(text: object) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else str(text)


def _members(value: str) -> dict[str, str]:
    """Return our members of a baggage header, still encoded; properties behind a semicolon are passed over."""
    found: dict[str, str] = {}
    for member in value[:MAX_HEADER_BYTES].split(","):
        name, equals, text = member.partition(";")[0].partition("=")
        if equals and name.strip().startswith(_PREFIX):
            found[name.strip().removeprefix(_PREFIX)] = text.strip()
    return found


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _unquoted(text: str) -> str:
    return unquote(text)[: limits.MAX_NAME_CHARS]


def _text(encoded: str | None) -> str | None:
    return None if encoded is None else _unquoted(encoded)
