"""Feeding: frames of files onto the streams, one of each partition at a time, until each is answered.

Keeps:
- A frame gets its sequences when it is sent, and keeps them until it is answered: one of which everything was known has
  taken none, and the next one begins at the same.
- A frame whose answer did not come is sent again as it is: the fence tells whether it was taken.
- Who dies in between has lost nothing: what was appended is known when the same files are fed again.
"""

import os
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio

from pipeline.connection import AsyncServer, Reply
from pipeline.errors import PermanentError, RefusedError, ScriptMissingError, SidestreamError
from pipeline.keys import Keys
from pipeline.retry import Breaker
from pipeline.stream import FENCE_TTL_MS, Appended, SealedFrame, append_command, parse_appended
from producers import clock
from producers.backfill.framing import Framer, ReadyFrame
from producers.backfill.pace import LOOK_EVERY_S, MOST_BEHIND_S, Pace

OUTAGE_S: Final = 60.0
"""Trouble that lasts longer ends the run: it can be gone on with at any time."""

_FRESH_S: Final = FENCE_TTL_MS / 2000
"""A fence that was left alone for longer may soon be forgotten."""


@dataclass(slots=True)
class Fed:
    """What became of events: `new` ones are counted by handlers, `known` were here before.

    `lost` are those that the server has lost after it had taken them: feeding the same again brings them back.
    """

    new: int = 0
    known: int = 0
    frames: int = 0
    lost: int = 0


@dataclass(slots=True)
class _Lane:
    """What one partition is to get next."""

    producer: str = ""
    next_seq: int = 0
    touched_at_s: float = 0.0


@dataclass(slots=True)
class _Sending:
    frame: SealedFrame
    lost: int = 0


class Feeder:
    """Sends what a framer has ready.

    Args:
        server: Where to.
        keys: Of the namespace.
        framer: Fills frames.
        pace: How fast.
        behind_s: Says how many seconds those who count are behind; 0 where nobody does.
    """

    def __init__(
        self,
        server: AsyncServer,
        keys: Keys,
        framer: Framer,
        pace: Pace,
        behind_s: Callable[[], Awaitable[float]] | None = None,
    ) -> None:
        self.fed = Fed()
        self._server = server
        self._keys = keys
        self._framer = framer
        self._pace = pace
        self._behind_s = behind_s
        self._looked_at_s = float("-inf")
        self._lanes: dict[int, _Lane] = {}
        self._breaker = Breaker()
        self._trouble_since_s: float | None = None
        self._by_text = False

    async def send(self, *, until_ready: int = 0) -> None:
        """Send frames until no more than so many are ready.

        Raises:
            SidestreamError: The server is away for longer than a minute, or refuses.
        """
        while self._framer.waiting > until_ready:
            await self._keep_pace()
            frames = self._framer.take()
            await self._deliver({number: self._sealed(number, frame) for number, frame in frames.items()})
            rest_s = self._pace.rest_s(sum(frame.count for frame in frames.values()), clock.now_s())
            await anyio.sleep(rest_s)

    async def _keep_pace(self) -> None:
        if self._behind_s is None or clock.now_s() - self._looked_at_s < LOOK_EVERY_S:
            return
        while await self._behind_s() > MOST_BEHIND_S:  # noqa: ASYNC110 - what is waited for happens in Redis
            await anyio.sleep(LOOK_EVERY_S)
        self._looked_at_s = clock.now_s()

    def _sealed(self, number: int, frame: ReadyFrame) -> _Sending:
        lane, now_s = self._lanes.setdefault(number, _Lane()), clock.now_s()
        if not lane.producer or now_s - lane.touched_at_s > _FRESH_S:
            self._lanes[number] = lane = _Lane(os.urandom(16).hex(), 0, now_s)
        return _Sending(SealedFrame(number, lane.producer, lane.next_seq, frame.count, "mz", frame.body, frame.page))

    async def _deliver(self, sendings: dict[int, _Sending]) -> None:
        while sendings:
            trouble: SidestreamError | None = None
            replies = await self._sent(sendings)
            if isinstance(replies, SidestreamError):
                trouble = replies
            else:
                for number, reply in replies.items():
                    error = self._answered(sendings, number, reply)
                    trouble = trouble or error
            await self._pause(trouble)

    async def _sent(self, sendings: Mapping[int, _Sending]) -> "dict[int, Reply | SidestreamError] | SidestreamError":
        commands = [
            append_command(self._keys.partition(number), one.frame, lost=one.lost, by_text=self._by_text and at == 0)
            for at, (number, one) in enumerate(sendings.items())
        ]
        try:
            return dict(zip(sendings, await self._server.batch(commands), strict=True))
        except PermanentError:
            raise
        except SidestreamError as error:
            return error

    def _answered(
        self, sendings: dict[int, _Sending], number: int, reply: Reply | SidestreamError
    ) -> SidestreamError | None:
        if isinstance(reply, PermanentError):
            raise reply
        if isinstance(reply, SidestreamError):
            self._by_text = isinstance(reply, ScriptMissingError)
            return None if self._by_text else reply
        self._by_text = False
        answer, sending = parse_appended(reply), sendings[number]
        if answer.answer == "GAP":
            # Nothing of this lane is on its way but this frame: the server has lost what lay between.
            sending.lost = sending.frame.first_seq - answer.next_seq
            return None
        if answer.answer == "REFUSED":
            raise RefusedError(
                f"partition {number}: the fence of producer {sending.frame.producer} was moved by others"
            )
        self._note(number, sending, answer)
        del sendings[number]
        return None

    def _note(self, number: int, sending: _Sending, answer: Appended) -> None:
        lane, frame = self._lanes[number], sending.frame
        known = frame.count if answer.answer == "KNOWN" else answer.known
        self.fed.known += known
        self.fed.new += frame.count - known
        if answer.answer == "KNOWN":
            return
        self.fed.frames += 1
        self.fed.lost += sending.lost
        lane.next_seq, lane.touched_at_s = frame.next_seq, clock.now_s()

    async def _pause(self, trouble: SidestreamError | None) -> None:
        now_s = clock.now_s()
        if trouble is None:
            self._breaker.succeeded()
            self._trouble_since_s = None
            return
        if self._trouble_since_s is None:
            self._trouble_since_s = now_s
        if now_s - self._trouble_since_s > OUTAGE_S:
            raise trouble
        self._breaker.failed(now_s, random.random())  # noqa: S311 - spreads tries, guards nothing
        await anyio.sleep(self._breaker.pause_s(now_s))
