"""Frames onto the stream and off it: the typed face of the append script and of XRANGE."""

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

from msgspec import Struct

from pipeline.connection import Arg, AsyncServer, Command, Reply
from pipeline.errors import RefusedError
from pipeline.keys import PartitionKeys
from pipeline.scripting import script
from pipeline.wire import StoredEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

FENCE_TTL_MS = 8 * 24 * 3600 * 1000
"""Fence memory: more than twice the spool's age limit (3 days), so that a missing fence proves a rollback."""

LEDGER_DIGEST_BYTES = 10
"""Of an event's identity: among ten million of a day and partition, one in 10^10 that two share a digest."""

AppendAnswer: TypeAlias = Literal["OK", "DUP", "GAP", "REFUSED", "KNOWN"]
_ANSWERS: Final[tuple[str, ...]] = get_args(AppendAnswer)


class LedgerPage(Struct, frozen=True):
    """What a backfilled frame is held against: the day of all its events, and the digest of each, in order.

    `day` is `YYYYMMDD` in UTC; `expires_at_s` says when the day's ledger may be forgotten, in seconds since 1970.
    """

    day: str
    expires_at_s: int
    digests: bytes


class SealedFrame(Struct, frozen=True):
    """A frame with its sequences given: it never changes again and is never shed."""

    partition: int
    producer: str
    first_seq: int
    count: int
    codec: str
    body: bytes
    ledger: LedgerPage | None = None
    """Of backfill alone."""

    @property
    def next_seq(self) -> int:
        """The sequence behind its last event."""
        return self.first_seq + self.count


class Appended(Struct, frozen=True):
    """What the append script answered: `next_seq` is the fence's, after the call.

    `known` of a backfilled frame's events were here before. Where all were, the answer is KNOWN: nothing is stored, and
    the frame has taken no sequences.
    """

    answer: AppendAnswer
    next_seq: int
    entry_id: str = ""
    known: int = 0


def append_command(keys: PartitionKeys, frame: SealedFrame, *, lost: int = 0, by_text: bool = False) -> Command:
    """Return the command that appends `frame` behind its fence.

    Args:
        keys: Those of the frame's partition.
        frame: What to append.
        lost: Events before the frame that the server has lost and nobody can resend; only after a GAP.
        by_text: Send the script itself, for a server that does not know its hash.
    """
    append = script("append")
    head: list[Arg] = ["EVAL", append.text] if by_text else ["EVALSHA", append.sha]
    page = frame.ledger
    ledger = () if page is None else (keys.ledger(page.day),)
    return [
        *head,
        3 + len(ledger),
        keys.stream(),
        keys.fence(frame.producer),
        keys.counters(),
        *ledger,
        frame.producer,
        frame.first_seq,
        frame.count,
        lost,
        FENCE_TTL_MS,
        frame.codec,
        frame.body,
        *(() if page is None else (page.expires_at_s, page.digests)),
    ]


def parse_appended(reply: Reply) -> Appended:
    """Read the append script's answer.

    Raises:
        RefusedError: The script found its arguments wrong; the frame can never be appended.
    """
    answer, next_seq, *rest = cast("list[bytes]", reply)
    name = answer.decode()
    if name not in _ANSWERS:
        raise RefusedError(f"the append script refused the frame: {next_seq.decode()}")
    entry_id = rest[0].decode() if rest else ""
    known = int(rest[1]) if rest[1:] else 0
    return Appended(cast("AppendAnswer", name), int(next_seq), entry_id, known)


def parse_entries(reply: Reply) -> list[StoredEntry]:
    """Read the reply of XRANGE."""
    rows = cast("Sequence[tuple[bytes, list[bytes]]]", reply or [])
    return [
        StoredEntry(entry_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True))) for entry_id, fields in rows
    ]


async def read_after(
    server: AsyncServer, keys: PartitionKeys, after_id: str, *, inclusive: bool, most: int
) -> list[StoredEntry]:
    """Read up to `most` entries after `after_id`, with it if `inclusive`.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    start = after_id if inclusive else f"({after_id}"
    return parse_entries(await server.call("XRANGE", keys.stream(), start, "+", "COUNT", most))


async def wait_after(
    server: AsyncServer, keys: PartitionKeys, after_id: str, *, block_ms: int, most: int
) -> list[StoredEntry]:
    """Read up to `most` entries after `after_id`, waiting up to `block_ms` for the first; `block_ms` must be positive.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    reply = await server.call("XREAD", "COUNT", most, "BLOCK", block_ms, "STREAMS", keys.stream(), after_id)
    return parse_entries(reply[0][1]) if reply else []
