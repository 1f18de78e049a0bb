"""The ledger: what was backfilled once is known ever after, whatever happens to a frame on its way; on every server."""

import hashlib
import time
from collections.abc import Sequence

import pytest
from support import Appender

from consumers.alerts.facts import read_facts
from consumers.alerts.rules import Rule
from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.runtime.effects import FoldEffect
from consumers.runtime.retrying import Retrier
from consumers.runtime.unit import Unit, UnitOptions
from consumers.views.accounting import read_unit_account
from consumers.views.dead_letters import read_dead_letters
from consumers.windows import TEN_SECONDS
from pipeline.connection import AsyncServer
from pipeline.errors import RefusedError
from pipeline.events import Event, OperationEvent, Resource, UsageEvent
from pipeline.keys import Keys
from pipeline.stream import Appended, LedgerPage, SealedFrame, append_command, parse_appended, parse_entries
from pipeline.wire import FrameDecoder, FrameEncoder

NOW_US = time.time_ns() // 1_000
DAY = "20261127"
UNTIL_S = NOW_US // 1_000_000 + 3_600


def digest(name: object) -> bytes:
    """Return the digest of an event that is called so."""
    return hashlib.blake2b(str(name).encode(), digest_size=10).digest()


class Feeder:
    """One run of a backfill: events are numbers, each a request with so many tokens."""

    def __init__(self, server: AsyncServer, keys: Keys, producer: str = "c") -> None:
        self.next_seq = 0
        self._server = server
        self._keys = keys
        self._producer = producer * 32

    def sealed(self, names: Sequence[int], *, day: str = DAY, until_s: int = UNTIL_S, body: bytes = b"") -> SealedFrame:
        """Seal a frame of events."""
        events: list[Event] = [UsageEvent(NOW_US, agent="a", input_tokens=name) for name in names]
        body = body or FrameEncoder(Resource(), origin="backfill").encode(events)
        page = LedgerPage(day, until_s, b"".join(map(digest, names)))
        return SealedFrame(0, self._producer, self.next_seq, len(names), "mz", body, page)

    async def send(self, frame: SealedFrame, *, lost: int = 0) -> Appended:
        """Send a frame as it is."""
        command = append_command(self._keys.partition(0), frame, lost=lost, by_text=True)
        return parse_appended(await self._server.call(*command))

    async def __call__(self, *names: int, day: str = DAY) -> tuple[str, int]:
        """Send events; return the answer, and how many were known."""
        answer = await self.send(self.sealed(names, day=day))
        self.next_seq = answer.next_seq
        return answer.answer, answer.known


@pytest.fixture
def feed(server: AsyncServer, keys: Keys) -> Feeder:
    """Return a run."""
    return Feeder(server, keys)


def unit_of(server: AsyncServer, keys: Keys) -> Unit:
    """Return metrics of partition 0."""
    return Unit(server, keys.partition(0), FoldEffect(MetricsHandler()), UnitOptions())


async def counted(server: AsyncServer, keys: Keys) -> tuple[int, int, int]:
    """Fold everything; return the tokens since the beginning, and events committed and known."""
    unit = unit_of(server, keys)
    while await unit.step():
        pass
    cells = await StateReader(server, keys, 1).lifetime("metrics")
    account = await read_unit_account(server, keys.partition(0), "metrics")
    assert account.balance() == 0
    return sum(measures.get("ti", 0) for measures in cells.values()), account.committed, account.known


async def test_known_events_lie_on_the_stream_and_are_counted_by_nobody(
    server: AsyncServer, keys: Keys, feed: Feeder
) -> None:
    """A part, a re-sorted copy and an event twice in one frame: each index that was here before is named."""
    assert await feed(1, 2, 3) == ("OK", 0)
    assert await feed(3, 4, 5, 1, 2, 6, 6) == ("OK", 4)
    [_, entry] = parse_entries(await server.call("XRANGE", keys.partition(0).stream(), "-", "+"))
    assert entry.fields[b"k"] == b"0,3-4,6"
    frame = FrameDecoder().decode(entry.parse())
    assert [event and getattr(event, "input_tokens", 0) for event in frame.events] == [None, 4, 5, None, None, 6, None]
    assert await counted(server, keys) == (21, 6, 4)


async def test_a_frame_of_which_all_is_known_is_not_stored_and_takes_no_sequences(
    server: AsyncServer, keys: Keys, feed: Feeder
) -> None:
    """Another run sends the same: the fence stays where it was, and no key of it is made."""
    await feed(*range(500))
    other = Feeder(server, keys, "d")
    assert await other(*range(200, 500)) == ("KNOWN", 0)
    assert await server.call("EXISTS", keys.partition(0).fence("d" * 32)) == 0
    assert await other(0, 500) == ("OK", 1)
    assert await server.call("XLEN", keys.partition(0).stream()) == 2
    assert (await counted(server, keys))[1:] == (501, 1)


async def test_a_lost_answer_makes_nothing_known(server: AsyncServer, keys: Keys, feed: Feeder) -> None:
    """The second try meets the fence, not what the first try wrote in the ledger; it hears the same number."""
    await feed(1, 2)
    frame = feed.sealed([2, 3, 4])
    assert await feed.send(frame) == Appended("OK", 5, (await newest(server, keys)), 1)
    again = await feed.send(frame)
    assert (again.answer, again.next_seq, again.known) == ("DUP", 5, 1)
    assert await counted(server, keys) == (10, 4, 1)


async def newest(server: AsyncServer, keys: Keys) -> str:
    """Return the id of the stream's newest entry."""
    [(entry_id, _)] = await server.call("XREVRANGE", keys.partition(0).stream(), "+", "-", "COUNT", 1)
    return entry_id.decode()


async def test_a_frame_that_arrives_late_behind_its_successor_is_known(server: AsyncServer, keys: Keys) -> None:
    """A connection that was given up may still deliver: by then the same events went under other sequences."""
    first, second = Feeder(server, keys), Feeder(server, keys, "d")
    await second(1, 2)
    late = first.sealed([1, 2])
    after = SealedFrame(0, "c" * 32, 2, 2, "mz", first.sealed([3, 4]).body, first.sealed([3, 4]).ledger)
    assert (await first.send(late)).answer == "KNOWN"
    assert await first(3, 4) == ("OK", 0)
    # What was pipelined behind `late` with the sequences that this would have taken.
    assert (await first.send(after)).answer == "KNOWN"
    assert await counted(server, keys) == (10, 4, 0)


async def test_a_server_that_rolled_back_takes_again_what_it_lost(
    server: AsyncServer, keys: Keys, feed: Feeder
) -> None:
    """Stream and ledger share a slot and are lost together; the fence says what had been acknowledged."""
    await feed(1, 2, 3)
    await server.call("FLUSHALL")
    frame = feed.sealed([4])
    assert (await feed.send(frame)).answer == "GAP"
    assert (await feed.send(frame, lost=3)).answer == "OK"
    assert await Feeder(server, keys, "d")(1, 2, 3, 4) == ("OK", 1)
    assert await counted(server, keys) == (10, 4, 1)


async def test_a_day_has_a_ledger_of_its_own_that_is_forgotten_in_time(
    server: AsyncServer, keys: Keys, feed: Feeder
) -> None:
    """One that would be forgotten at once is refused: deleting it would count its day twice."""
    await feed(1)
    assert await feed(1, day="20261128") == ("OK", 0)
    for day in (DAY, "20261128"):
        assert await server.call("EXPIRETIME", keys.partition(0).ledger(day)) == UNTIL_S
    with pytest.raises(RefusedError, match="ledger"):
        await feed.send(feed.sealed([2], until_s=NOW_US // 1_000_000 - 5))
    assert await feed(1) == ("KNOWN", 0)


async def test_a_ledger_of_the_wrong_type_refuses_before_anything_is_written(
    server: AsyncServer, keys: Keys, feed: Feeder
) -> None:
    """Lua does not roll back: what can fail is looked at first."""
    await feed(1)
    await server.call("DEL", keys.partition(0).ledger(DAY))
    await server.call("SET", keys.partition(0).ledger(DAY), "x", "EX", 100)
    with pytest.raises(RefusedError, match="WRONGTYPE"):
        await feed.send(feed.sealed([2]))
    assert await server.call("XLEN", keys.partition(0).stream()) == 1
    assert await server.call("HGET", keys.partition(0).fence("c" * 32), "next") == b"1"


@pytest.mark.parametrize("digests", [b"", b"x" * 19, b"x" * 21])
async def test_a_digest_too_few_is_refused(feed: Feeder, digests: bytes) -> None:
    """Each event has one of ten bytes."""
    frame = feed.sealed([1, 2])
    crooked = SealedFrame(0, frame.producer, 0, 2, "mz", frame.body, LedgerPage(DAY, UNTIL_S, digests))
    with pytest.raises(RefusedError, match="ledger"):
        await feed.send(crooked)


async def test_digests_are_told_apart_where_they_meet_in_one_field(server: AsyncServer, keys: Keys) -> None:
    """What stands across the border of two packed digests is none of them."""
    feed = Feeder(server, keys)
    parts = [b"ab" + b"12345678", b"ab" + b"87654321", b"ab" + b"56788765", b"ab" + b"12345678"]
    frame = feed.sealed([1, 2, 3, 4])
    page = LedgerPage(DAY, UNTIL_S, b"".join(parts))
    answer = await feed.send(SealedFrame(0, frame.producer, 0, 4, "mz", frame.body, page))
    assert (answer.answer, answer.known) == ("OK", 1)
    assert await server.call("HGET", keys.partition(0).ledger(DAY), "ab") == b"".join(part[2:] for part in parts[:3])


async def test_a_commit_may_end_among_known_events(
    server: AsyncServer, keys: Keys, feed: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any cut into batches each known event is counted as such, once."""
    await feed(*range(0, 40, 2))
    await feed(*range(40))
    monkeypatch.setattr("consumers.runtime.unit.MOST_EVENTS", 3)
    assert await counted(server, keys) == (sum(range(40)), 40, 20)


async def test_an_entry_that_cannot_be_read_keeps_what_is_known_of_it(
    server: AsyncServer, keys: Keys, feed: Feeder
) -> None:
    """It is one dead letter; tried again when it can be read, its known events are still not counted."""
    await feed(1, 2)
    good = feed.sealed([2, 3]).body
    answer = await feed.send(feed.sealed([2, 3], body=b"none yet"))
    assert (answer.answer, answer.known) == ("OK", 1)
    assert await counted(server, keys) == (3, 2, 0)
    [stored] = await read_dead_letters(server, keys, 1)
    letter = stored.letter
    assert (letter.events, letter.codec) == (2, "mz k=0")
    mended = type(letter)(letter.entry_id, -1, 2, "x", "x", letter.producer, letter.first_seq, letter.codec, good)
    retrier = Retrier(server, keys.partition(0), FoldEffect(MetricsHandler()))
    result = await retrier.retry([(stored.letter_id, mended)])
    assert (result.taken, result.events) == ([stored.letter_id], 2)
    assert await counted(server, keys) == (6, 3, 1)


async def test_what_is_backfilled_wakes_nobody(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Rules see what live frames brought: tokens are taken off, slow operations passed over."""
    slow = OperationEvent(NOW_US, name="old", kind="run", duration_us=90_000_000)
    await append([UsageEvent(NOW_US, agent="w", input_tokens=900, duration_us=80_000_000), slow], origin="backfill")
    await append([UsageEvent(NOW_US, agent="w", input_tokens=7, duration_us=1_000)])
    await counted(server, keys)
    windows = [(TEN_SECONDS, TEN_SECONDS.start_of(NOW_US // 1_000_000))]
    rules = [Rule(name="t", kind="tokens", threshold=1), Rule(name="s", kind="slow_operation", threshold=1)]
    reader = StateReader(server, keys, 1)
    found = await read_facts(reader, [(rule, windows) for rule in rules])
    assert (found["t"].value, found["s"].value) == (7, 1_000)
    assert [one.backfilled for one in await reader.slowest(windows, 9)] == [True, True, False]
