"""Pseudonyms: users' ids leave the process as keyed hashes, so that nobody downstream can tell who they are.

Keeps:
- The same id under the same key gives the same pseudonym, in every process: sums by user stay right.
- Without the key an id can be neither read back nor tried out.
- No id of a user is encoded as it was passed, whatever its type.
"""

import hashlib
import hmac
from typing import Final

import msgspec

from pipeline.events import Event

LEAST_KEY_CHARS: Final = 16
_HASH_CHARS: Final = 32
"""128 bits: among a billion users two that share one are not to be expected."""

_REMEMBERED: Final = 8192


class Pseudonyms:
    """Replaces users' ids.

    Args:
        key: A secret; whoever has it can tell whether a pseudonym is that of an id.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._known: dict[str, str] = {}

    def of(self, user: str) -> str:
        """Return the pseudonym of an id; an empty one stays empty."""
        if not user:
            return user
        known = self._known.get(user)
        if known is None:
            text = user.encode("utf-8", "surrogatepass")
            known = hmac.new(self._key, text, hashlib.sha256).hexdigest()[:_HASH_CHARS]
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[user] = known
        return known

    def replaced(self, events: list[Event]) -> list[Event]:
        """Return the events with pseudonyms in place of their users' ids."""
        return [
            event if (user := _text(event.user)) == "" else msgspec.structs.replace(event, user=self.of(user))
            for event in events
        ]


def _text(user: object) -> str:
    if isinstance(user, str):
        return user
    try:
        return str(user)  # a UUID, which would be stored as text
    except Exception:  # noqa: BLE001 - an application may pass anything
        return "?"
