"""The proxy between workers and the server: it knows commits, whose they are, and can hold one up on its way.

Keeps:
- A commit is told by its script, its unit by the cursor among its keys, its worker by who is at the socket's other end.
- A commit that is held up reaches the server that is there when it is let go, be it another one than before.
"""

import asyncio
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from storms.resp_proxy import FAULTED, Exchange, Fate, FaultProxy, Messages, command_name

from pipeline.scripting import script

READS: Final = frozenset({b"XREAD", b"XRANGE", b"HGETALL", b"HGET", b"GET"})
"""What else is cut off and delayed; never refused, for a server refuses none of these for want of memory."""

_PATIENCE_S: Final = 2.0
"""How long a commit that was let go is followed when its worker is dead."""


def arguments(command: bytes, most: int) -> list[bytes]:
    """Return the first arguments of a RESP command."""
    head = command.index(b"\r\n")
    found: list[bytes] = []
    at = head + 2
    for _ in range(min(most, int(command[1:head]))):
        end = command.index(b"\r\n", at)
        size = int(command[at + 1 : end])
        found.append(command[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return found


def _pid_at(writer: asyncio.StreamWriter) -> int:
    """Return the process at the other end of a unix socket."""
    plain: socket.socket = writer.get_extra_info("socket")
    return struct.unpack("3i", plain.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]


@dataclass
class Waits:
    """Units that wait for their next commit, and how long those that had it have waited, in seconds."""

    since: dict[str, float] = field(default_factory=dict[str, float])
    took_s: list[float] = field(default_factory=list[float])

    def begin(self, units: Iterable[str], now_s: float) -> None:
        """Let units wait, unless they do already."""
        for unit in units:
            self.since.setdefault(unit, now_s)

    def end(self, unit: str, now_s: float) -> None:
        """Note a commit."""
        since_s = self.since.pop(unit, None)
        if since_s is not None:
            self.took_s.append(now_s - since_s)


@dataclass
class Held:
    """A commit that is held up: its unit ('' until one came, if any will do), and its worker once one came."""

    unit: str = ""
    pid: int = 0
    caught: threading.Event = field(default_factory=threading.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


class CommitProxy(FaultProxy):
    """A `FaultProxy` that keeps account of commits.

    Args:
        path: The socket it listens on.
        upstream: The server's socket.
        seed: Of the dice.
    """

    def __init__(self, path: Path, upstream: Path, seed: int) -> None:
        super().__init__(path, upstream, seed)
        self.workers: dict[str, int] = {}
        """Unit -> the process that committed it last."""
        self.commits = 0
        self.guarded_commits = 0
        """Looks at a commit by the script as it is, with every guard."""
        self.taken_over = Waits()
        self.healed = Waits()
        self._guarded = script("commit").sha.encode()
        self._hashes = {self._guarded}
        self._held: Held | None = None

    def orphaned(self, pid: int) -> None:
        """Note that a process was killed: its units wait for somebody else."""
        self.taken_over.begin([unit for unit, owner in self.workers.items() if owner == pid], time.monotonic())

    def server_went(self) -> None:
        """Note that the server is gone: what waited for a worker no longer waits for a worker alone."""
        self.taken_over.since.clear()
        self.healed.since.clear()

    def server_came(self) -> None:
        """Note that the server is back: every unit waits to go on."""
        self.healed.begin(self.workers, time.monotonic())

    def catch(self, unit: str = "") -> Held:
        """Hold up the next commit that comes: of a unit, or any."""
        self._held = Held(unit)
        return self._held

    def let_go(self, held: Held) -> None:
        """Let a held commit go on, or catch none any more."""
        if self._held is held:
            self._held = None
        self.loop.call_soon_threadsafe(held.let_go.set)

    def draw_fate(self, command: bytes) -> Fate:
        """Return what is to become of a command."""
        if command_name(command) not in READS:
            return super().draw_fate(command)
        fate = self.draw()
        return "pass" if fate == "refuse" else fate

    async def before_forwarding(self, command: bytes, exchange: Exchange) -> None:
        """Hold a commit up, where one is to be."""
        held = self._held
        if held is None or not self._is_commit(command) or held.unit not in {"", _unit_of(command)}:
            return
        self._held = None
        held.unit, held.pid = _unit_of(command), _pid_at(exchange.client)
        exchange.held = True
        held.caught.set()
        await held.let_go.wait()
        exchange.held = False
        self.happened["held"] += 1
        if exchange.server.is_closing():
            reader, exchange.server = await asyncio.open_unix_connection(self.upstream)
            exchange.expected.clear()
            exchange.answers = asyncio.ensure_future(self.answer(Messages(reader), exchange))
        exchange.follow_s = _PATIENCE_S

    def note_answer(self, command: bytes, answer: bytes, exchange: Exchange) -> None:
        """Count what became of a commit."""
        if not self._is_commit(command) or answer.startswith(b"-"):
            return
        word = answer.split(b"\r\n", 3)[2].decode()
        self.happened[f"commit {word}"] += 1
        if word != "OK":
            return
        unit, now_s = _unit_of(command), time.monotonic()
        self.commits += 1
        self.taken_over.end(unit, now_s)
        self.healed.end(unit, now_s)
        if not exchange.client.is_closing():
            self.workers[unit] = _pid_at(exchange.client)

    def _is_commit(self, command: bytes) -> bool:
        if command_name(command) not in FAULTED:
            return False
        name, text = arguments(command, 2)
        if name.upper() == b"EVAL" and b"-- Commit one batch" in text[:200]:
            # A variant's script has another hash: its text comes first.
            self._hashes.add(hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())
            return True
        self.guarded_commits += text == self._guarded
        return text in self._hashes


def _unit_of(command: bytes) -> str:
    _, _, count, *rest = arguments(command, 10)
    keys = rest[: int(count)]
    (cursor,) = [key for key in keys if key.endswith(b":cursor")]
    return cursor.decode().removesuffix(":cursor")


def percentile_s(took_s: Sequence[float], part: float) -> float:
    """Return the time that `part` (0-1) of them stayed within; 0 of none."""
    ordered = sorted(took_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0
