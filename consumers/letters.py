"""Dead letters: events a handler could not take, each with all that is needed to try it again. Pure.

Keeps: a letter stands for its events in the accounting, and carries a frame of its own (resource, origin, its event or
its whole entry), so that it can be retried when its entry has long been trimmed.
"""

from typing import Final

import msgspec
from msgspec import Struct

from pipeline.errors import WireError
from pipeline.events import Event
from pipeline.wire import BadEvent, Entry, Frame, FrameDecoder, body_of_one, parse_known, show_known

WHOLE_ENTRY: Final = -1
"""The index of a dead letter that stands for all events of its entry."""

MAX_BODY_BYTES: Final = 65_536
"""Bytes of one letter's body; of a larger one id and reason stay."""

_KNOWN: Final = " k="

BUDGET_BYTES: Final = 32 * 1024 * 1024
"""Bytes of all bodies of one unit's dead letters; beyond it new letters keep id and reason alone."""


class DeadLetter(Struct, frozen=True):
    """An event, or with index -1 a whole entry, that a handler could not take, and why.

    `events` is what it stands for in the accounting; `code` is one word, `reason` a sentence for a person. `body` is a
    frame's body in `codec`: of this event alone, or of the whole entry; empty where it was too large to keep. Where
    some events of a whole entry are known, `codec` says which behind its name: `mz k=0-4,7`.
    """

    entry_id: str
    index: int
    events: int
    code: str
    reason: str
    producer: str = ""
    first_seq: int = 0
    codec: str = ""
    body: bytes = b""


def letter_of_event(frame: Frame, index: int, event: Event, code: str, reason: str) -> DeadLetter:
    """Return the letter of an event that a handler refused."""
    return _letter_of_one(frame, BadEvent(index, code, reason, msgspec.json.encode(event), "json"))


def letter_of_bad_event(frame: Frame, index: int) -> DeadLetter:
    """Return the letter of an event that could not be decoded."""
    return _letter_of_one(frame, frame.bad[index])


def _letter_of_one(frame: Frame, bad: BadEvent) -> DeadLetter:
    body = body_of_one(frame, bad.raw, bad.codec)
    kept = body if len(body) <= MAX_BODY_BYTES else b""
    sequence = frame.first_seq + bad.index
    return DeadLetter(frame.entry_id, bad.index, 1, bad.code, bad.reason, frame.producer, sequence, bad.codec, kept)


def letter_of_entry(entry_id: str, events: int, error: WireError, entry: Entry | None) -> DeadLetter:
    """Return the letter of an entry that cannot be read as a whole; `entry` is None where not even its fields can."""
    if entry is None:
        return DeadLetter(entry_id, WHOLE_ENTRY, events, error.code, str(error))
    body = entry.body if len(entry.body) <= MAX_BODY_BYTES else b""
    codec = f"{entry.codec}{_KNOWN}{show_known(entry.known)}" if entry.known else entry.codec
    return DeadLetter(
        entry_id, WHOLE_ENTRY, events, error.code, str(error), entry.producer, entry.first_seq, codec, body
    )


def frame_of(letter: DeadLetter, decoder: FrameDecoder) -> Frame:
    """Decode what a letter carries: the frame of its entry, or one with nothing but its one event, at its index.

    Raises:
        WireError: It still cannot be decoded, or nothing was kept of it.
    """
    if not letter.body:
        raise WireError("its body was too large to keep", code="cut")
    codec, _, known = (letter.codec or "json").partition(_KNOWN)
    entry = Entry(
        letter.entry_id,
        letter.producer,
        letter.first_seq,
        letter.events,
        codec,
        letter.body,
        parse_known(known.encode()),
    )
    frame = decoder.decode(entry)
    if letter.index == WHOLE_ENTRY:
        return frame
    before = [None] * letter.index
    bad = {letter.index: msgspec.structs.replace(frame.bad[0], index=letter.index)} if frame.bad else {}
    first_seq = letter.first_seq - letter.index
    events = [*before, *frame.events]
    return Frame(frame.entry_id, frame.producer, first_seq, frame.resource, frame.origin, events, bad)
