"""Sidestream with one guard removed: what the storm must catch, or it proves nothing."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pipeline import scripting, stream
from pipeline.connection import Command, Reply, Server
from pipeline.errors import SidestreamError, UnknownOutcomeError
from pipeline.stream import Appended
from producers.delivery import Answer, Delivery, Outcome, Sending

_ANY_ORDER: Final = """
local first, events = tonumber(ARGV[2]), tonumber(ARGV[3])
local next_seq = tonumber(redis.call('HGET', KEYS[2], 'next') or '0')
%s
redis.call('XADD', KEYS[1], '*', 'p', ARGV[1], 's', ARGV[2], 'n', ARGV[3], 'c', ARGV[6], 'b', ARGV[7])
redis.call('HSET', KEYS[2], 'next', string.format('%%.0f', math.max(next_seq, first + events)))
redis.call('HINCRBY', KEYS[2], 'accepted', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('HINCRBY', KEYS[3], 'appended', ARGV[3])
return { 'OK', string.format('%%.0f', math.max(next_seq, first + events)), '0-0' }
"""


def no_fence() -> None:
    """Append whatever comes: a frame that is sent again is stored again."""
    _replace_append(_ANY_ORDER % "")


def high_water() -> None:
    """Remember the highest sequence only: a frame refused before a later one was taken is "already seen"."""
    _replace_append(
        _ANY_ORDER % "if first + events <= next_seq then return { 'DUP', string.format('%.0f', next_seq) } end"
    )


def first_gap() -> None:
    """Take the first GAP for a loss of the server: the frames before it, which are still held, are given up."""
    answered = Delivery.answered

    def giving_up(self: Delivery, sent: Sequence[Sending], answers: Sequence[Answer], now_s: float = 0.0) -> Outcome:
        outcome = answered(self, sent, answers, now_s)
        for sending, answer in zip(sent, answers, strict=True):
            lane = self._lanes[sending.frame.partition]  # pyright: ignore[reportPrivateUsage]
            if isinstance(answer, Appended) and answer.answer == "GAP" and sending in lane.frames:
                while lane.frames[0] is not sending:
                    lane.frames.popleft()
                sending.lost = sending.frame.first_seq - answer.next_seq
        return outcome

    Delivery.answered = giving_up


def parents_id() -> None:
    """Let a forked child speak under its parent's id."""
    urandom, mine = os.urandom, os.urandom(16)
    os.urandom = lambda size, /: mine if size == len(mine) else urandom(size)


def client_retries() -> None:
    """Let the client library repeat what was not answered, as redis-py does by default, and no fence notice it."""
    no_fence()
    batch = Server.batch

    def repeating(self: Server, commands: Sequence[Command]) -> list[Reply | SidestreamError]:
        for _ in range(3):
            try:
                return batch(self, commands)
            except UnknownOutcomeError:
                continue
        return batch(self, commands)

    Server.batch = repeating


VARIANTS: Final[Mapping[str, Callable[[], None]]] = {
    variant.__name__: variant for variant in (no_fence, high_water, first_gap, parents_id, client_retries)
}
CAUGHT_BY: Final[Mapping[str, frozenset[str]]] = {
    "no_fence": frozenset({"doubled"}),
    "high_water": frozenset({"missing", "holes"}),
    "first_gap": frozenset({"missing", "lost"}),
    "parents_id": frozenset({"missing", "invented", "holes"}),
    "client_retries": frozenset({"doubled"}),
}
"""The checks of which at least one must fail."""


def apply(name: str) -> None:
    """Remove a guard from this process; `none` removes none."""
    if name != "none":
        VARIANTS[name]()


def _replace_append(text: str) -> None:
    changed = scripting.Script("append", text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    original = stream.script

    def script(name: str) -> scripting.Script:
        return changed if name == "append" else original(name)

    stream.script = script
