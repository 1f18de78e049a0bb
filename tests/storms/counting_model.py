"""A naive model of what should be counted: plain dictionaries, one event after the other.

It shares no code with the folds, the windows' arithmetic, the histograms or the prices: it knows the documentation
(docs/state.md, docs/wire.md) alone.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec
from storms.entries import PRICES, Entry, Fields

from consumers.catalogue import Catalogue, Pricer
from consumers.pricing import PriceBook
from pipeline.errors import WireError
from pipeline.events import UsageEvent
from pipeline.wire import Entry as WireEntry
from pipeline.wire import FrameDecoder

Cell: TypeAlias = tuple[str, ...]
Numbers: TypeAlias = dict[Any, Counter[str]]
"""A cell, or the name of a marginal -> its numbers."""

DAY_S: Final = 86_400
HANDLERS: Final = ("metrics", "cost")
SINK: Final = "export"

_PARTS: Final = {
    "cache_read_tokens": "tcr",
    "cache_write_tokens": "tcw",
    "cache_write_1h_tokens": "tcl",
    "reasoning_tokens": "trs",
    "input_audio_tokens": "tia",
    "cache_audio_read_tokens": "tca",
    "output_audio_tokens": "toa",
}
_OPERATIONS: Final = {"run": ("ru", "ud"), "tool": ("tl", "td"), "step": ("st", "sd")}


def bucket_of(value: int) -> int:
    """Return the bucket of scale 3 by its definition: the greatest i with 2^(i/8) < value; -1 of 0, 0 of 1."""
    return -1 if value == 0 else max(0, (value**8 - 1).bit_length() - 1)


@dataclass
class Tally:
    """What should be counted: by cell and by name, for each day (its start in seconds), and since the beginning (0)."""

    cells: dict[tuple[str, int], Numbers] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter[str]))
    )
    names: dict[tuple[str, str, int], Numbers] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter[str]))
    )
    slow: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter[str]))

    def days(self) -> set[int]:
        """Return every day on which something happened."""
        return {day for _, day in self.cells} - {0}

    def add(self, handler: str, day: int, cell: Cell, **numbers: int) -> None:
        """Add to a cell, for its day and since the beginning."""
        self.cells[handler, day][cell].update(numbers)
        self.cells[handler, 0][cell].update(numbers)

    def time(self, day: int, cell: Cell, measure: str, duration_us: int) -> None:
        """Add a duration to a cell of metrics: to its sum, and to one bucket."""
        self.add("metrics", day, cell, **{measure: duration_us, f"{measure}.{bucket_of(duration_us)}": 1})

    def name(self, handler: str, dimension: str, day: int, name: str, **numbers: int) -> None:
        """Add to a name of a marginal, for its day."""
        self.names[handler, dimension, day][name].update(numbers)


class Model:
    """Counts entries, one event after the other.

    Args:
        factor: What a price is multiplied by, for each event's place (partition, milliseconds, sequence, index).
    """

    def __init__(self, factor: "Books") -> None:
        self.tally = Tally()
        self.set_aside: dict[str, set[tuple[int, str, int]]] = {name: set() for name in (*HANDLERS, SINK)}
        """Handler -> (partition, entry, index) of every dead letter that there should be; index -1 is all of it."""
        self.spans: dict[str, Entry] = {}
        """Ids of the spans that a sink should have delivered."""
        self.events = 0
        self._factor = factor
        self._decoder = FrameDecoder()
        self._pricer = Pricer(Catalogue(), PriceBook())

    def count(self, entry: Entry) -> None:
        """Count one entry."""
        self.events += entry.count
        events, resource, ahead = self._judge(entry) if entry.unknown else (entry.events, entry.resource, entry.clock)
        if events is None:
            self._aside((*HANDLERS, SINK), entry, -1)
            return
        for index, event in enumerate(events):
            if event is None:
                self._aside((*HANDLERS, SINK), entry, index)
            elif index in ahead:
                self._aside(HANDLERS, entry, index)
                self._expect_span(event, entry)
            else:
                self._expect_span(event, entry)
                self._event(event, resource, self._factor.of(entry, index))

    def _judge(self, entry: Entry) -> tuple[Sequence[Fields | None] | None, Fields, frozenset[int]]:
        """Ask how bytes that were damaged by chance are read; what they say is then counted as everything else."""
        wire = WireEntry(entry.entry_id, entry.producer, entry.first_seq, entry.count, entry.codec, entry.body)
        try:
            frame = self._decoder.decode(wire)
        except WireError:
            return None, {}, frozenset()
        events = [None if event is None else msgspec.to_builtins(event) for event in frame.events]
        latest_us = entry.place[0] * 1_000 + 3_600_000_000
        ahead = frozenset(n for n, event in enumerate(events) if event and event["time_us"] > latest_us)
        return events, msgspec.to_builtins(frame.resource), ahead

    def _aside(self, handlers: Iterable[str], entry: Entry, index: int) -> None:
        for handler in handlers:
            self.set_aside[handler].add((entry.partition, entry.entry_id, index))

    def _expect_span(self, event: Fields, entry: Entry) -> None:
        identity = event.get("operation_id") if event["event"] == "operation" else event.get("span_id")
        if event["event"] in {"usage", "operation"} and identity and not entry.unknown:
            self.spans[identity] = entry

    def _event(self, event: Fields, resource: Fields, factor: int) -> None:
        day = event["time_us"] // 1_000_000 // DAY_S * DAY_S
        who = (
            resource.get("service", ""),
            resource.get("version", ""),
            resource.get("environment", ""),
            event.get("tenant", ""),
        )
        match event["event"]:
            case "usage":
                self._usage(event, day, who, factor)
            case "operation":
                self._operation(event, day, who)
            case "transition":
                self._transition(event, day, who)
            case _:
                where = (event.get("agent", ""), event.get("model", ""), event.get("state", ""), "error")
                self.tally.add("metrics", day, (*who, *where), er=1)
                self.tally.name("metrics", "error", day, event.get("type") or "unknown", er=1)
                self._names("metrics", event, day, er=1)

    def _usage(self, event: Fields, day: int, who: Cell, factor: int) -> None:
        model = event.get("model") or event.get("response_model", "")
        status = event.get("status", "ok")
        cell = (*who, event.get("agent", ""), model, event.get("state", ""), status)
        tokens = event.get("input_tokens", 0), event.get("output_tokens", 0)
        parts = {measure: event.get(name, 0) for name, measure in _PARTS.items()}
        self.tally.add("metrics", day, cell, rq=1, ti=tokens[0], to=tokens[1], **parts)
        for measure, name in (("rd", "duration_us"), ("ft", "ttft_us")):
            if event.get(name) is not None:
                self.tally.time(day, cell, measure, event[name])
        if not event.get("run_id") and event.get("duration_us") is not None:
            self._slow("request", model, event, event.get("span_id", ""), day)
        self._names("metrics", event, day, rq=1, tk=sum(tokens))
        self._money(event, day, cell, factor)

    def _money(self, event: Fields, day: int, cell: Cell, factor: int) -> None:
        stated: int | None = event.get("cost_nano_usd")
        ours = self._price(event) if stated is None else None
        cost = stated if stated is not None else None if ours is None else ours * factor
        if cost is None:
            tokens = event.get("input_tokens", 0) + event.get("output_tokens", 0)
            self.tally.add("cost", day, cell, un=1, ut=tokens)
            self._names("cost", event, day, rq=1, un=1)
        else:
            self.tally.add("cost", day, cell, **{"c": cost, "cn": 1, f"c.{bucket_of(cost)}": 1, "cp": stated or 0})
            self._names("cost", event, day, rq=1, c=cost)

    def _price(self, event: Fields) -> int | None:
        names = [name for name in (event.get("response_model"), event.get("model")) if name]
        if event.get("provider") or any(name not in PRICES for name in names):
            # Bytes that were damaged by chance may say anything; the catalogue has tests of its own.
            return self._pricer.price(msgspec.convert(dict(event), UsageEvent)).nano_usd
        if not names:
            return None
        fresh, cached, written = PRICES[names[0]]
        read, wrote = event.get("input_tokens", 0), event.get("output_tokens", 0)
        if not (read or wrote or event.get("status") == "error"):
            return None
        again = event.get("cache_read_tokens", 0)
        return fresh * (read - again) + cached * again + written * wrote

    def _operation(self, event: Fields, day: int, who: Cell) -> None:
        kind, duration_us = event.get("kind", "step"), event.get("duration_us", 0)
        cell = (*who, event.get("agent", ""), "", event.get("state", ""), event.get("status", "ok"))
        count, measure = _OPERATIONS[kind]
        self.tally.add("metrics", day, cell, **{count: 1})
        self.tally.time(day, cell, measure, duration_us)
        identity = event.get("operation_id") or event.get("run_id") or event.get("span_id", "")
        self._slow(kind, event.get("name") or event.get("agent", ""), event, identity, day)
        if kind == "run":
            self._names("metrics", event, day, ru=1)

    def _transition(self, event: Fields, day: int, who: Cell) -> None:
        origin, goal = event.get("from_state", ""), event.get("to_state", "")
        self.tally.add("metrics", day, (*who, "", "", goal, "ok"), tr=1)
        left = (*who, "", "", origin, "ok")
        if event.get("duration_us") is None:
            self.tally.add("metrics", day, left, vu=1)
        else:
            self.tally.time(day, left, "vd", event["duration_us"])
        self.tally.name("metrics", "transition", day, _json([origin, goal]), tr=1)

    def _names(self, handler: str, event: Fields, day: int, **numbers: int) -> None:
        for tag in set(event.get("tags", ())):
            self.tally.name(handler, "tag", day, tag, **numbers)
        for dimension in ("session", "user"):
            if event.get(dimension):
                self.tally.name(handler, dimension, day, event[dimension], **numbers)
        if handler == "cost" and event.get("run_id"):
            run = [event.get("agent", ""), event["run_id"], event.get("session", "")]
            self.tally.name(handler, "run", day, _json(run), **numbers)

    def _slow(self, kind: str, name: str, event: Fields, identity: str, day: int) -> None:
        who = [kind, name, event.get("agent", ""), identity, event.get("session", ""), event.get("status", "ok")]
        slow = self.tally.slow[day]
        slow[_json(who)] = max(slow[_json(who)], event.get("duration_us", 0))


def _json(parts: list[str]) -> str:
    return json.dumps(parts, separators=(",", ":"), ensure_ascii=False)


class Books:
    """Which price book held for each event: what the list of recipes says, cursor by cursor.

    Args:
        rows: Partition -> (entry, index, factor) of each recipe of `cost`, oldest first.
    """

    def __init__(self, rows: Mapping[int, Sequence[tuple[tuple[int, int], int, int]]]) -> None:
        self._rows = rows

    def of(self, entry: Entry, index: int) -> int:
        """Return what prices were multiplied by when this event was counted."""
        factor = 1
        for place, stop, found in self._rows.get(entry.partition, ()):
            # Index 0 stands behind the whole entry, any other inside it.
            if place < entry.place or (place == entry.place and 0 < stop <= index):
                factor = found
        return factor
