"""Identity: what makes an event of a file the same event whenever it comes again.

Keeps:
- An event with an id of its source is that id, within the name of the source.
- One without is its content, and the how-manieth of that content it is in its file: a whole file, a part of it and a
  copy in another order name the same events.
- Memory does not grow with the lines of a file, only with those whose content stands there more than once.

Two files that hold one equal event each hold the same event. Where that is wrong, let the source give ids, or name the
sources apart.
"""

import hashlib
import tempfile
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import pairwise
from typing import BinaryIO, Final

import msgspec

from pipeline.events import Event, Resource
from pipeline.stream import LEDGER_DIGEST_BYTES

_CONTENT_BYTES: Final = 16
_SHELVES: Final = 64
"""Files that short digests are sorted into: of ten million lines each holds 1.2 MB, which is looked through at once."""

_encode = msgspec.msgpack.Encoder().encode


def content_of(event: Event, resource: Resource, source: str) -> bytes:
    """Return the digest of what an event says, and who says it.

    Raises:
        UnicodeEncodeError: A text holds half a character.
    """
    told = _encode((source, resource, event))
    return hashlib.blake2b(told, digest_size=_CONTENT_BYTES).digest()


def digest_of_id(own_id: str, source: str) -> bytes:
    """Return the ledger's digest of an event that its source gives an id."""
    return hashlib.blake2b(_encode((source, own_id)), digest_size=LEDGER_DIGEST_BYTES, person=b"id").digest()


def digest_of_content(content: bytes, occurrence: int) -> bytes:
    """Return the ledger's digest of the n-th event (from 1) of a content."""
    told = content + occurrence.to_bytes(8)
    return hashlib.blake2b(told, digest_size=LEDGER_DIGEST_BYTES, person=b"content").digest()


class Occurrences:
    """Counts, while a file is read, the how-manieth of its content each event is.

    Args:
        repeated: The short digests of contents that may stand there more than once; all others come once.
    """

    def __init__(self, repeated: Iterable[int]) -> None:
        self._repeated = frozenset(repeated)
        self._seen: dict[bytes, int] = {}

    def next_of(self, content: bytes) -> int:
        """Return 1 for the first event of a content, 2 for the second."""
        if _short(content) not in self._repeated:
            return 1
        number = self._seen.get(content, 0) + 1
        self._seen[content] = number
        return number


class Repeats:
    """Finds the contents that stand in a file more than once, on disk rather than in memory."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._shelves: list[BinaryIO] = []

    def note(self, content: bytes) -> None:
        """Take note of a content."""
        if not self._shelves:
            shelves = (tempfile.TemporaryFile() for _ in range(_SHELVES))  # noqa: SIM115 - the stack closes them
            self._shelves = [self._stack.enter_context(shelf) for shelf in shelves]
        self._shelves[content[0] % _SHELVES].write(content[:8])

    def found(self) -> set[int]:
        """Return the short digests that were noted more than once, and let go of the files."""
        repeated: set[int] = set()
        for shelf in self._shelves:
            shelf.seek(0)
            noted = array("Q", shelf.read())
            repeated.update(one for one, next_one in pairwise(sorted(noted)) if one == next_one)
        self._shelves = []
        self._stack.close()
        return repeated


def _short(content: bytes) -> int:
    return array("Q", content[:8])[0]
