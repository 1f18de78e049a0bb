"""Frames: up to 500 events of one producer for one partition, as one stream entry.

Keeps:
- Bytes that were once published decode for ever; unknown fields are passed over.
- A frame is expanded only if it says how large it is and that is within the limit.
- One bad event costs that event: the others of its frame keep their index, and therefore their identity
  (producer, partition, sequence).

An entry's fields (`docs/wire.md`): `p` producer, `s` first sequence, `n` events, `l` events known lost before them,
`k` which of them were here before (backfill), `c` codec, `b` body. A body is a map: `v` schema version, `resource`,
`origin`, `events`. An entry without `p` is foreign: a bare XADD, which no fence vouches for.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
import zstandard
from msgspec import Struct

from pipeline import limits
from pipeline.errors import WireError
from pipeline.events import Event, Origin, Resource, convert_event, convert_resource

SCHEMA_VERSION: Final = 1
Codec: TypeAlias = Literal["mz", "json"]
"""`mz` is msgpack in one zstd frame, `json` is for people and other languages; both hold the same map."""

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading bytes may raise, arrays nested a thousand deep included."""

_PRODUCER: Final = re.compile(rb"[0-9a-f]{32}")
_SENSIBLE_COUNT: Final = re.compile(rb"[1-9][0-9]{0,2}")
_RUNS: Final = re.compile(rb"[0-9]{1,3}(?:-[0-9]{1,3})?(?:,[0-9]{1,3}(?:-[0-9]{1,3})?)*")

_ZSTD_LEVEL: Final = 1
"""76 bytes an event at level 1, 0.6 us to compress one; higher levels cost more than they save at this frame size."""


class Body(Struct, frozen=True, kw_only=True):
    """What a frame's body holds when every event of it is well-formed."""

    v: int = SCHEMA_VERSION
    resource: Resource = Resource()
    origin: Origin = "live"
    events: list[Event]


class _LooseBody(Struct, frozen=True, kw_only=True):
    """The same map with its events unread: the way to the good ones beside a bad one."""

    v: int = SCHEMA_VERSION
    resource: dict[str, str] = {}
    origin: Origin = "live"
    events: list[msgspec.Raw]


class _Envelope(Struct, frozen=True, kw_only=True):
    """The same map around events that are encoded already."""

    v: int = SCHEMA_VERSION
    resource: Resource = Resource()
    origin: Origin = "live"
    events: msgspec.Raw


class BadEvent(Struct, frozen=True):
    """An event that cannot be read: why, and its bytes as the codec has them."""

    index: int
    code: str
    reason: str
    raw: bytes
    codec: str = "mz"


class Entry(Struct, frozen=True):
    """One stream entry, its body unread.

    `producer` is empty for a foreign entry; then `first_seq` is 0, and an entry that names no `count` stands for 1.
    `known` are the indexes of events that were here before, which are not to be counted again.
    """

    entry_id: str
    producer: str
    first_seq: int
    count: int
    codec: str
    body: bytes
    known: frozenset[int] = frozenset()

    @property
    def foreign(self) -> bool:
        """Whether no fence vouches for this entry."""
        return not self.producer


class Frame(Struct, frozen=True):
    """A decoded frame: `events[i]` has sequence `first_seq + i`.

    It is None where `bad` says why, and where it is `known`: counted when it was first here.
    """

    entry_id: str
    producer: str
    first_seq: int
    resource: Resource
    origin: Origin
    events: Sequence[Event | None]
    bad: Mapping[int, BadEvent] = {}
    known: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """Events of the frame, bad and known ones included."""
        return len(self.events)


class FrameEncoder:
    """Turns events into frame bodies; one a thread, for its compressor must not be shared.

    In two steps, so that a frame can be filled little by little: events become a piece of its list (`encode_piece`),
    pieces become a body (`join`). Their encoding does not depend on how events are cut into pieces.
    """

    def __init__(self, resource: Resource, *, origin: Origin = "live", codec: Codec = "mz") -> None:
        self.codec: Codec = codec
        self._resource = resource
        self._origin: Origin = origin
        self._msgpack = msgspec.msgpack.Encoder()
        self._zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)

    def encode(self, events: list[Event]) -> bytes:
        """Encode one frame's body.

        Raises:
            TypeError: An event holds something that no codec can write.
            UnicodeEncodeError: A string holds a lone surrogate.
        """
        return self.join([self.encode_piece(events)], len(events))

    def encode_piece(self, events: list[Event]) -> bytes:
        """Encode some events, at least one, as what stands between the brackets of a frame's list.

        Raises:
            TypeError: See `encode`.
            UnicodeEncodeError: See `encode`.
        """
        if self.codec == "json":
            return msgspec.json.encode(events)[1:-1]
        return self._msgpack.encode(events)[len(_array_head(len(events))) :]

    def check_piece(self, piece: bytes, count: int) -> None:
        """Read a piece back as a worker's fast way would.

        Raises:
            msgspec.DecodeError: It could not; an event of it holds what is out of its limits.
        """
        _STRICT[self.codec](self._list_of([piece], count))

    def join(self, pieces: Sequence[bytes], count: int) -> bytes:
        """Return the body of a frame with these pieces, of `count` events in all."""
        envelope = _Envelope(
            resource=self._resource, origin=self._origin, events=msgspec.Raw(self._list_of(pieces, count))
        )
        if self.codec == "json":
            return msgspec.json.encode(envelope)
        return self._zstd.compress(self._msgpack.encode(envelope))

    def _list_of(self, pieces: Sequence[bytes], count: int) -> bytes:
        if self.codec == "json":
            return b"[%b]" % b",".join(pieces)
        return b"".join([_array_head(count), *pieces])


_STRICT: Final = {"mz": msgspec.msgpack.Decoder(list[Event]).decode, "json": msgspec.json.Decoder(list[Event]).decode}


def _array_head(count: int) -> bytes:
    """Return how msgpack begins a list of up to 65,535 values."""
    return bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")  # noqa: PLR2004 - msgpack's own


def body_of_one(frame: Frame, raw: bytes, codec: str) -> bytes:
    """Return the body of a frame that holds one event of another, encoded already, and says the same about it."""
    if codec == "json":
        events = msgspec.Raw(b"[" + raw + b"]")
        return msgspec.json.encode(_Envelope(resource=frame.resource, origin=frame.origin, events=events))
    envelope = _Envelope(resource=frame.resource, origin=frame.origin, events=msgspec.Raw(_array_head(1) + raw))
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(msgspec.msgpack.encode(envelope))


class FrameDecoder:
    """Turns entries into frames; one a thread, for its decompressor must not be shared."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()
        self._fast = {"mz": msgspec.msgpack.Decoder(Body).decode, "json": msgspec.json.Decoder(Body).decode}
        self._loose = {
            "mz": msgspec.msgpack.Decoder(_LooseBody).decode,
            "json": msgspec.json.Decoder(_LooseBody).decode,
        }

    def decode(self, entry: Entry) -> Frame:
        """Decode an entry.

        Raises:
            WireError: The entry as a whole cannot be read; `code` says in one word why.
        """
        plain = self._expand(entry)
        try:
            body = self._fast[entry.codec](plain)
            resource, origin = body.resource, body.origin
            events: Sequence[Event | None] = body.events
            bad: dict[int, BadEvent] = {}
        except _UNREADABLE:
            loose = self._loosely(entry, plain)
            resource, origin = convert_resource(loose.resource), loose.origin
            events, bad = _each(loose.events, entry.codec)
        _check_count(entry, len(events))
        known = entry.known
        if known:
            events = [None if index in known else event for index, event in enumerate(events)]
            bad = {index: event for index, event in bad.items() if index not in known}
        return Frame(entry.entry_id, entry.producer, entry.first_seq, resource, origin, events, bad, known)

    def may_hold(self, entry: Entry, name: str) -> bool:
        """Say whether an entry may hold a name, without decoding it; False where it certainly does not.

        Raises:
            WireError: It cannot be expanded.
        """
        # JSON may write a character in several ways; msgpack in one.
        return entry.codec == "json" or name.encode("utf-8", "surrogatepass") in self._expand(entry)

    def _expand(self, entry: Entry) -> bytes:
        if len(entry.body) > limits.MAX_BODY_BYTES:
            raise WireError(
                f"the body has {len(entry.body)} bytes, more than {limits.MAX_BODY_BYTES}", code="too_large"
            )
        match entry.codec:
            case "json":
                return entry.body
            case "mz":
                return self._decompress(entry.body)
            case other:
                raise WireError(f"unknown codec {other!r}: this worker knows mz and json", code="unknown_codec")

    def _decompress(self, data: bytes) -> bytes:
        try:
            size = zstandard.frame_content_size(data)
        except zstandard.ZstdError as error:
            raise WireError(f"the body is no zstd frame: {error}", code="bad_compression") from error
        if size < 0:
            raise WireError("the zstd frame does not say its size", code="bad_compression")
        if size > limits.MAX_EXPANDED_BYTES:
            raise WireError(f"the body expands to {size} bytes, above {limits.MAX_EXPANDED_BYTES}", code="too_large")
        try:
            return self._zstd.decompress(data)
        except zstandard.ZstdError as error:
            raise WireError(f"the body does not expand: {error}", code="bad_compression") from error

    def _loosely(self, entry: Entry, plain: bytes) -> _LooseBody:
        try:
            return self._loose[entry.codec](plain)
        except _UNREADABLE as error:
            raise WireError(f"the body is no frame: {error}", code="bad_frame") from error


_MOST_SEQUENCE_DIGITS: Final = len(str(limits.MAX_SEQUENCE))


class StoredEntry(Struct, frozen=True):
    """A stream entry as it was read, not yet decoded; `fields` as bytes, as Redis has them."""

    entry_id: str
    fields: Mapping[bytes, bytes]

    @property
    def count(self) -> int:
        """Events it stands for in the accounting."""
        return entry_count(self.fields)

    @property
    def foreign(self) -> bool:
        """Whether it came by a bare XADD."""
        return not entry_producer(self.fields)

    @property
    def next_seq(self) -> int:
        """The sequence behind its last event; 0 where it is foreign, or says none."""
        first = self.fields.get(b"s", b"0")
        known = not self.foreign and first.isdigit() and len(first) <= _MOST_SEQUENCE_DIGITS
        return int(first) + self.count if known else 0

    def identity(self) -> tuple[bytes, bytes]:
        """Return producer and first sequence as stored: what proves that this entry is still the same."""
        return self.fields.get(b"p", b""), self.fields.get(b"s", b"0")

    def parse(self) -> Entry:
        """Read the fields.

        Raises:
            WireError: See `parse_entry`.
        """
        return parse_entry(self.entry_id, self.fields)


def parse_entry(entry_id: str, fields: Mapping[bytes, bytes]) -> Entry:
    """Read the fields of a stream entry.

    Raises:
        WireError: There is no body, or a number is none.
    """
    body = fields.get(b"b")
    if body is None:
        raise WireError("the entry has no field b (the body)", code="no_body")
    producer = entry_producer(fields)
    first = _number(fields, b"s", 0) if producer else 0
    count = _number(fields, b"n", 1)
    codec = fields.get(b"c", b"json").decode("ascii", "replace")
    # Without a fence there was no ledger: what such an entry says of itself is passed over.
    known = parse_known(fields.get(b"k", b"")) if producer else frozenset[int]()
    return Entry(entry_id, producer, first, count, codec, body, known)


def parse_known(text: bytes) -> frozenset[int]:
    """Read the indexes of known events as the append script writes them: `0-4,7`.

    Raises:
        WireError: They are none.
    """
    if not text:
        return frozenset()
    if not _RUNS.fullmatch(text):
        raise WireError(f"field k does not say which events are known: {text[:40]!r}", code="bad_number")
    runs = [run.partition(b"-") for run in text.split(b",")]
    return frozenset(index for first, _, last in runs for index in range(int(first), int(last or first) + 1))


def show_known(known: frozenset[int]) -> str:
    """Return indexes as `parse_known` reads them, one by one."""
    return ",".join(map(str, sorted(known)))


def entry_producer(fields: Mapping[bytes, bytes]) -> str:
    """Return the producer of an entry, empty for a foreign one: the append script writes 32 hex digits or nothing."""
    producer = fields.get(b"p", b"")
    return producer.decode() if _PRODUCER.fullmatch(producer) else ""


def entry_count(fields: Mapping[bytes, bytes]) -> int:
    """Return how many events an entry stands for in the accounting, however broken its body is.

    The append script wrote `n` of a fenced entry; a foreign one that says nothing sensible stands for one event.
    """
    text = fields.get(b"n", b"1")
    return int(text) if _SENSIBLE_COUNT.fullmatch(text) and int(text) <= limits.MAX_FRAME_EVENTS else 1


def _number(fields: Mapping[bytes, bytes], name: bytes, missing: int) -> int:
    text = fields.get(name)
    if text is None:
        return missing
    if not text.isdigit() or len(text) > _MOST_SEQUENCE_DIGITS:
        raise WireError(f"field {name.decode()} is not a sequence number: {text[:40]!r}", code="bad_number")
    return int(text)


def _check_count(entry: Entry, found: int) -> None:
    if found == 0:
        raise WireError("the frame holds no event", code="empty")
    if found > limits.MAX_FRAME_EVENTS:
        raise WireError(f"the frame holds {found} events, more than {limits.MAX_FRAME_EVENTS}", code="too_large")
    if found != entry.count:
        raise WireError(f"the entry says {entry.count} events, the body holds {found}", code="count_mismatch")


def _each(raws: list[msgspec.Raw], codec: str) -> tuple[list[Event | None], dict[int, BadEvent]]:
    read = msgspec.msgpack.decode if codec == "mz" else msgspec.json.decode
    events: list[Event | None] = []
    bad: dict[int, BadEvent] = {}
    for index, raw in enumerate(raws):
        data = bytes(raw)
        try:
            events.append(convert_event(read(data)))
        except _UNREADABLE as error:
            events.append(None)
            bad[index] = BadEvent(index, _code_of(error), str(error), data, codec)
    return events, bad


def _code_of(error: Exception) -> str:
    text = str(error)
    if "Invalid value" in text and "$.event" in text:
        return "unknown_kind"
    return "out_of_limits" if "Expected `int`" in text and ("<=" in text or ">=" in text) else "bad_event"
