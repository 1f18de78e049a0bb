"""Appending: frames go out in one write, and each gets its answer, at the level that was asked for.

Keeps: with `replicas`, a frame counts as appended only after so many replicas have said that they have all that this
connection wrote. On DUP the append script writes too, so WAIT behind it covers a frame that another connection stored.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pipeline.errors import NotReplicatedError, RefusedError, SidestreamError
from pipeline.keys import Keys
from pipeline.stream import Appended, append_command, parse_appended
from producers.delivery import Answer, Sending

if TYPE_CHECKING:
    from pipeline.connection import Command, Reply, Server

REPLICATED_WITHIN_MS: Final = 1000
"""How long a write waits for its replicas: well below the time-out of an answer."""


def append_frames(
    server: "Server", keys: Keys, sendings: Sequence[Sending], *, by_text: bool = False, replicas: int = 0
) -> list[Answer]:
    """Send frames in one write; return an answer for each.

    Args:
        server: Where to.
        keys: The namespace's.
        sendings: In order.
        by_text: Send the script with the first of them: the server does not know it.
        replicas: How many must have said that they have it.

    Raises:
        SidestreamError: There was no connection, or no answer; see `Server.batch`.
    """
    commands: list[Command] = [
        append_command(keys.partition(s.frame.partition), s.frame, lost=s.lost, by_text=by_text and index == 0)
        for index, s in enumerate(sendings)
    ]
    if not replicas:
        return [_as_answer(reply) for reply in server.batch(commands)]
    *replies, confirmed = server.batch([*commands, ["WAIT", replicas, REPLICATED_WITHIN_MS]])
    return _replicated([_as_answer(reply) for reply in replies], confirmed, replicas)


def _as_answer(reply: "Reply | SidestreamError") -> Answer:
    if isinstance(reply, SidestreamError):
        return reply
    try:
        return parse_appended(reply)
    except RefusedError as error:
        return RefusedError(str(error), code="bad_frame")


def _replicated(answers: Sequence[Answer], confirmed: "Reply | SidestreamError", replicas: int) -> list[Answer]:
    if isinstance(confirmed, int) and confirmed >= replicas:
        return list(answers)
    if isinstance(confirmed, SidestreamError):
        error = NotReplicatedError(f"the server cannot say what its replicas have: {confirmed}")
    else:
        error = NotReplicatedError(
            f"{confirmed} of {replicas} replicas have confirmed a write within {REPLICATED_WITHIN_MS} ms"
        )
    stored = {"OK", "DUP"}
    return [error if isinstance(one, Appended) and one.answer in stored else one for one in answers]
