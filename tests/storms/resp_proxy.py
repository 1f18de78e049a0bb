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
from typing import Final, Literal, NamedTuple, TypeAlias

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


class Sent(NamedTuple):
    """A command that the server is to answer, and what becomes of the answer."""

    fate: Fate
    command: bytes


@dataclass(eq=False)
class Exchange:
    """One client's connection: what is still to be answered, in order; bytes stand for an answer of the proxy's own.

    While it is `held` only the server's side is cut: the client waits for what is held up on its way. When the client
    is gone, an answer is still waited for, for `follow_s` seconds.
    """

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    expected: deque[Sent | bytes] = field(default_factory=deque["Sent | bytes"])
    held: bool = False
    follow_s: float = 0.0
    answers: "asyncio.Future[None] | None" = None

    def cut(self) -> None:
        """End both connections."""
        if not self.held:
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
        self.upstream = upstream
        self._path = path
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._exchanges: set[Exchange] = set()
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy")

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """End every connection, and the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def hold(self) -> None:
        """Cut everybody off, and let nobody in until `release`."""
        self.holding = True
        done = threading.Event()

        def cut() -> None:
            for exchange in list(self._exchanges):
                exchange.cut()
            done.set()

        self.loop.call_soon_threadsafe(cut)
        done.wait()

    def release(self) -> None:
        """Let them in again."""
        self.holding = False

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_unix_server(self._serve, self._path))
        self._ready.set()
        self.loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.holding:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream = await asyncio.open_unix_connection(self.upstream)
        except OSError:
            writer.transport.abort()
            return
        exchange = Exchange(writer, upstream)
        if self.holding:  # since it was let in
            exchange.cut()
            return
        self._exchanges.add(exchange)
        try:
            exchange.answers = asyncio.ensure_future(self.answer(Messages(upstream_reader), exchange))
            await self._forward(Messages(reader), exchange)
            if exchange.follow_s and exchange.expected:
                await asyncio.wait([exchange.answers], timeout=exchange.follow_s)
            exchange.answers.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._exchanges.discard(exchange)
            exchange.cut()

    def draw_fate(self, command: bytes) -> Fate:
        """Return what is to become of a command."""
        if command_name(command) not in FAULTED:
            return "pass"
        return self.draw()

    def draw(self) -> Fate:
        """Draw a fate at the rates that are set."""
        draw = self._dice.random()
        for fate, share in self.rates.items():
            draw -= share
            if draw < 0:
                return fate
        return "pass"

    async def before_forwarding(self, command: bytes, exchange: Exchange) -> None:
        """Hold a command up, or make note of it; here it goes on at once."""

    def note_answer(self, command: bytes, answer: bytes, exchange: Exchange) -> None:
        """Make note of what the server answered, whether or not the client will hear it."""

    async def _forward(self, commands: Messages, exchange: Exchange) -> None:
        while (message := await commands.next()) is not None and not exchange.server.is_closing():
            await self.before_forwarding(message, exchange)
            match self.draw_fate(message):
                case "cut_before":
                    self.happened["cut_before"] += 1
                    return
                case "refuse":
                    self.happened["refuse"] += 1
                    exchange.expected.append(self._dice.choice(REFUSALS))
                    exchange.answer_refused()
                case fate:
                    exchange.expected.append(Sent(fate, message))
                    exchange.server.write(message)
                    await exchange.server.drain()

    async def answer(self, replies: Messages, exchange: Exchange) -> None:
        """Hand on what the server answers, until it or the client is gone."""
        try:
            while (message := await replies.next()) is not None:
                # It stays the first in the line until it is written: a refusal behind it must not overtake it.
                sent = exchange.expected[0]
                assert isinstance(sent, Sent), "the proxy's own answers are given before the next of the server"
                self.note_answer(sent.command, message, exchange)
                if exchange.client.is_closing():
                    break
                match sent.fate:
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
