"""Frames onto the stream and off it: the typed face of the append script and of XRANGE."""

from typing import TYPE_CHECKING, Literal, TypeAlias, cast

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

AppendAnswer: TypeAlias = Literal["OK", "DUP", "GAP", "REFUSED"]


class SealedFrame(Struct, frozen=True):
    """A frame with its sequences given: it never changes again and is never shed."""

    partition: int
    producer: str
    first_seq: int
    count: int
    codec: str
    body: bytes

    @property
    def next_seq(self) -> int:
        """The sequence behind its last event."""
        return self.first_seq + self.count


class Appended(Struct, frozen=True):
    """What the append script answered: `next_seq` is the fence's, after the call."""

    answer: AppendAnswer
    next_seq: int
    entry_id: str = ""


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
    return [
        *head,
        3,
        keys.stream(),
        keys.fence(frame.producer),
        keys.counters(),
        frame.producer,
        frame.first_seq,
        frame.count,
        lost,
        FENCE_TTL_MS,
        frame.codec,
        frame.body,
    ]


def parse_appended(reply: Reply) -> Appended:
    """Read the append script's answer.

    Raises:
        RefusedError: The script found its arguments wrong; the frame can never be appended.
    """
    answer, next_seq, *rest = cast("list[bytes]", reply)
    name = answer.decode()
    if name not in {"OK", "DUP", "GAP", "REFUSED"}:
        raise RefusedError(f"the append script refused the frame: {next_seq.decode()}")
    return Appended(cast("AppendAnswer", name), int(next_seq), rest[0].decode() if rest else "")


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
