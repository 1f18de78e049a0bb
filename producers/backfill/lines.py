"""Lines of a file, and what each says: an event, or why it is none. Pure.

Keeps:
- A field that is invalid live is invalid here, named by the same check; and an unknown one is refused, for a misspelt
  name would lose what it holds without a word.
- Every line that is refused still has its bytes, as they stood in the file.
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias, cast, get_args

import msgspec
from msgspec import Struct

from pipeline import limits
from pipeline.events import ErrorEvent, Event, Resource, convert_event, convert_resource
from pipeline.wire import Frame
from producers.backfill.typed_lines import read_typed

MAX_LINE_BYTES: Final = 1 << 20
"""A longer line is no event: 64 tools and 16 tags of the longest names are 64 KB."""

BOM: Final = b"\xef\xbb\xbf"

RESOURCE_FIELDS: Final = Resource.__struct_fields__
KIND: Final = "event"
ID: Final = "id"
ORIGIN: Final = "origin"
"""What `sidestream tail` says of frames that did not come live."""

_KINDS: Final = {str(kind.__struct_config__.tag): kind for kind in get_args(Event)}
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    tag: frozenset({KIND, *kind.__struct_fields__}) for tag, kind in _KINDS.items()
}
"""What an event of each kind may say."""

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError, TypeError)


class Line(Struct, frozen=True, gc=False):
    """A line that is an event; `own_id` is the source's id of it, empty where it has none.

    `place` is the number of the line, or says in words where in an archive segment the event stands.
    """

    place: int | str
    raw: bytes
    event: Event
    resource: Resource
    own_id: str = ""
    message: str = ""
    """Of an error: its whole message, not cut yet."""
    backfilled: bool = False
    """Whether it says that it was backfilled, where it comes from."""


class BadLine(Struct, frozen=True, gc=False):
    """A line that is none, and why; of one that is too long, `raw` is a piece, and only the first has a reason."""

    place: int | str
    raw: bytes
    reason: str


Read: TypeAlias = Line | BadLine


class NoEventError(Exception):
    """What stands there is no event; the message says why."""


def raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Iterate over the lines of a file: number from 1, bytes, and whether that is all of it.

    A line that is too long comes in pieces under one number.
    """
    number, begins = 0, True
    while piece := file.readline(MAX_LINE_BYTES):
        ends = piece.endswith(b"\n") or len(piece) < MAX_LINE_BYTES
        number += begins
        yield number, piece, begins and ends
        begins = ends


def json_lines(file: BinaryIO) -> Iterator[Read]:
    """Read JSON lines: an event each; empty lines are passed over."""
    last = 0
    for number, raw, whole in raw_lines(file):
        if not whole:
            yield BadLine(number, raw, "" if number == last else f"it has more than {MAX_LINE_BYTES:,} bytes")
            last = number
        elif text := raw.removeprefix(BOM).strip():
            yield _read_quickly(number, raw, text) or _read(number, raw, lambda text=text: _parse_json(text))


def line_of(place: int | str, raw: bytes, fields: dict[str, object]) -> Read:
    """Read an event from its fields, `id` and those of the resource among them."""
    return _read(place, raw, lambda: fields)


def _read_quickly(number: int, raw: bytes, text: bytes) -> Line | None:
    """Read a line that is as it should be; None where it has to be looked at more closely."""
    try:
        typed = read_typed(text)
        own_id = _own_id(typed.id)
    except (*_UNREADABLE, NoEventError):
        return None
    message = typed.event.message if isinstance(typed.event, ErrorEvent) else ""
    return Line(number, raw, typed.event, typed.resource, own_id, message, typed.origin == "backfill")


def _parse_json(text: bytes) -> dict[str, object]:
    try:
        found: object = msgspec.json.decode(text)
    except _UNREADABLE as error:
        raise NoEventError(f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise NoEventError("it is no JSON object")
    return cast("dict[str, object]", found)


def _read(place: int | str, raw: bytes, parse: Callable[[], dict[str, object]]) -> Read:
    try:
        fields = parse()
        own_id = _own_id(fields.pop(ID, None))
        backfilled = fields.pop(ORIGIN, None) == "backfill"
        resource = _resource(fields)
        _refuse_unknown(fields)
        event = _event(fields)
        return Line(place, raw, event, resource, own_id, str(fields.get("message", "")), backfilled)
    except NoEventError as error:
        return BadLine(place, raw, str(error))


def _own_id(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value):
        raise NoEventError("id: use a text or a whole number")
    if len(str(value)) > limits.MAX_NAME_CHARS:
        raise NoEventError(f"id: use at most {limits.MAX_NAME_CHARS} characters")
    return str(value)


def _resource(fields: dict[str, object]) -> Resource:
    named: dict[str, str] = {}
    for name in RESOURCE_FIELDS:
        if name in fields:
            value = fields.pop(name)
            if not isinstance(value, str):
                raise NoEventError(f"{name}: use a text")
            named[name] = value
    return convert_resource(named) if named else _NOBODY


_NOBODY: Final = Resource()


def _refuse_unknown(fields: Mapping[str, object]) -> None:
    kind = fields.get(KIND)
    if not isinstance(kind, str) or kind not in FIELDS:
        said = "it is missing" if kind is None else f"{kind!r} is no kind"
        raise NoEventError(f"{KIND}: {said}: use one of {', '.join(FIELDS)}")
    if not fields.keys() <= FIELDS[kind]:
        name = min(fields.keys() - FIELDS[kind])
        raise NoEventError(f"{name}: there is no such field of a {kind}{_meant(kind, name)}")


@functools.lru_cache(maxsize=256)
def _meant(kind: str, name: str) -> str:
    """Return the field that a name may stand for: every line of a file has the same ones."""
    close = difflib.get_close_matches(name, [*FIELDS[kind], *RESOURCE_FIELDS, ID], 1)
    return f"; did you mean {close[0]}?" if close else ""


def _event(fields: dict[str, object]) -> Event:
    try:
        return convert_event(fields)
    except _UNREADABLE as error:
        raise NoEventError(_named(str(error))) from None


def _named(text: str) -> str:
    """Return what msgspec says of a field, the field first."""
    found = _PLACED.fullmatch(text)
    return f"{found['field']}: {found['what']}" if found else text


_PLACED: Final = re.compile(r"(?P<what>.*) - at `\$\.(?P<field>[^`]+)`", re.DOTALL)


def fields_of(event: Event, frame: Frame, own_id: str) -> dict[str, Any]:
    """Return what a line says of an event of a frame; `json_lines` reads it back."""
    origin = {} if frame.origin == "live" else {ORIGIN: frame.origin}
    return {ID: own_id} | msgspec.to_builtins(event) | msgspec.to_builtins(frame.resource) | origin
