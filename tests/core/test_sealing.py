"""Encoding and sealing: whatever events hold, what is sealed decodes, and every event is somewhere."""

from typing import Any

import pytest

from pipeline import limits
from pipeline.events import Event, Resource, UsageEvent
from pipeline.wire import Codec, Entry, FrameDecoder
from producers.accumulator import Accumulator
from producers.sealing import Sealer


def frames_of(events: list[Event], codec: Codec) -> tuple[list[list[Event | None]], int]:
    """Encode and seal events; return the events of each frame as a worker decodes them, and how many were invalid."""
    sealer = Sealer(Resource(service="deckster"), codec)
    accumulator = Accumulator(0.0)
    encoded = sealer.encode(events)
    for piece in encoded.pieces:
        accumulator.add(0, piece, 0.0)
    found: list[list[Event | None]] = []
    for frame in accumulator.take(0.0, 10_000, hurry=True):
        body = sealer.seal(frame)
        assert len(body) <= limits.MAX_BODY_BYTES
        decoded = FrameDecoder().decode(Entry("1-1", "ab" * 16, 0, frame.count, codec, body))
        assert decoded.resource.service == "deckster"
        assert not decoded.bad
        found.append(list(decoded.events))
    return found, len(encoded.invalid)


@pytest.mark.parametrize("codec", ["mz", "json"])
@pytest.mark.parametrize("count", [1, 15, 16, 100, 499, 500, 501, 4_000])
def test_any_number_of_events_comes_out_as_it_went_in(codec: Codec, count: int) -> None:
    """Frames are within their limit, in order, and a backlog fills them."""
    events: list[Event] = [UsageEvent(n, "director", "gpt-4o", n) for n in range(count)]
    frames, invalid = frames_of(events, codec)
    assert [event for frame in frames for event in frame] == events
    assert invalid == 0
    assert [len(frame) for frame in frames[:-1]] == [limits.MAX_FRAME_EVENTS] * (len(frames) - 1)


@pytest.mark.parametrize("codec", ["mz", "json"])
def test_events_that_hardly_compress_stay_within_a_frame(codec: Codec) -> None:
    """Frames of the largest events are cut by their bytes, in either codec, so that every body is within its limit."""
    texts = ["".join(chr(0x20000 + (n * 7919 + k * 104_729) % 40_000) for k in range(200)) for n in range(2_000)]
    events: list[Event] = [UsageEvent(n, text, text, session="s") for n, text in enumerate(texts)]
    frames, invalid = frames_of(events, codec)
    assert sum(map(len, frames)) == 2_000
    assert invalid == 0


@pytest.mark.parametrize("codec", ["mz", "json"])
def test_bad_events_are_given_back_and_cost_no_neighbour(codec: Codec) -> None:
    """Wrong types, numbers out of limits and lone surrogates are invalid; the events beside them are sealed."""
    bad: list[Any] = [
        UsageEvent(1, "a", "m", -1),
        UsageEvent(2, "a", "m", 2**70),
        UsageEvent(3, "a\ud800"),
        UsageEvent(4, object()),  # pyright: ignore[reportArgumentType] - what an application may pass
        UsageEvent(5, "a", "m", "10"),  # pyright: ignore[reportArgumentType]
        UsageEvent(6, "a", status="weird"),  # pyright: ignore[reportArgumentType]
        UsageEvent(7, "a", tags=object()),  # pyright: ignore[reportArgumentType]
    ]
    good: list[Event] = [UsageEvent(100 + n, "a") for n in range(len(bad))]
    mixed = [event for pair in zip(bad, good, strict=True) for event in pair]
    frames, invalid = frames_of(mixed, codec)
    assert [event for frame in frames for event in frame] == good
    assert invalid == len(bad)


def test_bytes_are_no_name() -> None:
    """Bytes where a string should be are invalid, not turned into a string that nobody passed."""
    event: Event = UsageEvent(1, b"bytes")  # pyright: ignore[reportArgumentType]
    frames, invalid = frames_of([event], "mz")
    assert (frames, invalid) == ([], 1)
