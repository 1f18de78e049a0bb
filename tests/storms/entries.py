"""What the appender puts on the streams: good frames, bad ones, and what nobody's producer would send.

Everything here is written with plain dictionaries and the codecs alone: nothing that the consuming side reads with
takes part in making it. Of each entry it is known before it is sent which of its events can be counted; only of golden
bytes that were damaged by chance it is not, and `pipeline.wire` is asked in the end.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import zstandard

Fields: TypeAlias = Mapping[str, Any]
"""An event as the wire has it; what has its default may be missing."""

GOLDEN: Final = Path(__file__).parents[1] / "golden"
PRICES: Final = {
    "gpt-4o": (2_500, 1_250, 10_000),
    "gpt-4o-mini": (150, 75, 600),
}
"""Nano-dollars of an input token, of one read from cache, of an output token. Source: openai.com/api/pricing, 2026."""

UNPRICED_MODEL: Final = "a-model-of-our-own"
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
MOST_NANO_USD: Final = 2**53
MOST_RICH: Final = 60
"""Frames of the dearest events: a hundred of them in one cell would reach the limit of a stored number."""

_RICH_EVENTS: Final = 150
"""So many of the dearest events, added up in one commit, pass the limit of a commit: it must be cut, and count once."""

_RICH_EVERY: Final = 40
_SERVICES: Final = ("deckster", "renderer")
_AGENTS: Final = ("writer", "outliner", "clarifier", "greeter", "reviewer")
_STATES: Final = ("", "outlining", "writing", "reviewing")
_STATUSES: Final = ("ok", "ok", "ok", "ok", "error", "cancelled", "interrupted")
_TAGS: Final = ("beta", "eu", "trial", "école")


@dataclass(eq=False)
class Entry:
    """One entry: what is sent, and what is to become of it.

    `events` are its events in order, None where one must be set aside; None as a whole where all of it must be. `clock`
    are the indexes of those that handlers must set aside for their date, and a sink must not. `unknown` says that its
    bytes were damaged by chance. `count` is how many events it stands for in the accounting.
    """

    partition: int
    events: Sequence[Fields | None] | None
    body: bytes
    count: int
    codec: str = "mz"
    resource: Fields = field(default_factory=dict[str, Any])
    clock: frozenset[int] = frozenset()
    unknown: bool = False
    producer: str = ""
    first_seq: int = 0
    fields: Sequence[bytes] = ()
    """Of a bare XADD, whose producer is empty: what is sent."""
    entry_id: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """Where it lies in its stream."""
        milliseconds, _, sequence = self.entry_id.partition("-")
        return int(milliseconds), int(sequence)


def body_of(events: Sequence[object], resource: Fields, codec: str = "mz") -> bytes:
    """Return the body of a frame."""
    plain = {"v": 1, "resource": resource, "events": events}
    if codec == "json":
        return msgspec.json.encode(plain)
    return zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(plain))


class Maker:
    """Makes entries; of cells there are fewer than a day may hold (2,000), so none is counted under another's name.

    Args:
        dice: Decides everything.
        partitions: How many there are.
        mostly_bad: Make most of them such that events must be set aside.
    """

    def __init__(self, dice: random.Random, partitions: int, *, mostly_bad: bool = False) -> None:
        self.rich = 0
        self.made = 0
        self._entries = 0
        self._dice = dice
        self._partitions = partitions
        self._ways: Mapping[Callable[[int], Entry], int] = {
            self._good: 12 if mostly_bad else 88,
            self._some_bad: 40 if mostly_bad else 4,
            self._all_bad: 30 if mostly_bad else 2,
            self._damaged: 10 if mostly_bad else 2,
            self._foreign: 2,
            self._foreign_bad: 6 if mostly_bad else 1,
        }

    def entry(self, partition: int | None = None) -> Entry:
        """Make the next, for a partition or for any."""
        self._entries += 1
        if self._entries % _RICH_EVERY == 0 and self.rich < MOST_RICH:
            return self.rich_entry(self._dice.randrange(self._partitions) if partition is None else partition)
        (way,) = self._dice.choices(list(self._ways), list(self._ways.values()))
        return way(self._dice.randrange(self._partitions) if partition is None else partition)

    def _good(self, partition: int) -> Entry:
        count = self._dice.choice((1, 3, 20, 60, 120))
        codec = "json" if self._dice.random() < 0.05 else "mz"
        return self._entry(partition, [self._event() for _ in range(count)], codec)

    def _entry(self, partition: int, events: Sequence[Fields | None], codec: str = "mz") -> Entry:
        resource = {
            "service": self._dice.choice(_SERVICES),
            "version": "1",
            "environment": "storm",
            "instance": "one",
        }
        now_us = _now_us()
        ahead = frozenset(n for n, event in enumerate(events) if event and event["time_us"] > now_us + HOUR_US)
        body = body_of(events, resource, codec)
        return Entry(partition, events, body, len(events), codec, resource, clock=ahead)

    def _some_bad(self, partition: int) -> Entry:
        """Make a frame in which some events cannot be read, and their neighbours can."""
        good: list[Fields | None] = [self._event() for _ in range(self._dice.randint(2, 30))]
        entry = self._entry(partition, good)
        spoilt: list[Any] = list(good)
        for n in self._dice.sample(range(len(good)), self._dice.randint(1, len(good))):
            spoilt[n], good[n] = self._spoil(dict(good[n] or {})), None
        entry.clock = frozenset(n for n in entry.clock if good[n] is not None)
        entry.body = body_of(spoilt, entry.resource)
        return entry

    def _spoil(self, event: dict[str, Any]) -> object:
        """Return what no worker can count, made of what each could."""
        undated = {name: value for name, value in event.items() if name != "time_us"}
        ways: Sequence[object] = (
            event | {"event": "telepathy"},
            event | {"event": "usage", "input_tokens": 2**40 + 1},
            event | {"event": "operation", "kind": "step", "duration_us": -1},
            event | {"time_us": 2**53 + 1},
            event | {"event": "usage", "cost_nano_usd": 2**63},
            event | {"session": 7},
            undated,
            [1, "two", None],
            None,
        )
        return self._dice.choice(ways)

    def _all_bad(self, partition: int) -> Entry:
        """Make a frame that cannot be read as a whole."""
        entry = self._entry(partition, [self._event() for _ in range(self._dice.randint(1, 20))])
        entry.events = None
        match self._dice.randrange(8):
            case 0:
                entry.body = self._dice.randbytes(self._dice.randint(0, 200))
            case 1:
                entry.body = entry.body[: self._dice.randint(0, len(entry.body) - 1)]
            case 2:
                entry.count += self._dice.randint(1, 400)
            case 3:
                entry.codec = "xml"
            case 4:
                entry.body = body_of([], entry.resource)
            case 5:
                entry.body = zstandard.compress(b"\xc0" * (5 << 20))
            case 6:
                entry.body = zstandard.compress(b"\x91" * 100_000 + b"\xc0")
            case _:
                entry.body = body_of([{"event": "error", "time_us": 1}] * 501, entry.resource)
        return entry

    def _damaged(self, partition: int) -> Entry:
        """Damage golden bytes by chance."""
        name, codec = self._dice.choice((("frame-v1.json", "json"), ("frame-v1.mz", "mz"), ("frame-v1.msgpack", "mz")))
        body = bytearray((GOLDEN / name).read_bytes())
        for _ in range(self._dice.randint(1, 3)):
            body[self._dice.randrange(len(body))] ^= 1 << self._dice.randrange(8)
        # A checksum would catch nearly all: damage what is inside as well.
        data = zstandard.compress(bytes(body)) if name.endswith("msgpack") else bytes(body)
        return Entry(partition, None, data, 5, codec, unknown=True)

    def _foreign(self, partition: int) -> Entry:
        """Make a bare XADD that can be read: of one event without its number, or of some with it."""
        events = [self._event() for _ in range(self._dice.randint(1, 4))]
        entry = self._entry(partition, events, "json")
        fields = [b"b", entry.body]
        if len(events) > 1 or self._dice.random() < 0.5:
            fields += [b"n", b"%d" % len(events)]
        if self._dice.random() < 0.5:
            fields += [b"c", b"json", b"p", b"somebody", b"s", b"12"]
        entry.fields = fields
        return entry

    def _foreign_bad(self, partition: int) -> Entry:
        """Make a bare XADD that cannot be read."""
        body = body_of([self._event(), self._event()], {}, "json")
        fields, count = self._dice.choice(
            (
                ([b"hello", b"world"], 1),
                ([b"b", body], 1),
                ([b"b", body, b"n", b"03"], 1),
                ([b"b", body, b"n", b"-2"], 1),
                ([b"b", body, b"n", b"501"], 1),
                ([b"b", body, b"n", b"7"], 7),
                ([b"b", b"{}", b"n", b"3"], 3),
                ([b"b", body, b"n", b"2", b"c", b"\xff"], 2),
            )
        )
        # Told from every other, so that what happened to it can be found out.
        return Entry(partition, None, b"", count, fields=[*fields, b"x", self._dice.randbytes(8)])

    def rich_entry(self, partition: int) -> Entry:
        """Make a frame of the dearest events."""
        self.rich += 1
        now_us = _now_us()
        events = [
            {
                "event": "usage",
                "time_us": now_us - n,
                "agent": f"rich-{n}",
                "model": UNPRICED_MODEL,
                "cost_nano_usd": MOST_NANO_USD - self._dice.randrange(1000),
                "session": f"rich-{n}",
                "input_tokens": 1,
                "span_id": self._span_id(),
            }
            for n in range(_RICH_EVENTS)
        ]
        return self._entry(partition, events)

    def _time_us(self) -> int:
        draw, now_us = self._dice.random(), _now_us()
        if draw < 0.01:
            return now_us + DAY_US
        if draw < 0.02:
            return now_us + HOUR_US // 2
        if draw < 0.03:
            return now_us - DAY_US
        if draw < 0.05:
            return now_us - self._dice.randrange(5 * DAY_US)
        return now_us - self._dice.randrange(2_000_000)

    def _span_id(self) -> str:
        self.made += 1
        return f"{self.made:016x}"

    def _event(self) -> Fields:
        dice = self._dice
        event: dict[str, Any] = {
            "time_us": self._time_us(),
            "session": f"session-{dice.randrange(200)}",
            "user": f"user-{dice.randrange(30)}",
            "state": dice.choice(_STATES),
            "tags": dice.choices(_TAGS, k=dice.randrange(3)),
            "span_id": self._span_id(),
        }
        match dice.randrange(10):
            case 0:
                event |= {"event": "error", "type": dice.choice(("ValueError", "TimeoutError", "")), "tenant": "acme"}
                event |= {"agent": dice.choice(_AGENTS), "model": dice.choice(("", *PRICES)), "message": "it broke"}
            case 1:
                event |= {"event": "transition", "from_state": dice.choice(_STATES), "to_state": dice.choice(_STATES)}
                if dice.random() < 0.7:
                    event["duration_us"] = dice.randrange(2**36)
            case 2 | 3:
                event |= {"event": "operation", "kind": dice.choice(("run", "tool", "step")), "name": "render"}
                event |= {"agent": dice.choice(_AGENTS), "duration_us": dice.randrange(2**40)}
                event |= {"status": dice.choice(_STATUSES), "operation_id": self._span_id()}
            case _:
                event |= self._usage()
        return event

    def _usage(self) -> Fields:
        dice = self._dice
        event: dict[str, Any] = {
            "event": "usage",
            "agent": dice.choice(_AGENTS),
            "model": dice.choice((*PRICES, UNPRICED_MODEL)),
            "input_tokens": dice.randrange(20_000),
            "output_tokens": dice.randrange(4_000),
            "status": dice.choice(_STATUSES),
        }
        if dice.random() < 0.9:
            event["duration_us"] = dice.randrange(10_000_000)
        if dice.random() < 0.5:
            event["ttft_us"] = dice.randrange(1_000_000)
        if dice.random() < 0.3:
            event["cache_read_tokens"] = dice.randrange(event["input_tokens"] + 1)
        if dice.random() < 0.3:
            event["reasoning_tokens"] = dice.randrange(event["output_tokens"] + 1)
        if dice.random() < 0.3:
            event["run_id"] = f"run-{dice.randrange(2_000)}"
        if dice.random() < 0.2:
            event["response_model"] = dice.choice(tuple(PRICES))
        if dice.random() < 0.1:
            event["cost_nano_usd"] = dice.randrange(10**9)
        return event


def _now_us() -> int:
    return time.time_ns() // 1_000
