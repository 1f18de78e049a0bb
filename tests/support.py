"""What tests of the consuming side share: a correct producer in a few lines, without the producing side."""

from collections.abc import Sequence

from pipeline.connection import AsyncServer
from pipeline.events import Event, Origin, Resource
from pipeline.keys import Keys
from pipeline.stream import SealedFrame, append_command, parse_appended
from pipeline.wire import FrameEncoder


class Appender:
    """Appends events as a correct producer would, without the producing side of the project."""

    def __init__(self, server: AsyncServer, keys: Keys) -> None:
        self.producer = "ab" * 16
        self.resource = Resource(service="deckster", version="1", environment="test")
        self._server = server
        self._keys = keys
        self._next: dict[tuple[str, int], int] = {}

    async def __call__(self, events: Sequence[Event], *, partition: int = 0, origin: Origin = "live") -> str:
        """Append one frame; return its entry id."""
        body = FrameEncoder(self.resource, origin=origin).encode(list(events))
        return await self.raw(body, len(events), partition=partition)

    async def raw(self, body: bytes, count: int, *, partition: int = 0, codec: str = "mz") -> str:
        """Append a frame with any body; return its entry id."""
        first = self._next.get((self.producer, partition), 0)
        frame = SealedFrame(partition, self.producer, first, count, codec, body)
        reply = await self._server.call(*append_command(self._keys.partition(partition), frame, by_text=True))
        answer = parse_appended(reply)
        assert answer.answer == "OK", answer
        self._next[self.producer, partition] = answer.next_seq
        return answer.entry_id
