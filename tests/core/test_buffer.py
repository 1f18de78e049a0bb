"""The buffer and the account: pure, so time is whatever the test says."""

from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import partition_of
from producers.buffer import MAX_EVENT_CHARS, Buffer

OWNER = "0" * 32


def offered(buffer: Buffer, event: Event) -> bool:
    """Offer an event as a caller does: counted first."""
    buffer.ledger.offered.count()
    return buffer.offer(event)


def test_usage_is_shed_first_and_errors_and_transitions_last() -> None:
    """From nine tenths on only errors and transitions get in, up to the capacity; each refusal is counted by kind."""
    buffer = Buffer(100, 0.05)
    taken = sum(offered(buffer, UsageEvent(time_us=1)) for _ in range(120))
    assert taken == 90
    assert not offered(buffer, OperationEvent(time_us=1))
    assert sum(offered(buffer, ErrorEvent(time_us=1)) for _ in range(6)) == 6
    assert sum(offered(buffer, TransitionEvent(time_us=1)) for _ in range(6)) == 4
    counts = buffer.ledger.settled(lambda: len(buffer.incoming), 0.0)
    assert counts is not None
    assert counts.losses == {"shed:usage:full": 30, "shed:operation:full": 1, "shed:transition:full": 2}
    assert counts.offered == counts.accounted() == 133


def test_an_event_waits_a_linger_for_others() -> None:
    """A frame that is not full is due a linger after its first event was seen."""
    buffer = Buffer(1000, 0.05)
    assert buffer.due_in_s(16.0) is None
    offered(buffer, UsageEvent(time_us=1))
    assert buffer.due_in_s(16.0) is not None
    assert not buffer.ready(16.04)
    assert buffer.ready(16.06)


def test_a_full_frame_does_not_wait() -> None:
    """With as many events as a frame holds there is nothing to wait for."""
    buffer = Buffer(1000, 0.05)
    for _ in range(500):
        offered(buffer, UsageEvent(time_us=1))
    assert buffer.ready(0.0)


def test_events_of_a_session_leave_in_order_in_one_partition() -> None:
    """Batches keep the order of each partition, and no batch holds more than a frame."""
    buffer = Buffer(10_000, 0.05)
    for n in range(3000):
        offered(buffer, UsageEvent(time_us=n, session=f"s{n % 7}"))
    batches = buffer.drain(4, OWNER, 100)
    assert sum(len(batch.events) for batch in batches) == 3000
    assert max(len(batch.events) for batch in batches) == 500
    for session in {f"s{n}" for n in range(7)}:
        of_session = [(b.partition, e.time_us) for b in batches for e in b.events if e.session == session]
        assert {partition for partition, _ in of_session} == {partition_of(session, 4)}
        assert [time_us for _, time_us in of_session] == sorted(time_us for _, time_us in of_session)


def test_what_would_begin_one_batch_too_many_stays() -> None:
    """A drain of one batch leaves the rest in the buffer, in order."""
    buffer = Buffer(10_000, 0.05)
    for n in range(1200):
        offered(buffer, UsageEvent(time_us=n, session="s"))
    [first] = buffer.drain(4, OWNER, 1)
    assert [e.time_us for e in first.events] == list(range(500))
    assert buffer.incoming[0].time_us == 500
    assert len(buffer.incoming) == 700


def test_an_event_routes_by_session_else_run_else_producer() -> None:
    """Events without session and run stay together, with their producer."""
    buffer = Buffer(1000, 0.05)
    offered(buffer, UsageEvent(time_us=1, run_id="r"))
    offered(buffer, UsageEvent(time_us=2))
    found = {e.time_us: b.partition for b in buffer.drain(64, OWNER, 9) for e in b.events}
    assert found == {1: partition_of("r", 64), 2: partition_of(OWNER, 64)}


def test_an_event_of_enormous_strings_is_cut_before_it_is_held() -> None:
    """However long the strings, what the buffer holds is within the bound of one event."""
    buffer = Buffer(1000, 0.05)
    tools = tuple(f"{n:0200d}" for n in range(64))
    assert offered(buffer, UsageEvent(time_us=1, agent="a" * 1_000_000, tools=tools))
    [event] = buffer.incoming
    assert isinstance(event, UsageEvent)
    assert len(event.agent) == 200
    assert event.tools == ()
    assert len(event.agent) < MAX_EVENT_CHARS


def test_what_is_no_event_is_invalid() -> None:
    """Anything but the four kinds is refused and counted, and so is a huge event that cannot be cut."""
    buffer = Buffer(1000, 0.05)
    assert not offered(buffer, "not an event")  # pyright: ignore[reportArgumentType]
    assert not offered(buffer, UsageEvent(time_us=1, agent="x" * 5000, tools=[object()]))  # pyright: ignore[reportArgumentType]
    counts = buffer.ledger.counts(0)
    assert counts.losses == {"invalid:unknown:type": 1, "invalid:usage:arguments": 1}


def test_a_call_that_was_interrupted_half_way_is_found() -> None:
    """A difference that stands still for seconds is a call that never ended: counted invalid, it closes the account."""
    buffer = Buffer(1000, 0.05)
    buffer.ledger.offered.count()
    assert buffer.ledger.settled(lambda: 0, 0.0) is None
    assert buffer.ledger.settled(lambda: 0, 4.0) is None
    assert buffer.ledger.settled(lambda: 0, 5.0) is None
    counts = buffer.ledger.settled(lambda: 0, 6.0)
    assert counts is not None
    assert counts.losses == {"invalid:unknown:interrupted": 1}
    assert counts.offered == counts.accounted() == 1


def test_a_session_that_cannot_be_asked_whether_it_is_empty_costs_no_neighbour() -> None:
    """Whatever an application passes as a session, draining takes every event, and sealing says what is wrong."""

    class Ambiguous:
        """As an array of numbers: it has no truth value."""

        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    buffer = Buffer(1_000, 0.05)
    events = [UsageEvent(1), UsageEvent(2, session=Ambiguous()), UsageEvent(3)]  # pyright: ignore[reportArgumentType]
    buffer.incoming.extend(events)
    batches = buffer.drain(4, "ab" * 16, 10)
    assert sorted(event.time_us for batch in batches for event in batch.events) == [1, 2, 3]
