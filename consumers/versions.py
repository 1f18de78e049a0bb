"""Which version of the state answers for which handler and day, and what versions a namespace has.

Keeps:
- A (handler, day) has one version that answers: of the replays that were swapped in and cover it the latest, else the
  handler's base.
- A number is used once; no handler has more than three versions.
- Pure: each change gives another document, or says why not.
"""

from collections.abc import Collection, Mapping
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from consumers.windows import DAY, day_shown
from pipeline.errors import PermanentError
from pipeline.keys import LIVE_VERSION
from pipeline.units import US_PER_S

MOST_REPLAYS: Final = 2
"""Beside the base: each costs the memory and the work of a whole state."""

SCHEMA: Final = 1

Progress: TypeAlias = Literal["building", "ready", "swapped"]


class VersionsError(PermanentError):
    """What was asked of the versions cannot be done; the message says why, and what can."""

    code = "versions"


class Days(Struct, frozen=True, array_like=True):
    """Days of event time (UTC): from `from_s` until `until_s`, which is not among them; 0 is an open end.

    Both are seconds since 1970, at a day's beginning.
    """

    from_s: int = 0
    until_s: int = 0

    def cover(self, at_s: int) -> bool:
        """Return whether an instant (seconds since 1970) is within."""
        return self.from_s <= at_s and (not self.until_s or at_s < self.until_s)

    def include(self, other: "Days") -> bool:
        """Return whether all days of another are within."""
        return self.from_s <= other.from_s and (not self.until_s or 0 < other.until_s <= self.until_s)

    def as_us(self) -> tuple[int, int]:
        """Return both ends in microseconds; 0 is an open end."""
        return self.from_s * US_PER_S, self.until_s * US_PER_S

    def __str__(self) -> str:
        if self == ALL_DAYS:
            return "all days"
        last = self.until_s - DAY.width_s
        if self.until_s and last == self.from_s:
            return day_shown(self.from_s)
        first = f"from {day_shown(self.from_s)}" if self.from_s else ""
        return f"{first} {f'to {day_shown(last)}' if self.until_s else ''}".strip()


ALL_DAYS: Final = Days()


class Replay(Struct, frozen=True, omit_defaults=True):
    """A version beside the base.

    `born` names it as nothing else ever was named. `recipes` are those it is computed with, `replaces` those that the
    base was computed with before: handler -> hashes. `answered`: it was swapped in, now or earlier.
    `inherits`: its base hands its other days over to it, partition by partition. `archive` is where it began ("": with
    the stream).
    """

    number: int
    born: str
    handlers: tuple[str, ...]
    days: Days
    recipes: Mapping[str, str]
    began_ms: int
    progress: Progress = "building"
    answered: bool = False
    inherits: bool = False
    archive: str = ""
    replaces: Mapping[str, tuple[str, ...]] = {}

    def takes(self, handler: str, recipe_hash: str) -> bool:
        """Return whether who has that recipe may carry a handler of it.

        Before it answers, only the one that it is computed with; then later ones too, but none that it has replaced.
        """
        if handler not in self.handlers:
            return False
        later = self.answered and recipe_hash not in self.replaces.get(handler, ())
        return later or recipe_hash == self.recipes.get(handler)

    def covers(self, handler: str, at_s: int) -> bool:
        """Return whether it has a handler's windows of a day."""
        return handler in self.handlers and self.days.cover(at_s)


class Versions(Struct, frozen=True, omit_defaults=True):
    """All versions of a namespace.

    `bases` names those that are not the first. Of `replays` the swapped come last, in the order of their swaps.
    """

    schema: int = SCHEMA
    next: int = LIVE_VERSION + 1
    bases: Mapping[str, int] = {}
    replays: tuple[Replay, ...] = ()

    def base(self, handler: str) -> int:
        """Return the version that answers for a handler where no replay does."""
        return self.bases.get(handler, LIVE_VERSION)

    def answering(self, handler: str, at_s: int) -> int:
        """Return the version that answers for the windows of a handler that lie in the day of `at_s` (seconds)."""
        for one in reversed(self.replays):
            if one.progress == "swapped" and one.covers(handler, at_s):
                return one.number
        return self.base(handler)

    @property
    def places(self) -> tuple[object, ...]:
        """Where windows lie, whichever answers: while it stays the same, whoever reads finds all of them there."""
        return (*sorted(self.bases.items()), *((one.number, one.inherits) for one in sorted(self.replays, key=_number)))

    def heir(self, handler: str, at_s: int) -> int | None:
        """Return the version in which windows of that day may be found as well: its base is handing them over."""
        for one in self.replays:
            if one.inherits and handler in one.handlers and self.answering(handler, at_s) == self.base(handler):
                return one.number
        return None

    def read(self, handler: str) -> list[int]:
        """Return the versions of a handler that answer for some day, the lowest first."""
        swapped = [one for one in self.replays if one.progress == "swapped" and handler in one.handlers]
        found: list[int] = []
        seen: list[Days] = []
        for one in reversed(swapped):
            if not any(days.include(one.days) for days in seen):
                found.append(one.number)
                seen.append(one.days)
        if not any(days == ALL_DAYS for days in seen):
            found.append(self.base(handler))
        return sorted(found)

    def replay(self, number: int) -> Replay:
        """Return a replay by its number.

        Raises:
            VersionsError: There is none.
        """
        for one in self.replays:
            if one.number == number:
                return one
        known = ", ".join(str(one.number) for one in self.replays) or "none"
        raise VersionsError(f"there is no replay of version {number}; there are: {known}")

    def all(self, handler: str) -> list[int]:
        """Return every version that a handler has."""
        return [self.base(handler), *(one.number for one in self.replays if handler in one.handlers)]

    def known(self, handler: str, number: int, born: str = "") -> bool:
        """Return whether a handler has this version: as its base, or as that replay and no other of its number."""
        if number == self.base(handler):
            return True
        return any(one.number == number and handler in one.handlers and one.born == born for one in self.replays)

    def carried(self, handler: str) -> list[int]:
        """Return the versions of a handler that ordinary workers carry: the base, and what has caught up once."""
        return [self.base(handler), *(one.number for one in self.replays if _follows(one) and handler in one.handlers)]

    def without(self, number: int) -> "Versions":
        """Return what would answer if a replay were not there."""
        return replace(self, replays=tuple(one for one in self.replays if one.number != number))

    def only(self, number: int) -> "Versions":
        """Return what answers where a replay answers for all that its handlers have."""
        return Versions(bases=dict.fromkeys(self.replay(number).handlers, number))

    # Changes

    def begin(self, asked: Replay) -> "Versions":
        """Begin a replay; its number becomes `next`.

        Raises:
            VersionsError: There are as many versions as there may be.
        """
        if len(self.replays) >= MOST_REPLAYS:
            numbers = " and ".join(str(one.number) for one in self.replays)
            raise VersionsError(f"versions {numbers} are there beside the base: drop one before another is begun")
        new = replace(asked, number=self.next)
        # What was swapped in stays behind what was not.
        first = [one for one in self.replays if one.progress != "swapped"]
        rest = [one for one in self.replays if one.progress == "swapped"]
        return replace(self, next=self.next + 1, replays=(*first, new, *rest))

    def caught_up(self, number: int) -> "Versions":
        """Take note that a replay has caught up with the stream; that it had already is no error.

        Raises:
            VersionsError: There is no such replay.
        """
        one = self.replay(number)
        return self if one.progress != "building" else self._with(replace(one, progress="ready"))

    def swap(self, number: int) -> "Versions":
        """Let a replay answer for its handlers and days.

        Raises:
            VersionsError: It has not caught up, or answers already.
        """
        self._check_still()
        one = self.replay(number)
        if one.progress == "building":
            raise VersionsError(f"version {number} has not caught up yet: go on with `sidestream replay run`")
        if one.progress == "swapped":
            raise VersionsError(f"version {number} answers already")
        others = tuple(other for other in self.replays if other.number != number)
        return replace(self, replays=(*others, replace(one, progress="swapped", answered=True)))

    def rollback(self) -> tuple["Versions", int]:
        """Take back the latest swap; return whose it was.

        Raises:
            VersionsError: Nothing was swapped in.
        """
        self._check_still()
        swapped = [one for one in self.replays if one.progress == "swapped"]
        if not swapped:
            raise VersionsError("nothing was swapped in: there is nothing to roll back")
        last = replace(swapped[-1], progress="ready")
        others = tuple(one for one in self.replays if one.number != last.number)
        first = [one for one in others if one.progress != "swapped"]
        return replace(self, replays=(*first, last, *swapped[:-1])), last.number

    def rolled_back(self, number: int) -> "Versions":
        """Take back the latest swap, which is that of a version.

        Raises:
            VersionsError: It is another's by now.
        """
        back, last = self.rollback()
        if last != number:
            raise VersionsError(f"the latest swap is that of version {last} by now: look again")
        return back

    def dropped(self, number: int) -> "Versions":
        """Forget a replay that answers for nothing.

        Raises:
            VersionsError: There is none, or some day is still answered from it.
        """
        one = self.replay(number)
        for handler in one.handlers:
            if number in self.read(handler):
                base = self.base(handler)
                raise VersionsError(
                    f"version {number} answers for {handler}: `sidestream replay drop {base}` lets it take the place "
                    f"of version {base}; `sidestream replay rollback` first, if it is to go itself"
                )
        return replace(self, replays=tuple(other for other in self.replays if other.number != number))

    def inheriting(self, number: int) -> "Versions":
        """Let the base of a replay's handlers hand its other days over to it; nothing else changes until it has.

        Raises:
            VersionsError: It has not been swapped in, or another was before it.
        """
        one = self.replay(number)
        self.taken_over(number)
        return self._with(replace(one, inherits=True))

    def taken_over(self, number: int, handlers: Collection[str] = ()) -> "Versions":
        """Make a replay the base of its handlers, or of some; the bases that they had answer for nothing any more.

        Raises:
            VersionsError: It has not been swapped in, or another was before it.
        """
        one = self.replay(number)
        taken = handlers or one.handlers
        swapped = [other for other in self.replays if other.progress == "swapped"]
        if one not in swapped:
            raise VersionsError(f"version {number} has not been swapped in")
        first = swapped[0]
        if first is not one and any(handler in first.handlers for handler in taken):
            raise VersionsError(f"version {first.number} was swapped in before version {number}: drop in that order")
        rest = tuple(handler for handler in one.handlers if handler not in taken)
        left = [replace(one, handlers=rest, inherits=False)] if rest else []
        replays = tuple(new for other in self.replays for new in (left if other.number == number else [other]))
        return replace(self, bases={**self.bases, **dict.fromkeys(taken, number)}, replays=replays)

    def _check_still(self) -> None:
        for one in self.replays:
            if one.inherits:
                raise VersionsError(
                    f"version {one.number} is taking the place of its base: go on with `sidestream replay drop "
                    f"{self.base(one.handlers[0])} --yes`"
                )

    def _with(self, changed: Replay) -> "Versions":
        return replace(self, replays=tuple(changed if one.number == changed.number else one for one in self.replays))


FIRST_VERSION: Final = Versions()
"""What a fresh namespace has: one version, which answers for everything."""

_DECODER: Final = msgspec.json.Decoder(Versions)


def encode_versions(versions: Versions) -> bytes:
    """Return the document as it is stored."""
    return msgspec.json.encode(versions)


def decode_versions(stored: bytes | None) -> Versions:
    """Read the stored document; where there is none, everything is the first version's.

    Raises:
        VersionsError: A later Sidestream wrote it, or somebody else.
    """
    if stored is None:
        return FIRST_VERSION
    try:
        found = _DECODER.decode(stored)
    except msgspec.DecodeError as error:
        raise VersionsError(f"the document of versions cannot be read: {error}") from error
    if found.schema > SCHEMA:
        raise VersionsError(f"the document of versions has schema {found.schema}: a later Sidestream wrote it")
    return found


def _number(one: Replay) -> int:
    return one.number


def _follows(one: Replay) -> bool:
    return one.progress != "building"
