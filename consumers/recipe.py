"""A recipe: everything besides the events that decides what a handler's state becomes."""

import hashlib

import msgspec

from consumers.histogram import SCALE
from consumers.state import Caps


class Recipe(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a state was computed; two states with the same recipe and events are equal bit by bit.

    `fold` is the revision of the handler's code, to be raised with any change of what it counts.
    """

    fold: int
    caps: Caps
    scale: int = SCALE
    catalogue: str = ""
    book: str = ""

    def text(self) -> str:
        """Return the recipe as JSON, keys in order."""
        return msgspec.json.encode(self, order="sorted").decode()

    def hash(self) -> str:
        """Return 16 hex digits that name this recipe."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]
