"""A value: all measures of one cell, or of one name, in one window, as one string of bytes.

Keeps:
- The same measures give the same bytes, whatever the order they were added in: a replay is compared by bytes.
- What is packed is read for ever: the first byte is the version of the layout.
- A number that could not be stored is refused here, before anything is sent.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from pipeline.errors import PermanentError

VERSION: Final = 1
MOST: Final = 10**18
"""A sum of a window at most: nine times below what 64 bits hold."""

_HEAD: Final = bytes([VERSION])
_ENCODER: Final = msgspec.msgpack.Encoder(order="deterministic")
_DECODER: Final = msgspec.msgpack.Decoder(dict[str, int])


class UnreadableValueError(PermanentError):
    """A stored value is of a later version, or no value at all."""

    code = "unreadable_value"


class TooLargeError(PermanentError):
    """A sum would pass what a value can hold; `measure` says which."""

    code = "overflow"

    def __init__(self, measure: str) -> None:
        super().__init__(f"the sum of {measure} would pass {MOST:,}")
        self.measure = measure


def pack(measures: Mapping[str, int]) -> bytes:
    """Return measures as a value.

    Raises:
        TooLargeError: One of them is larger than a value can hold.
    """
    if measures and max(measures.values()) > MOST:
        raise TooLargeError(max(measures, key=measures.__getitem__))
    return _HEAD + _ENCODER.encode(measures)


def unpack(value: bytes) -> dict[str, int]:
    """Return the measures of a value.

    Raises:
        UnreadableValueError: A later Sidestream wrote it, or something else did.
    """
    if value[:1] != _HEAD:
        raise UnreadableValueError(
            f"a stored value begins with {value[:1]!r}: a later version wrote it, or another program"
        )
    try:
        return _DECODER.decode(value[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableValueError(f"a stored value cannot be read: {error}") from error


def added(value: bytes | None, measures: Mapping[str, int]) -> tuple[bytes, Mapping[str, int]]:
    """Add measures to a value that may not be there yet; return the new one, packed and as measures.

    Raises:
        TooLargeError: A sum is larger than a value can hold.
        UnreadableValueError: See `unpack`.
    """
    if not value:
        return pack(measures), measures
    total = unpack(value)
    get = total.get
    for measure, number in measures.items():
        total[measure] = get(measure, 0) + number
    return pack(total), total
