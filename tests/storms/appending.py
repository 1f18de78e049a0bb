"""The appender: a correct producer in the storm's own process, which knows of every entry whether and where it lies.

Keeps: what was answered is on the record with its entry id; what was not is sent again, the same bytes, until it is
known what became of it. After a rollback the record holds what the server holds, and `rolled_back` the rest.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from storms.entries import Entry, Maker

from pipeline.connection import RedisSettings, Server
from pipeline.errors import RefusedError, SidestreamError
from pipeline.keys import Keys
from pipeline.scripting import Script
from pipeline.stream import Appended, SealedFrame, append_command, parse_appended, parse_entries

PRODUCERS: Final = 3
EVENTS_A_SECOND: Final = 2_500
_RETRY_S: Final = 0.02
_LOOK_BACK: Final = 50
"""Entries that are looked through for one whose answer was lost; nobody else appends."""


class Appender:
    """Appends entries in a thread of its own, until it is told to stop.

    Args:
        url: The server, without a proxy between.
        keys: The namespace.
        seed: Of the dice.
        partitions: How many there are.
        append: The script.
        mostly_bad: See `Maker`.
    """

    def __init__(  # noqa: PLR0913 - where, what, how
        self, url: str, keys: Keys, *, seed: int, partitions: int, append: Script, mostly_bad: bool = False
    ) -> None:
        self.record: list[Entry] = []
        """What lies on the streams now."""
        self.rolled_back: list[Entry] = []
        self.lost: Counter[int] = Counter()
        """Partition -> events that were said to be lost."""
        self.again = 0
        """Entries that were taken by a rollback and appended again."""
        self.happened: Counter[str] = Counter()
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._maker = Maker(self._dice, partitions, mostly_bad=mostly_bad)
        self._producers = [self._dice.randbytes(16).hex() for _ in range(PRODUCERS)]
        self._next: Counter[tuple[str, int]] = Counter()
        self._keys = keys
        self._script = append
        self._server = Server(RedisSettings(url, answer_timeout_s=3.0))
        self._pausing, self._paused, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="appender")
        self._waiting: list[Entry] = []
        """What is to be appended next; the first may have been sent."""
        self._resending = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def pause(self) -> None:
        """Wait until nothing is under way."""
        self._pausing.set()
        while not self._paused.wait(0.05):
            if not self._thread.is_alive():
                return

    def resume(self) -> None:
        """Go on."""
        self._paused.clear()
        self._pausing.clear()

    def stop(self) -> None:
        """See that what is under way is known, and end; what nobody answers is left."""
        self.resume()
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._server.close()

    def abandon(self) -> None:
        """End at once, whatever is under way."""
        self._stopping.set()
        self._abandoned.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._server.close()

    def one_more(self, partition: int) -> None:
        """Append one entry to a partition now; only while paused."""
        while self._waiting:
            self._try()
        self._waiting.append(self._make(partition))
        while not self._try():
            time.sleep(_RETRY_S)

    def follow_rollback(self) -> None:
        """Learn what the server has no more; only while paused."""
        ends: dict[int, tuple[int, int]] = {}
        for partition in {entry.partition for entry in self.record}:
            ends[partition] = self._end_of(partition)
        gone = [entry for entry in self.record if entry.place > ends[entry.partition]]
        self.record = [entry for entry in self.record if entry.place <= ends[entry.partition]]
        self.rolled_back += gone
        # What was to be appended again is decided anew; the entry that met the gap is the last.
        self._waiting, self._resending = self._waiting[-1:], False

    def _end_of(self, partition: int) -> tuple[int, int]:
        """Return the last place that a stream has given away; entries may have been trimmed."""
        try:
            flat = self._server.call("XINFO", "STREAM", self._keys.partition(partition).stream())
        except RefusedError:
            return 0, 0
        milliseconds, _, sequence = dict(zip(flat[::2], flat[1::2], strict=True))[b"last-generated-id"].partition(b"-")
        return int(milliseconds), int(sequence)

    def _run(self) -> None:
        began_s, events = time.monotonic(), 0
        while not (self._abandoned.is_set() or (self._stopping.is_set() and not self._waiting)):
            if self._pausing.is_set():
                self._paused.set()
                time.sleep(0.005)
                began_s, events = time.monotonic(), 0
                continue
            appended = self._try()
            if not appended:
                time.sleep(_RETRY_S)
                began_s, events = time.monotonic(), 0
                continue
            events += appended
            time.sleep(max(0.0, began_s + events / EVENTS_A_SECOND - time.monotonic()))

    def _make(self, partition: int | None = None) -> Entry:
        entry = self._maker.entry(partition)
        if not entry.fields:
            entry.producer = self._dice.choice(self._producers)
            entry.first_seq = self._next[entry.producer, entry.partition]
            self._next[entry.producer, entry.partition] += entry.count
        return entry

    def _try(self) -> int:
        """Try to append one entry; return how many events it stands for, 0 while it is not known to lie on its stream.

        Raises:
            AssertionError: The append script answers what it never answers to a correct producer.
        """
        if not self._waiting:
            self._waiting.append(self._make())
        entry = self._waiting[0]
        try:
            if entry.fields:
                self._add(entry)
            elif not self._append(entry):
                return 0
        except SidestreamError as error:
            self.happened[f"append {error.code}"] += 1
            return 0
        self._waiting.pop(0)
        self._resending &= bool(self._waiting)
        self.record.append(entry)
        return entry.count

    def _add(self, entry: Entry) -> None:
        stream = self._keys.partition(entry.partition).stream()
        # Nobody vouches for a bare XADD: where an answer was lost, it is looked for before it is sent again.
        for row in self._server.call("XREVRANGE", stream, "+", "-", "COUNT", 3):
            if list(row[1]) == list(entry.fields):
                entry.entry_id = row[0].decode()
                return
        entry.entry_id = self._server.call("XADD", stream, "*", *entry.fields).decode()

    def _append(self, entry: Entry) -> bool:
        """Append a frame; return whether it lies on its stream, or others must go before it."""
        answer = self._send(entry, 0)
        if answer.answer == "GAP":
            if not self._resending:
                self._resending = True
                self._waiting[:0] = self._held(entry, answer.next_seq)
                return self._waiting[0] is entry and self._append(entry)
            lost = entry.first_seq - answer.next_seq
            answer = self._send(entry, lost)
            self.lost[entry.partition] += lost if answer.answer == "OK" else 0
        match answer.answer:
            case "OK":
                entry.entry_id = answer.entry_id
            case "DUP":
                self.happened["append DUP"] += 1
                entry.entry_id = self._find(entry)
            case other:
                raise AssertionError(f"a correct producer met {other}")
        if entry in self.rolled_back:
            self.rolled_back.remove(entry)
            self.again += 1
        return True

    def _held(self, entry: Entry, next_seq: int) -> list[Entry]:
        """Return what of a producer a rollback has taken and it still has: an end of it, or nothing."""
        lane = (entry.producer, entry.partition)
        gone = [old for old in self.rolled_back if (old.producer, old.partition) == lane and old.first_seq >= next_seq]
        gone.sort(key=lambda old: old.first_seq)
        return gone[self._dice.randrange(len(gone)) :] if gone and self._dice.random() < 0.7 else []

    def _send(self, entry: Entry, lost: int) -> Appended:
        frame = SealedFrame(entry.partition, entry.producer, entry.first_seq, entry.count, entry.codec, entry.body)
        command = append_command(self._keys.partition(entry.partition), frame, lost=lost)
        keys, args = [str(key) for key in command[3:6]], command[6:]
        return parse_appended(self._server.run(self._script, keys, args))

    def _find(self, entry: Entry) -> str:
        stream = self._keys.partition(entry.partition).stream()
        for stored in parse_entries(self._server.call("XREVRANGE", stream, "+", "-", "COUNT", _LOOK_BACK)):
            if stored.identity() == (entry.producer.encode(), b"%d" % entry.first_seq):
                return stored.entry_id
        raise AssertionError("what was appended twice does not lie on its stream")


def events_in(entries: Sequence[Entry]) -> int:
    """Return how many events entries stand for."""
    return sum(entry.count for entry in entries)
