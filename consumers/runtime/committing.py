"""The commit: the typed face of `commit.lua`, and of the cursor that it moves. A state is written here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from consumers.letters import BUDGET_BYTES, DeadLetter
from consumers.payload import Payload, PayloadBuilder
from consumers.runtime.batch import Cursor
from consumers.runtime.effects import Effect
from consumers.runtime.remembered import Remembered
from consumers.state import Delta
from consumers.versions import ALL_DAYS, Days
from pipeline.connection import Arg, AsyncServer
from pipeline.errors import RefusedError
from pipeline.keys import PartitionKeys, UnitKeys
from pipeline.scripting import script

MAX_REASON_BYTES: Final = 1_000
"""Bytes of the sentence that a dead letter keeps."""

_FIXED_KEYS: Final = 3

Source: TypeAlias = Literal["stream", "archive", "letters"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a unit stands, the token of its state there, and how many owners have begun there one after another.

    It counts the events of `days`. Where there is a `join`, entries below it come from the archive: up to the entry
    `archived`, or of segments that had ended when the archive of this stream began, at `archived_since_ms`. The unit
    itself was declared at `declared_ms`, by the broker's clock.
    """

    cursor: Cursor
    token: str
    starts: int
    days: Days = ALL_DAYS
    join: str = ""
    declared_ms: int = 0
    archived: str = ""
    archived_since_ms: int = 0


def parse_standing(flat: Sequence[bytes]) -> Standing:
    """Read a cursor's hash, a flat list.

    Raises:
        RefusedError: It has no token: what has written it knows none.
    """
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    token = fields.get(b"token")
    if token is None:
        raise RefusedError(
            "the cursor has no token: an earlier Sidestream wrote this state in another layout; "
            "`sidestream handler retire` removes it, and a worker then counts anew what the stream retains"
        )
    cursor = Cursor(fields[b"id"].decode(), int(fields[b"index"]), fields[b"done"].decode())
    return Standing(
        cursor,
        token.decode(),
        int(fields.get(b"starts", b"0")),
        Days(int(fields.get(b"days_from", b"0")), int(fields.get(b"days_until", b"0"))),
        fields.get(b"join", b"").decode(),
        int(fields.get(b"declared", b"0")),
        fields.get(b"archived", b"").decode(),
        int(fields.get(b"archived_since", b"0")),
    )


def new_token() -> str:
    """Return a name for a state that there was never before."""
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit is told besides values.

    `events` moved, those of `dead` and those that were `known` among them; `identity` proves that the last entry is
    still the one that was read. `taken` letters go, which stood for `taken_events`.
    """

    source: Source
    before: Cursor
    after: Cursor
    events: int
    dead: Sequence[DeadLetter]
    entries: int = 0
    foreign: int = 0
    known: int = 0
    identity: tuple[bytes, bytes] = (b"", b"0")
    taken: Sequence[str] = ()
    taken_events: int = 0


class Committer:
    """Writes the state of one unit.

    Args:
        server: Where it is.
        partition: The unit's.
        keys: The unit's.
        effect: Whose state it is.
    """

    def __init__(self, server: AsyncServer, partition: PartitionKeys, keys: UnitKeys, effect: Effect) -> None:
        self._server = server
        self._partition = partition
        self._keys = keys
        self._effect = effect

    async def payload(self, state: Remembered, delta: Delta) -> Payload:
        """Return the new values of what a batch adds to, having read what is not remembered.

        Raises:
            StateChangedError: The state is no more the one that is remembered.
            OverflowingError: A sum would pass the limit of a value.
            SidestreamError: See `AsyncServer.call`.
        """
        builder = PayloadBuilder(self._keys, delta, state.known, self._effect.caps, self._effect.ranked_by)
        await state.load_days(builder.days())
        await state.load(*builder.missing())
        return builder.build(_FIXED_KEYS + 1)

    async def commit(self, commit: Commit, payload: Payload, token: str, proposed: str) -> tuple[str, list[Any]]:
        """Run the script; return its answer and what comes with it.

        Args:
            commit: What moves.
            payload: The values.
            token: Of the state that they were made from.
            proposed: Names the state to be.

        Raises:
            SidestreamError: See `AsyncServer.call`; whether it happened, the cursor says.
        """
        keys = [self._partition.stream(), self._keys.cursor(), self._keys.dead_letters(), *payload.keys]
        dead = sum(letter.events for letter in commit.dead)
        args: list[Arg] = [
            commit.before.entry_id,
            commit.before.index,
            commit.after.entry_id,
            commit.after.index,
            commit.after.done,
            commit.entries,
            *commit.identity,
            commit.source,
            self._effect.recipe()[0],
            self._keys.name,
            commit.events - dead - commit.known,
            commit.known,
            commit.foreign,
            dead,
            token,
            proposed,
            BUDGET_BYTES,
            len(commit.dead),
            *(part for letter in commit.dead for part in _letter_args(letter)),
            len(commit.taken),
            commit.taken_events,
            *commit.taken,
            *payload.arguments,
        ]
        answer, *rest = cast("list[Any]", await self._server.run(script("commit"), keys, args))
        return answer.decode(), rest


def _letter_args(letter: DeadLetter) -> list[Arg]:
    reason = letter.reason.encode("utf-8", "replace")[:MAX_REASON_BYTES]
    return [
        letter.entry_id,
        letter.index,
        letter.events,
        letter.code,
        reason,
        letter.producer,
        letter.first_seq,
        letter.codec,
        letter.body,
    ]
