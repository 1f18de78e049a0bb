"""Frames: what goes in comes out, and what is broken is named without harming its neighbours."""

import contextlib

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline import limits
from pipeline.errors import WireError
from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.wire import (
    Codec,
    Entry,
    Frame,
    FrameDecoder,
    FrameEncoder,
    entry_count,
    parse_entry,
    parse_known,
    show_known,
)

RESOURCE = Resource(service="deckster", version="1.0.0", environment="test", instance="host:1")
PRODUCER = "0123456789abcdef0123456789abcdef"

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=limits.MAX_NAME_CHARS)
tokens = st.integers(0, limits.MAX_TOKENS)
times = st.integers(0, limits.MAX_TIME_US)
durations = st.none() | st.integers(0, limits.MAX_DURATION_US)
usages = st.builds(
    UsageEvent,
    time_us=times,
    agent=names,
    model=names,
    input_tokens=tokens,
    output_tokens=tokens,
    duration_us=durations,
    session=names,
    tags=st.lists(names, max_size=limits.MAX_TAGS).map(tuple),
    status=st.sampled_from(["ok", "error", "cancelled", "interrupted"]),
    cost_nano_usd=st.none() | st.integers(0, limits.MAX_NANO_USD),
)
transitions = st.builds(TransitionEvent, time_us=times, from_state=names, to_state=names, duration_us=durations)
operations = st.builds(OperationEvent, time_us=times, name=names, kind=st.sampled_from(["run", "tool", "step"]))
errors = st.builds(ErrorEvent, time_us=times, type=names, message=names)
events = st.lists(usages | transitions | operations | errors, min_size=1, max_size=20)


def entry(body: bytes, count: int, codec: str = "mz") -> Entry:
    """Return an entry as the stream would have it."""
    return Entry("1790000000000-0", PRODUCER, 7, count, codec, body)


def packed(body: object) -> bytes:
    """Return a body that no encoder of ours would write."""
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(body))


def reason(broken: Entry) -> str:
    """Return the code under which a frame is refused."""
    with pytest.raises(WireError) as caught:
        FrameDecoder().decode(broken)
    return caught.value.code


@given(events=events, codec=st.sampled_from(["mz", "json"]))
def test_every_event_survives_the_wire(events: list[Event], codec: Codec) -> None:
    """Encoding and decoding a frame is the identity, in both codecs."""
    body = FrameEncoder(RESOURCE, codec=codec, origin="spooled").encode(events)
    frame = FrameDecoder().decode(entry(body, len(events), codec))
    assert frame == Frame("1790000000000-0", PRODUCER, 7, RESOURCE, "spooled", events, {})


def test_one_bad_event_costs_that_event_alone() -> None:
    """The events beside a bad one keep their index, and each bad one has its reason."""
    body = packed(
        {
            "v": 1,
            "events": [
                {"event": "usage", "time_us": 1, "agent": "first"},
                {"event": "telepathy", "time_us": 1},
                {"event": "usage", "time_us": -1},
                {"event": "usage", "time_us": "noon"},
                {"event": "usage", "time_us": 2, "agent": "last"},
            ],
        }
    )
    frame = FrameDecoder().decode(entry(body, 5))
    assert [event and event.time_us for event in frame.events] == [1, None, None, None, 2]
    assert {index: bad.code for index, bad in frame.bad.items()} == {
        1: "unknown_kind",
        2: "out_of_limits",
        3: "bad_event",
    }


def test_unknown_fields_are_passed_over() -> None:
    """A newer producer may say more than this version understands."""
    body = packed({"v": 9, "mood": "sunny", "events": [{"event": "usage", "time_us": 1, "aura": {"deep": [1]}}]})
    assert FrameDecoder().decode(entry(body, 1)).events == [UsageEvent(1)]


def test_long_strings_are_cut_and_not_refused() -> None:
    """A foreign writer's endless name counts under its beginning."""
    body = packed({"events": [{"event": "usage", "time_us": 1, "agent": "x" * 5000, "tags": ["t"] * 99}]})
    event = FrameDecoder().decode(entry(body, 1)).events[0]
    assert event == UsageEvent(1, agent="x" * limits.MAX_NAME_CHARS, tags=("t",) * limits.MAX_TAGS)


def test_a_frame_that_would_expand_too_far_is_refused_unexpanded() -> None:
    """Nine kilobytes that say they are nine megabytes never become them."""
    assert reason(entry(zstandard.ZstdCompressor().compress(b"0" * 9_000_000), 1)) == "too_large"


@pytest.mark.parametrize(
    ("body", "codec", "code"),
    [
        (b"\x00garbage", "mz", "bad_compression"),
        (b"\x28\xb5\x2f\xfd\x00\x58\x21\x00", "mz", "bad_compression"),
        (b"{", "json", "bad_frame"),
        (b"[]", "json", "bad_frame"),
        (b'{"events":[]}', "json", "empty"),
        (b'{"events":[{"event":"usage","time_us":1}]}', "xml", "unknown_codec"),
        (b" " * (limits.MAX_BODY_BYTES + 1), "json", "too_large"),
    ],
)
def test_a_frame_that_is_none_is_refused_with_a_word_for_it(body: bytes, codec: str, code: str) -> None:
    """Whatever stands in the body, the reason has a code of low cardinality."""
    assert reason(entry(body, 1, codec)) == code


def test_a_frame_with_another_number_of_events_than_its_entry_says_is_refused() -> None:
    """Sequences were given by the entry's number, so a body that differs has no identity."""
    body = FrameEncoder(RESOURCE).encode([UsageEvent(1)])
    assert reason(entry(body, 2)) == "count_mismatch"


@pytest.mark.parametrize("where", ["events", "mood"])
def test_a_frame_nested_without_end_is_refused(where: str) -> None:
    """It would break the decoder's recursion, and with it every handler of the partition, for ever."""
    nested = "[" * 5_000 + "]" * 5_000
    body = f'{{"events":[{{"event":"usage","time_us":1}}],"{where}":{nested}}}'.encode()
    assert reason(entry(body, 1, "json")) == "bad_frame"


def test_a_resource_that_is_too_long_is_cut() -> None:
    """Its events count under the beginning of the name."""
    body = packed({"resource": {"service": "x" * 300, "mood": "sunny"}, "events": [{"event": "usage", "time_us": 1}]})
    assert FrameDecoder().decode(entry(body, 1)).resource == Resource(service="x" * limits.MAX_NAME_CHARS)


def test_an_entry_without_a_producer_is_foreign_and_stands_for_one_event() -> None:
    """A bare XADD needs only a body."""
    foreign = parse_entry("1-0", {b"b": b'{"events":[{"event":"usage","time_us":1}]}'})
    assert foreign.foreign
    assert FrameDecoder().decode(foreign).events == [UsageEvent(1)]


@pytest.mark.parametrize("number", [b"", b"-1", b"1e3", b" 1", b"99999999999999999999"])
def test_a_number_that_is_none_still_counts_one_event(number: bytes) -> None:
    """The accounting never depends on a field that a foreign writer garbled."""
    fields = {b"b": b"{}", b"n": number}
    assert entry_count(fields) == 1
    with pytest.raises(WireError, match="field n is not a sequence number"):
        parse_entry("1-0", fields)


@pytest.mark.parametrize(
    ("text", "indexes"),
    [(b"", set[int]()), (b"0", {0}), (b"7,9", {7, 9}), (b"0-4,7", {0, 1, 2, 3, 4, 7}), (b"3-1", set[int]())],
)
def test_known_events_are_read_as_the_append_script_writes_them(text: bytes, indexes: set[int]) -> None:
    """Runs and single ones, in order; and back."""
    known = parse_known(text)
    assert known == indexes
    assert parse_known(show_known(known).encode()) == indexes


@pytest.mark.parametrize("text", [b",", b"1-", b"-1", b"1 2", b"a", b"1000", b"0-9999"])
def test_a_fenced_entry_that_garbles_what_is_known_is_no_entry(text: bytes) -> None:
    """Counting its events again would be a guess; a foreign one has no ledger, and what it says is passed over."""
    fields = {b"p": b"ab" * 16, b"s": b"0", b"n": b"1", b"k": text, b"b": b'{"events":[{"event":"usage","time_us":1}]}'}
    with pytest.raises(WireError, match="field k"):
        parse_entry("1-0", fields)
    foreign = {name: value for name, value in fields.items() if name not in {b"p", b"s"}}
    assert FrameDecoder().decode(parse_entry("1-0", foreign)).events == [UsageEvent(1)]


def test_what_is_known_is_handed_to_nobody_though_it_cannot_be_read() -> None:
    """It was counted, or set aside, when it was first here."""
    body = packed({"events": [{"event": "dream", "time_us": 1}, {"event": "usage", "time_us": 2}]})
    frame = FrameDecoder().decode(Entry("1-0", "ab" * 16, 0, 2, "mz", body, frozenset({0})))
    assert (list(frame.events), dict(frame.bad), frame.count) == ([None, UsageEvent(2)], {}, 2)


@given(st.binary(max_size=300), st.sampled_from(["mz", "json"]))
def test_no_bytes_make_the_decoder_raise_anything_but_a_wire_error(body: bytes, codec: str) -> None:
    """The handlers rely on one kind of error, whatever lies in the stream."""
    with contextlib.suppress(WireError):
        FrameDecoder().decode(entry(body, 1, codec))
