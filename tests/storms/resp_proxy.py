"""A proxy that understands RESP and does to single commands what networks and servers do to them.

It sits between applications and a real server, each on a unix socket, in a thread of its own. For every command of an
interesting kind it draws a fate: forwarded, refused in its place (the server never sees it, the commands around it go
on), cut off before it is forwarded, or forwarded and then cut off without its answer, or answered late.

Keeps:
- Answers reach a client in the order of its commands, whoever gives them: one that is held up holds up those behind it.
- A fate is counted when it happens, not when it is drawn; what the server itself refuses is counted by its word.
"""

import asyncio
import random
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

Fate: TypeAlias = Literal["pass", "refuse", "cut_before", "drop_reply", "delay"]

REFUSALS: Final = (
    b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-BUSY Redis is busy running a script.\r\n",
    b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
    b"-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
)
FAULTED: Final = frozenset({b"EVALSHA", b"EVAL"})
DELAY_S: Final = 0.2
_CHUNK: Final = 1 << 16


def message_end(data: bytearray, start: int) -> int | None:
    """Return where a RESP2 message that begins at `start` ends, None while it is not all there."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    end = line + 2
    match chr(data[start]):
        case "$":
            size = int(data[start + 1 : line])
            end += 0 if size < 0 else size + 2
            return end if len(data) >= end else None
        case "*":
            for _ in range(int(data[start + 1 : line])):
                found = message_end(data, end)
                if found is None:
                    return None
                end = found
            return end
        case _:
            return end


def command_name(message: bytes) -> bytes:
    """Return the first word of a command."""
    return message.split(b"\r\n", 3)[2].upper()


class Messages:
    """Cuts what arrives into messages."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._data = bytearray()

    async def next(self) -> bytes | None:
        """Return the next message, None at the end."""
        while (end := message_end(self._data, 0) if self._data else None) is None:
            some = await self._reader.read(_CHUNK)
            if not some:
                return None
            self._data += some
        message = bytes(self._data[:end])
        del self._data[:end]
        return message


@dataclass(eq=False)
class _Exchange:
    """One client's connection: what is still to be answered, in order; bytes stand for an answer of the proxy's own."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    expected: deque[Fate | bytes] = field(default_factory=deque["Fate | bytes"])

    def cut(self) -> None:
        """End both connections."""
        self.client.transport.abort()
        self.server.transport.abort()

    def answer_refused(self) -> None:
        """Give the proxy's own answers whose turn it is."""
        while self.expected and isinstance(self.expected[0], bytes):
            self.client.write(self.expected.popleft())  # pyright: ignore[reportArgumentType] - just asked


class FaultProxy:
    """Forwards between applications and a server, and draws fates at the rates that are set.

    Args:
        path: The socket it listens on.
        upstream: The server's socket.
        seed: Of the dice.
    """

    def __init__(self, path: Path, upstream: Path, seed: int) -> None:
        self.rates: dict[Fate, float] = {}
        """The share of commands for each fate; the rest pass. Replaced as a whole, from any thread."""
        self.holding = False
        """Whether new connections are refused."""
        self.happened: Counter[str] = Counter()
        self._path = path
        self._upstream = upstream
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._exchanges: set[_Exchange] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy")

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """End every connection, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def hold(self) -> None:
        """Cut everybody off, and let nobody in until `release`."""
        self.holding = True
        done = threading.Event()

        def cut() -> None:
            for exchange in list(self._exchanges):
                exchange.cut()
            done.set()

        self._loop.call_soon_threadsafe(cut)
        done.wait()

    def release(self) -> None:
        """Let them in again."""
        self.holding = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_unix_server(self._serve, self._path))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.holding:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            writer.transport.abort()
            return
        exchange = _Exchange(writer, upstream)
        if self.holding:  # since it was let in
            exchange.cut()
            return
        self._exchanges.add(exchange)
        try:
            answers = asyncio.ensure_future(self._answer(Messages(upstream_reader), exchange))
            await self._forward(Messages(reader), exchange)
            answers.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._exchanges.discard(exchange)
            exchange.cut()

    def _fate(self, message: bytes) -> Fate:
        if command_name(message) not in FAULTED:
            return "pass"
        draw = self._dice.random()
        for fate, share in self.rates.items():
            draw -= share
            if draw < 0:
                return fate
        return "pass"

    async def _forward(self, commands: Messages, exchange: _Exchange) -> None:
        while (message := await commands.next()) is not None and not exchange.server.is_closing():
            match self._fate(message):
                case "cut_before":
                    self.happened["cut_before"] += 1
                    return
                case "refuse":
                    self.happened["refuse"] += 1
                    exchange.expected.append(self._dice.choice(REFUSALS))
                    exchange.answer_refused()
                case fate:
                    exchange.expected.append(fate)
                    exchange.server.write(message)
                    await exchange.server.drain()

    async def _answer(self, replies: Messages, exchange: _Exchange) -> None:
        try:
            while (message := await replies.next()) is not None and not exchange.client.is_closing():
                # It stays the first in the line until it is written: a refusal behind it must not overtake it.
                match exchange.expected[0]:
                    case "drop_reply":
                        self.happened["drop_reply"] += 1
                        break
                    case "delay":
                        self.happened["delay"] += 1
                        await asyncio.sleep(DELAY_S)
                    case _:
                        pass
                if message.startswith(b"-"):
                    self.happened[f"server says {message.split(maxsplit=1)[0][1:].decode()}"] += 1
                exchange.client.write(message)
                exchange.expected.popleft()
                exchange.answer_refused()
        except OSError:
            pass
        exchange.cut()
