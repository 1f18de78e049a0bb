"""Backfill without a server: what a line says, which event it is, how frames are filled, what is there already."""

import io
import random
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import folding
from consumers.contract import Slice
from consumers.sinks.export import ExportSettings, ExportSink
from consumers.sinks.export.settings import LOGFIRE_MAX_AGE_US
from consumers.windows import DAY
from pipeline import limits
from pipeline.errors import SettingsError
from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.wire import Entry, Frame, FrameDecoder, StoredEntry
from producers.backfill import framing, holdings
from producers.backfill.asides import Aside
from producers.backfill.csv_lines import COLUMNS, csv_lines
from producers.backfill.framing import Framer, ReadyFrame
from producers.backfill.holdings import Fence, Holdings, event_id, parse_id
from producers.backfill.identity import Occurrences, Repeats, content_of, digest_of_content, digest_of_id
from producers.backfill.lines import MAX_LINE_BYTES, BadLine, Line, Read, fields_of, json_lines, line_of
from producers.backfill.pace import Pace
from producers.backfill.sources import Source
from producers.backfill.survey import survey
from producers.backfill.typed_lines import read_typed
from sidestream.receiver import Receiver

NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000


def read_json(*lines: bytes) -> list[Read]:
    """Read lines of JSON."""
    return list(json_lines(io.BytesIO(b"\n".join(lines))))


def read_csv(text: str) -> list[Read]:
    """Read a CSV file."""
    return list(csv_lines(io.BytesIO(text.encode("utf-8", "surrogateescape"))))


def events_of(read: Iterable[Read]) -> list[Event]:
    """Return the events, of which none is bad."""
    lines = list(read)
    assert all(isinstance(line, Line) for line in lines), lines
    return [line.event for line in lines if isinstance(line, Line)]


def reason(read: Iterable[Read]) -> str:
    """Return why the one bad line is bad."""
    [bad] = [line for line in read if isinstance(line, BadLine)]
    return bad.reason


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
resources = st.builds(Resource, service=texts, version=texts, environment=texts, instance=texts)
some_events = st.one_of(
    st.builds(UsageEvent, time_us=st.integers(0, 2**53), agent=texts, tags=st.lists(texts, max_size=3).map(tuple)),
    st.builds(UsageEvent, time_us=st.just(1), duration_us=st.none() | st.just(0), cost_nano_usd=st.none() | st.just(5)),
    st.builds(OperationEvent, time_us=st.just(1), kind=st.sampled_from(["run", "tool"]), operation_id=texts),
    st.builds(TransitionEvent, time_us=st.just(1), from_state=texts, visit=st.integers(1, 9)),
    st.builds(ErrorEvent, time_us=st.just(1), message=texts),
)


@given(some_events, resources)
def test_a_line_says_all_that_an_event_says(event: Event, resource: Resource) -> None:
    """What `tail --json` writes is read back, with its id."""
    frame = Frame("1-0", "ab" * 16, 7, resource, "spooled", [event])
    own_id = event_id(frame, 3, 0)
    [line] = read_json(msgspec.json.encode(fields_of(event, frame, own_id)))
    assert isinstance(line, Line)
    assert (line.event, line.resource, line.own_id) == (event, resource, f"{'ab' * 16}:3:7")


@given(some_events, resources, st.none() | st.integers(0, 9) | texts, st.sampled_from(["live", "backfill", None]))
def test_the_quick_way_reads_what_the_slow_way_does(
    event: Event, resource: Resource, own_id: "int | str | None", origin: str | None
) -> None:
    """To the field; what only the slow way can tell, it leaves to that."""
    fields = msgspec.to_builtins(event) | msgspec.to_builtins(resource) | {"id": own_id}
    fields |= {} if origin is None else {"origin": origin}
    raw = msgspec.json.encode(fields)
    slow = line_of(1, raw, dict(fields))
    assert read_json(raw) == [slow]
    if isinstance(slow, Line):
        assert read_typed(raw).event == slow.event


def test_what_is_too_long_is_cut_as_it_is_live() -> None:
    """The whole message of an error goes to the redactor first."""
    [line] = read_json(b'{"event":"error","time_us":1,"agent":"%b","message":"%b"}' % (b"a" * 300, b"m" * 900))
    assert isinstance(line, Line)
    assert line.event == ErrorEvent(1, agent="a" * 200, message="m" * 500)
    assert line.message == "m" * 900


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "it is no JSON: "),
        ("[]", "it is no JSON object"),
        ('{"time_us":1}', "event: it is missing: use one of usage, operation, transition, error"),
        ('{"event":"dream","time_us":1}', "event: 'dream' is no kind: use one of "),
        ('{"event":"usage"}', "Object missing required field `time_us`"),
        ('{"event":"usage","time_us":"1"}', "time_us: Expected `int`, got `str`"),
        ('{"event":"usage","time_us":1,"input_tokens":-1}', "input_tokens: Expected `int` >= 0"),
        ('{"event":"usage","time_us":1,"input_token":1}', "input_token: there is no such field of a usage"),
        ('{"event":"usage","time":1}', "time: there is no such field of a usage; did you mean time_us?"),
        ('{"event":"error","time_us":1,"input_tokens":1}', "input_tokens: there is no such field of a error"),
        ('{"event":"usage","time_us":1,"tags":[1]}', "tags[0]: Expected `str`, got `int`"),
        ('{"event":"usage","time_us":1,"id":1.5}', "id: use a text or a whole number"),
        ('{"event":"usage","time_us":1,"id":""}', "id: use a text or a whole number"),
        ('{"event":"usage","time_us":1,"id":"%s"}' % ("x" * 201), "id: use at most 200 characters"),
        ('{"event":"usage","time_us":1,"service":1}', "service: use a text"),
        ('{"event":"usage","time_us":1,"agent":"\\ud800"}', "it is no JSON: "),
        ("[" * 9_000, "it is no JSON: "),
    ],
)
def test_a_line_that_is_no_event_says_which_field_is_wrong(line: str, why: str) -> None:
    """By the same checks that live events meet."""
    assert reason(read_json(line.encode())).startswith(why)


def test_numbers_of_lines_are_those_of_an_editor() -> None:
    """Empty lines count and are passed over; a mark of UTF-8 at the beginning is none of the file's."""
    good = b'{"event":"usage","time_us":1}'
    lines = read_json(b"\xef\xbb\xbf" + good, b"", b"  ", b"\xff", good + b"\r")
    assert [(line.place, isinstance(line, Line)) for line in lines] == [(1, True), (4, False), (5, True)]


@pytest.mark.parametrize(
    ("name", "header", "good"),
    [("a.jsonl", b"", b'{"event":"usage","time_us":%d}'), ("a.csv", b"event,time_us\n", b"usage,%d")],
)
async def test_a_line_without_end_is_read_in_pieces(tmp_path: Path, name: str, header: bytes, good: bytes) -> None:
    """It is one bad line, whole in the file of those that are set aside; the next one is an event."""
    path = tmp_path / name
    long = b"x," * (MAX_LINE_BYTES + 3) + b"\n"
    path.write_bytes(header + long + good % (NOW_US - DAY_US))
    source = Source.of(path)
    found, _, bad = await survey(source, NOW_US, "", lambda _: None)
    assert (found.read, found.events, found.bad, [line.place for line in bad]) == (2, 1, 1, [1 + bool(header)])
    aside = Aside(source)
    for line in source.read():
        if isinstance(line, BadLine):
            aside.keep(line)
    aside.close()
    assert path.with_suffix(f".bad{path.suffix}").read_bytes() == header + long


CSV = """\
event,time_us,agent,tags,tools,input_tokens,id,service
usage,5,"a ""quoted"", agent",x;y,search,12,7,deck
usage,6,"two
lines",,,,,

operation,7,,,,,,
"""


def test_csv_is_read_by_its_columns() -> None:
    """An empty cell says nothing; lists are separated by semicolons; a text may have several lines."""
    first, second, third = read_csv(CSV)
    assert isinstance(first, Line)
    tags, tools = ("x", "y"), ("search",)
    assert first.event == UsageEvent(5, agent='a "quoted", agent', tags=tags, tools=tools, input_tokens=12)
    assert (first.own_id, first.resource) == ("7", Resource("deck"))
    assert events_of([second, third]) == [UsageEvent(6, agent="two\nlines"), OperationEvent(7)]
    assert [line.place for line in (first, second, third)] == [2, 3, 6]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("usage,1", "it has 2 cells, the header 3"),
        ("usage,1,2,3", "it has 4 cells, the header 3"),
        ("usage,1.5,2", "time_us: Expected `int`, got `str`"),
        ("usage,1,many", "input_tokens: Expected `int`, got `str`"),
        ("usage,,2", "Object missing required field `time_us`"),
        ("transition,1,2", "input_tokens: there is no such field of a transition"),
        ('usage,1,"2"x', "it is no CSV: "),
        ("usage,1,\udcff", "it is no UTF-8"),
    ],
)
def test_a_row_that_is_no_event_is_told_and_the_next_one_read(row: str, why: str) -> None:
    """With the bytes of its own lines alone."""
    bad, good = read_csv(f"event,time_us,input_tokens\n{row}\nusage,1,2\n")
    assert isinstance(bad, BadLine)
    assert bad.reason.startswith(why)
    assert (bad.place, bad.raw) == (2, row.encode("utf-8", "surrogateescape") + b"\n")
    assert events_of([good]) == [UsageEvent(1, input_tokens=2)]


def test_a_quote_that_is_never_closed_does_not_swallow_the_file() -> None:
    """After as many bytes as one cell may have the reader begins anew."""
    rows = "usage,1,2\n" * 30_000
    read = read_csv('event,time_us,input_tokens\nusage,1,"2\n' + rows)
    assert sum(isinstance(line, BadLine) for line in read) == 1
    assert len(read) > 10_000


@pytest.mark.parametrize("header", ["event,time_us,event", "event,time_us,mood", "event", "", "a\udcff,event"])
def test_a_header_that_is_none_is_refused(header: str) -> None:
    """Before anything is fed."""
    with pytest.raises(SettingsError):
        read_csv(header)


def test_every_field_of_every_event_has_a_column() -> None:
    """And no column is of nothing."""
    fields = {name for kind in get_args(Event) for name in kind.__struct_fields__}
    assert set(COLUMNS) == fields | {"event", "id"} | set(Resource.__struct_fields__)


def digests(lines: Sequence[Event]) -> list[bytes]:
    """Return the digests of the events of one file."""
    contents = [content_of(event, Resource(), "") for event in lines]
    repeats = Repeats()
    for content in contents:
        repeats.note(content)
    occurrences = Occurrences(repeats.found())
    return [digest_of_content(content, occurrences.next_of(content)) for content in contents]


@given(st.lists(st.builds(UsageEvent, time_us=st.integers(0, 3)), max_size=20), st.randoms(use_true_random=False))
def test_a_file_a_part_of_it_and_any_order_name_the_same_events(lines: list[Event], dice: random.Random) -> None:
    """And all events of a file are told apart."""
    whole = digests(lines)
    assert len(set(whole)) == len(lines)
    part = dice.sample(lines, dice.randint(0, len(lines)))
    assert set(digests(part)) <= set(whole)
    assert set(digests(dice.sample(lines, len(lines)))) == set(whole)


def test_what_makes_an_event_another_one() -> None:
    """Who says it, the name of the source, its id; an id is no content."""
    event = UsageEvent(1)
    contents = {content_of(event, Resource(s), name) for s in ("", "a") for name in ("", "b")}
    assert len(contents) == 4
    assert len({digest_of_id(one, name) for one in ("1", "2") for name in ("", "a")}) == 4


def framed(framer: Framer) -> list[ReadyFrame]:
    """Close all frames and return them."""
    framer.close_all()
    found: list[ReadyFrame] = []
    while framer.waiting:
        found += framer.take().values()
    return found


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b"]), st.sampled_from(["", "x"])), max_size=60),
    st.integers(1, 30),
)
def test_a_frame_is_of_one_partition_one_day_and_one_resource(some: list[tuple[int, str, str]], most_held: int) -> None:
    """Whatever is fed, in whatever order; nothing is left out, and no more is held than may be."""
    framer = Framer(4, most_held)
    for number, (day, session, service) in enumerate(some):
        event = UsageEvent(day * DAY_US + 5, session=session, input_tokens=number)
        framer.add(event, Resource(service), number.to_bytes(10))
    seen: list[int] = []
    for frame in framed(framer):
        decoded = FrameDecoder().decode(Entry("1-0", "a" * 32, 0, frame.count, "mz", frame.body))
        assert decoded.origin == "backfill"
        for index, event in enumerate(decoded.events):
            assert isinstance(event, UsageEvent)
            day, session, service = some[event.input_tokens]
            assert framing.day_name(day) == frame.page.day
            assert (event.session, decoded.resource.service) == (session, service)
            digest = event.input_tokens.to_bytes(10)
            assert frame.page.digests[10 * index : 10 * index + 10] == digest
            assert frame.partition == framing.partition_of(session or digest.hex(), 4)
            seen.append(event.input_tokens)
    assert sorted(seen) == list(range(len(some)))


def test_frames_are_full_and_never_too_large() -> None:
    """500 events, or as many as encode to the target of bytes."""
    framer = Framer(1)
    for number in range(1_200):
        framer.add(UsageEvent(5), Resource(), number.to_bytes(10))
    assert [frame.count for frame in framed(framer)] == [500, 500, 200]
    for number in range(300):
        framer.add(UsageEvent(5, tools=("x" * 200,) * 64), Resource(), number.to_bytes(10))
    assert [frame.count for frame in framed(framer)] == [77, 77, 77, 69]


def test_a_ledger_outlives_every_window_of_its_day() -> None:
    """What is still taken is still known; what no window holds is refused, a wrong clock too."""
    assert DAY.kept_s == framing.LIVES_S
    assert framing.LEDGER_KEPT_S > framing.LIVES_S
    assert holdings.MAX_AHEAD_US == folding.MAX_AHEAD_US
    assert limits.MAX_FRAME_EVENTS * 10 < 8_000, "arguments of one command"


async def test_what_no_window_holds_and_what_is_ahead_is_bad(tmp_path: Path) -> None:
    """An event of 730 days ago is taken until its day's window is forgotten."""
    today = NOW_US // DAY_US
    times = [(today - 731) * DAY_US - 1, (today - 730) * DAY_US, NOW_US + 3_600_000_000, NOW_US + 3_600_000_001]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(msgspec.json.encode({"event": "usage", "time_us": at}) for at in times))
    found, _, bad = await survey(Source.of(path), NOW_US, "", lambda _: None)
    assert found.days == {today - 730: 1, (NOW_US + 3_600_000_000) // DAY_US: 1}
    assert [line.place for line in bad] == [1, 4]


def test_a_file_that_changes_is_not_fed(tmp_path: Path) -> None:
    """It is read twice, and must be the same."""
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    source = Source.of(path)
    source.check_unchanged()
    path.write_text("{}\n{}\n")
    with pytest.raises(SettingsError, match="has changed"):
        source.check_unchanged()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", b"", "JSON lines"),
        ("a.CSV", b"{", "CSV"),
        ("a.txt", b"\xef\xbb\xbf {}", "JSON lines"),
        ("a", b"event,time_us\n", "CSV"),
        ("a.jsonl", b"SDSTSEG\x01", "archive segment"),
    ],
)
def test_a_file_says_what_it_is(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    """By its suffix, else by its beginning."""
    (tmp_path / name).write_bytes(content)
    assert Source.of(tmp_path / name).kind == kind


OWNER = "ab" * 16


def stored(entry_id: str, first: int, count: int, owner: str = OWNER) -> StoredEntry:
    """Return an entry of a stream."""
    fields = {b"p": owner.encode(), b"s": b"%d" % first, b"n": b"%d" % count} if owner else {b"n": b"%d" % count}
    return StoredEntry(entry_id, fields)


def test_ids_of_streams_are_told_from_others() -> None:
    """A source's own ids are whatever it likes."""
    assert parse_id(f"{OWNER}:3:17") == holdings.StreamId(OWNER, 3, 17)
    foreign = parse_id("1790000000000-4:0:2")
    assert foreign is not None
    assert foreign.foreign
    for other in ("", "17", "order-17", f"{OWNER}:3", f"{OWNER}:3:x", f"{OWNER}0:3:1"):
        assert parse_id(other) is None


def test_what_is_there_is_told_by_fences_then_by_streams() -> None:
    """That one is missing is only said where it is certain."""
    held = Holdings()
    at = [holdings.StreamId(OWNER, 0, number) for number in (4, 9, 10, 25, 30)]
    held.fences[OWNER, 0] = Fence(20, 0)
    assert [held.verdict(one, 0) for one in at] == ["held", "held", "held", "missing", "missing"]
    held.fences[OWNER, 0] = Fence(30, 5)
    assert held.needs_streams([(OWNER, 0)])
    held.add(0, stored("5000-0", 20, 8))
    held.add(0, stored("3000-0", 0, 10))
    assert [held.verdict(one, 0) for one in at] == ["held", "held", "missing", "held", "missing"]
    held.oldest_us[0] = 3_000_000
    late_us = 3_000_001 + holdings.MAX_AHEAD_US
    assert held.verdict(at[2], late_us) == "missing"
    assert held.verdict(at[2], late_us - 1) == "unclear"
    assert held.verdict(holdings.StreamId("cd" * 16, 1, 0), 0) == "missing"
    held.add(0, stored("7000-1", 0, 2, owner=""))
    foreign = [holdings.StreamId("7000-1", 0, number) for number in (0, 1, 2)]
    assert [held.verdict(one, 0) for one in foreign] == ["held", "held", "unclear"]


def test_a_rate_is_kept_and_not_made_up_for() -> None:
    """After a rest events go at the rate, not all that could have gone meanwhile."""
    pace = Pace(1_000)
    assert pace.rest_s(500, 10.0) == pytest.approx(0.5)
    assert pace.rest_s(500, 10.5) == pytest.approx(0.5)
    assert pace.rest_s(500, 99.0) == pytest.approx(0.4)
    assert Pace(None).rest_s(10**9, 0.0) == 0.0


async def test_a_sink_passes_over_what_was_known_and_counts_what_is_too_old() -> None:
    """Nothing of a backfill becomes a dead letter for being old."""
    at_us = time.time_ns() // 1_000
    events = [None, UsageEvent(at_us - 2 * LOGFIRE_MAX_AGE_US), UsageEvent(at_us - 1_000_000)]
    frame = Frame("1-0", "ab" * 16, 0, Resource("s"), "backfill", events, known=frozenset({0}))
    with Receiver(keep=True) as receiver:
        sink = ExportSink(ExportSettings(receiver.url, max_age_us=LOGFIRE_MAX_AGE_US))
        assert await sink.deliver([Slice(frame, 0, 3)]) == []
        statistics = sink.statistics()
        await sink.aclose()
    assert (statistics.events, statistics.too_old, statistics.delivered) == (2, 1, 1)


def test_the_lines_of_the_page_are_events() -> None:
    """The same one as JSON and as CSV."""
    page = (Path(__file__).parents[2] / "docs" / "backfill.md").read_text("utf-8")
    [as_json] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    [as_csv] = re.findall(r"```\n(event,.*?)```", page, re.DOTALL)
    [first], [second] = read_json(as_json.encode()), read_csv(as_csv)
    assert isinstance(first, Line)
    assert isinstance(second, Line)
    assert (first.event, first.resource, first.own_id) == (second.event, second.resource, second.own_id)


def test_what_cannot_be_set_aside_is_said(tmp_path: Path) -> None:
    """The line stays where it is; nothing else stops."""
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "a.jsonl"
    path.write_text("?\n")
    aside = Aside(Source.of(path))
    path.unlink()
    (tmp_path / "sub").rmdir()
    aside.keep(BadLine(1, b"?\n", "it is no JSON"))
    aside.close()
    assert (aside.path, aside.trouble) == (None, "No such file or directory")
