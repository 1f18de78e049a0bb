"""Published bytes: what was once written is pinned, and decodes for ever."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.keys import partition_of
from pipeline.scripting import script
from pipeline.segments import DamagedError, read_blocks
from pipeline.wire import Body, Codec, Entry, FrameDecoder, FrameEncoder, StoredEntry

GOLDEN = Path(__file__).parent.parent / "golden"
RESOURCE = Resource(service="deckster", version="1.4.2", environment="production", instance="web-1:4711")
EVENTS: list[Event] = [
    UsageEvent(
        time_us=1_790_000_000_123_456,
        agent="writer",
        model="gpt-4o",
        input_tokens=1_200,
        output_tokens=340,
        duration_us=1_830_000,
        session="s-1",
        user="u-1",
        tenant="acme",
        state="writing",
        tags=("beta", "eu"),
        run_id="r-1",
        parent_id="r-1",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        provider="openai",
        response_model="gpt-4o-2024-08-06",
        finish_reason="stop",
        ttft_us=410_000,
        cache_read_tokens=1_000,
        reasoning_tokens=12,
        attempt=2,
        service_tier="default",
        cost_nano_usd=6_400_000,
        tools=("search",),
    ),
    UsageEvent(time_us=1_790_000_000_200_000, agent="writer", model="llm-1", status="cancelled"),
    OperationEvent(
        time_us=1_790_000_000_300_000,
        name="writer",
        kind="run",
        duration_us=2_100_000,
        status="error",
        agent="writer",
        error_type="ModelHTTPError",
        operation_id="r-1",
        session="s-1",
    ),
    TransitionEvent(time_us=1_790_000_000_400_000, from_state="outlining", to_state="writing", visit=2, session="s-1"),
    ErrorEvent(time_us=1_790_000_000_500_000, type="ModelHTTPError", message="status 500", code="500", agent="writer"),
]


def test_the_map_of_a_frame_has_the_published_bytes() -> None:
    """Msgpack and JSON of the same frame are what version 1 has always written."""
    body = Body(resource=RESOURCE, events=EVENTS)
    assert msgspec.msgpack.encode(body) == (GOLDEN / "frame-v1.msgpack").read_bytes()
    assert FrameEncoder(RESOURCE, codec="json").encode(EVENTS) == (GOLDEN / "frame-v1.json").read_bytes()


@pytest.mark.parametrize(("name", "codec"), [("frame-v1.json", "json"), ("frame-v1.mz", "mz")])
def test_a_published_frame_decodes(name: str, codec: Codec) -> None:
    """Frames that lie in somebody's stream or archive are read by every later version."""
    entry = Entry("1790000000600-0", "ab" * 16, 0, len(EVENTS), codec, (GOLDEN / name).read_bytes())
    frame = FrameDecoder().decode(entry)
    assert (frame.events, frame.resource, frame.origin) == (EVENTS, RESOURCE, "live")


def test_a_published_entry_says_which_events_were_known() -> None:
    """A backfilled frame as it lies in an archive: its known events keep their sequences, and are handed to nobody."""
    [stored] = [
        entry for part in read_blocks((GOLDEN / "segment-v1-known.seg").read_bytes()) for entry in entries(part)
    ]
    assert list(stored.fields) == [b"p", b"s", b"n", b"k", b"c", b"b"]
    frame = FrameDecoder().decode(stored.parse())
    assert (frame.origin, frame.known, frame.count) == ("backfill", {0, 1, 3}, 5)
    assert list(frame.events) == [None, None, EVENTS[2], None, EVENTS[4]]


def entries(part: list[StoredEntry] | DamagedError) -> list[StoredEntry]:
    """Return the entries of a block."""
    assert not isinstance(part, DamagedError)
    return part


def test_sessions_keep_their_partition() -> None:
    """Routing is a part of the wire: another language, or a later version, must find the same stream."""
    sessions = ["s-1", "s-2", "", "ünïcode", "0af7651916cd43dd8448eb211c80319c"]
    assert [partition_of(session, 4) for session in sessions] == PARTITIONS


PARTITIONS = [1, 1, 0, 1, 2]


def test_the_published_append_script_is_the_one_in_the_documentation() -> None:
    """Other languages run the text of docs/wire.md; its hash is stated there."""
    text = (Path(__file__).parent.parent.parent / "docs" / "wire.md").read_text("utf-8")
    append = script("append")
    assert hashlib.sha1(append.text.encode(), usedforsecurity=False).hexdigest() == append.sha
    assert append.sha in text
    assert append.text in text
