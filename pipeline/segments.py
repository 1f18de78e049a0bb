"""Archive segments: the entries of one partition, in order, as one file that is written once.

Keeps:
- A segment never changes: its name says which entries it holds, and the hash of all its bytes.
- Entries are kept as they lay on the stream, field by field: whatever a later version can read of them, it can.
- Damage costs a block: each has a hash and a length of its own, and the others are read without the footer too.
- Published segments are read for ever: the first byte behind the magic is the version of the layout.

Layout (docs/archive.md): magic, version | blocks: length, hash, zstd of msgpack | footer, likewise | its offset, magic.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import msgspec
import zstandard
from msgspec import Struct

from pipeline.errors import PermanentError
from pipeline.units import US_PER_MS
from pipeline.wire import StoredEntry

MAGIC: Final = b"SDSTSEG"
VERSION: Final = 1
SUFFIX: Final = ".seg"

BLOCK_BYTES: Final = 1 << 20
"""Fields of the entries of one block, at least: what a flipped bit costs at most, but for the entry that passes it."""

MAX_EXPANDED_BYTES: Final = 64 << 20
"""A block that says it is larger is not expanded."""

_ZSTD_LEVEL: Final = 3
_HASH_BYTES: Final = 16
_LENGTH_BYTES: Final = 4
_OFFSET_BYTES: Final = 8
_HEAD: Final = MAGIC + bytes([VERSION])
TAIL_BYTES: Final = _OFFSET_BYTES + len(_HEAD)
"""Behind the footer: where it begins, and what every segment ends with."""

_NAME: Final = re.compile(r"(?P<first>[0-9]+-[0-9]+)_(?P<last>[0-9]+-[0-9]+)_(?P<hash>[0-9a-f]{32})\.seg")

EntryId: TypeAlias = tuple[int, int]
"""An entry's id as two numbers, which compare as Redis compares them."""


class DamagedError(PermanentError):
    """A segment, or a part of it, is not what was written; the message says which part, and how that shows."""

    code = "damaged"


class Block(Struct, frozen=True, array_like=True):
    """What the footer says of one block: where it lies, and what of. Times are of events, microseconds since 1970."""

    offset: int
    length: int
    first: EntryId
    last: EntryId
    entries: int
    events: int
    since_us: int
    until_us: int

    def concerns(self, since_us: int, until_us: int) -> bool:
        """Return whether it may have events from `since_us` until `until_us` (exclusive); 0 is an open end.

        What this version cannot decode has no time of its own: it may be of the time when it was appended.
        """
        first_us, last_us = self.first[0] * US_PER_MS, self.last[0] * US_PER_MS
        return max(self.until_us, last_us) >= since_us and not 0 < until_us <= min(self.since_us, first_us)


class Footer(Struct, frozen=True):
    """What a segment says of itself."""

    namespace: str
    partition: int
    blocks: list[Block]

    @property
    def first(self) -> EntryId:
        """The first entry's id."""
        return self.blocks[0].first

    @property
    def last(self) -> EntryId:
        """The last entry's id."""
        return self.blocks[-1].last

    @property
    def entries(self) -> int:
        """How many entries."""
        return sum(block.entries for block in self.blocks)

    @property
    def events(self) -> int:
        """How many events they stand for."""
        return sum(block.events for block in self.blocks)

    @property
    def since_us(self) -> int:
        """The earliest event's time, microseconds since 1970."""
        return min(block.since_us for block in self.blocks)

    @property
    def until_us(self) -> int:
        """The latest event's time, likewise."""
        return max(block.until_us for block in self.blocks)


@dataclass(frozen=True, slots=True)
class SegmentName:
    """A segment's name: the ids of its first and last entries, and the BLAKE2b-128 of its bytes, in hex."""

    first: EntryId
    last: EntryId
    hash: str

    @classmethod
    def parse(cls, name: str) -> "SegmentName | None":
        """Read a file's name, None where it is no segment's."""
        found = _NAME.fullmatch(name)
        return cls(parse_id(found["first"]), parse_id(found["last"]), found["hash"]) if found else None

    def __str__(self) -> str:
        return f"{show_id(self.first)}_{show_id(self.last)}_{self.hash}{SUFFIX}"


@dataclass(frozen=True, slots=True)
class Archived:
    """An entry to be archived, and the times of its earliest and latest event (microseconds since 1970)."""

    entry: StoredEntry
    since_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed segment: its name, its bytes, and what its footer says."""

    name: SegmentName
    data: bytes
    footer: Footer


class _Record(Struct, frozen=True, array_like=True):
    """One entry within a block: the two parts of its id, then field, value, field, value."""

    milliseconds: int
    sequence: int
    fields: list[bytes]


_DECODER: Final = msgspec.msgpack.Decoder(list[_Record])
_FOOTER_DECODER: Final = msgspec.msgpack.Decoder(Footer)


def parse_id(text: str) -> EntryId:
    """Return an entry's id as two numbers."""
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence)


def show_id(entry_id: EntryId) -> str:
    """Return an entry's id as Redis writes it."""
    return f"{entry_id[0]}-{entry_id[1]}"


def build_segment(namespace: str, partition: int, archived: Sequence[Archived]) -> Segment:
    """Close a segment over some entries, at least one, in the order of their ids; the same ones give the same bytes.

    Raises:
        ValueError: There is none, or they are not in order.
    """
    ids = [parse_id(one.entry.entry_id) for one in archived]
    if not ids or any(left >= right for left, right in pairwise(ids)):
        raise ValueError("a segment holds entries, in the order of their ids")
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    parts, at, blocks = [_HEAD], len(_HEAD), list[Block]()
    for some in _in_blocks(archived):
        framed = _framed(compressor.compress(msgspec.msgpack.encode([_record(one.entry) for one in some])))
        blocks.append(_block(at, len(framed), some))
        parts.append(framed)
        at += len(framed)
    footer = Footer(namespace, partition, blocks)
    parts += [_framed(compressor.compress(msgspec.msgpack.encode(footer))), at.to_bytes(_OFFSET_BYTES), _HEAD]
    data = b"".join(parts)
    return Segment(SegmentName(ids[0], ids[-1], _hash(data).hex()), data, footer)


def read_footer(data: bytes) -> Footer:
    """Return what a segment says of itself.

    Raises:
        DamagedError: It is no segment, of a later version, cut off, or its footer is damaged.
    """
    _check_head(data)
    if len(data) < len(_HEAD) + TAIL_BYTES:
        raise DamagedError("the segment is cut off: it has no end")
    return parse_footer(data, footer_offset(data[-TAIL_BYTES:]))


def footer_offset(tail: bytes) -> int:
    """Return where the footer begins, from the last `TAIL_BYTES` of a segment.

    Raises:
        DamagedError: It is cut off.
    """
    if len(tail) != TAIL_BYTES or not tail.endswith(_HEAD):
        raise DamagedError("the segment is cut off: it has no end")
    return int.from_bytes(tail[: -len(_HEAD)])


def parse_footer(data: bytes, offset: int) -> Footer:
    """Read the footer at an offset of a segment, or of its end.

    Raises:
        DamagedError: It is damaged.
    """
    try:
        return _FOOTER_DECODER.decode(_unframed(data, offset)[0])
    except (msgspec.DecodeError, DamagedError) as error:
        raise DamagedError(f"the footer cannot be read: {error}") from error


def read_blocks(data: bytes, since_us: int = 0, until_us: int = 0) -> Iterator[list[StoredEntry] | DamagedError]:
    """Iterate over a segment's blocks as far as they can be found, each as its entries or as what is wrong with it.

    Blocks whose events are all of before `since_us`, or none of before `until_us`, are passed over; 0 is an open end.
    Without a footer blocks are found one behind the other: what lies behind a damaged length is lost.

    Raises:
        DamagedError: It is no segment, or of a later version.
    """
    try:
        blocks = read_footer(data).blocks
    except DamagedError:
        _check_head(data)
        yield from _walk(data)
        return
    for number, block in enumerate(blocks):
        if not block.concerns(since_us, until_us):
            continue
        try:
            yield _entries(_unframed(data, block.offset)[0])
        except DamagedError as error:
            yield DamagedError(f"block {number + 1} of {len(blocks)}: {error}")


def verify(data: bytes, name: SegmentName) -> list[DamagedError]:
    """Return everything that speaks against a segment; nothing where it is what was written."""
    if _hash(data).hex() == name.hash:
        return []
    try:
        found = [part for part in read_blocks(data) if isinstance(part, DamagedError)]
    except DamagedError as error:
        return [error]
    return found or [DamagedError("its bytes are not those that its name tells of, though every block can be read")]


def without_covered(blocks: Sequence[Block]) -> list[Block]:
    """Leave out blocks that others cover: what segments hold twice is read once."""
    found: list[Block] = []
    last: EntryId = (-1, 0)
    for block in sorted(blocks, key=lambda block: (block.first, block.last)):
        if block.last > last:
            found.append(block)
            last = block.last
    return found


def _walk(data: bytes) -> Iterator[list[StoredEntry] | DamagedError]:
    at, number = len(_HEAD), 0
    while at < len(data):
        number += 1
        try:
            plain, at = _unframed(data, at)
        except DamagedError as error:
            yield DamagedError(f"block {number}, and what lies behind it: {error}")
            return
        try:
            yield _entries(plain)
        except DamagedError:
            # The footer of a segment that is cut off behind it.
            return
    yield DamagedError("the segment is cut off: it has no footer")


def _check_head(data: bytes) -> None:
    if not data.startswith(MAGIC):
        raise DamagedError("it is no segment: it begins with something else")
    if data[len(MAGIC) : len(_HEAD)] != bytes([VERSION]):
        raise DamagedError(f"version {data[len(MAGIC)]} of the layout: a later Sidestream wrote it")


def _in_blocks(archived: Sequence[Archived]) -> Iterator[list[Archived]]:
    some: list[Archived] = []
    size = 0
    for one in archived:
        some.append(one)
        size += sum(len(name) + len(value) for name, value in one.entry.fields.items())
        if size >= BLOCK_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _block(offset: int, length: int, some: Sequence[Archived]) -> Block:
    return Block(
        offset,
        length,
        parse_id(some[0].entry.entry_id),
        parse_id(some[-1].entry.entry_id),
        len(some),
        sum(one.entry.count for one in some),
        min(one.since_us for one in some),
        max(one.until_us for one in some),
    )


def _record(entry: StoredEntry) -> _Record:
    return _Record(*parse_id(entry.entry_id), [part for field in entry.fields.items() for part in field])


def _entries(plain: bytes) -> list[StoredEntry]:
    try:
        records = _DECODER.decode(plain)
        return [
            StoredEntry(
                show_id((record.milliseconds, record.sequence)),
                dict(zip(record.fields[::2], record.fields[1::2], strict=True)),
            )
            for record in records
        ]
    except (msgspec.DecodeError, ValueError) as error:
        raise DamagedError(f"what it holds are no entries: {error}") from error


def _framed(compressed: bytes) -> bytes:
    return len(compressed).to_bytes(_LENGTH_BYTES) + _hash(compressed) + compressed


def _unframed(data: bytes, at: int) -> tuple[bytes, int]:
    """Return what is framed at an offset, expanded, and the offset behind it."""
    start = at + _LENGTH_BYTES + _HASH_BYTES
    end = start + int.from_bytes(data[at : at + _LENGTH_BYTES])
    if not len(_HEAD) <= at < start <= end <= len(data):
        raise DamagedError(f"at byte {at:,} its length leads out of the segment")
    compressed = data[start:end]
    if _hash(compressed) != data[at + _LENGTH_BYTES : start]:
        raise DamagedError(f"bytes {start:,} to {end:,} do not have the hash that stands before them")
    try:
        size = zstandard.frame_content_size(compressed)
        if not 0 <= size <= MAX_EXPANDED_BYTES:
            raise DamagedError(f"at byte {at:,} it would expand to {size:,} bytes")
        return zstandard.ZstdDecompressor().decompress(compressed), end
    except zstandard.ZstdError as error:
        raise DamagedError(f"at byte {at:,} it does not expand: {error}") from error


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()


__all__ = [
    "TAIL_BYTES",
    "Archived",
    "Block",
    "DamagedError",
    "EntryId",
    "Footer",
    "Segment",
    "SegmentName",
    "build_segment",
    "footer_offset",
    "parse_footer",
    "parse_id",
    "read_blocks",
    "read_footer",
    "show_id",
    "verify",
    "without_covered",
]
