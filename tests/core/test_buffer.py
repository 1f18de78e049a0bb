"""The buffer and the account: pure, so time is whatever the test says."""

from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from producers.buffer import MAX_EVENT_CHARS, NEVER, SLOT_BYTES, SMALL_EVENT_CHARS, Buffer


def offered(buffer: Buffer, event: Event) -> bool:
    """Offer an event as a caller does: counted first."""
    buffer.ledger.offered.count()
    return buffer.offer(event)


def test_usage_is_shed_first_and_errors_and_transitions_last() -> None:
    """From nine tenths on only errors and transitions get in, up to the capacity; each refusal is counted by kind."""
    buffer = Buffer(100)
    taken = sum(offered(buffer, UsageEvent(time_us=1)) for _ in range(120))
    assert taken == 90
    assert not offered(buffer, OperationEvent(time_us=1))
    assert sum(offered(buffer, ErrorEvent(time_us=1)) for _ in range(6)) == 6
    assert sum(offered(buffer, TransitionEvent(time_us=1)) for _ in range(6)) == 4
    counts = buffer.ledger.settled(lambda: len(buffer.incoming), 0.0)
    assert counts is not None
    assert counts.losses == {"shed:usage:full": 30, "shed:operation:full": 1, "shed:transition:full": 2}
    assert counts.offered == counts.accounted() == 133


def test_an_event_of_enormous_strings_is_cut_before_it_is_held() -> None:
    """However long the strings, what the buffer holds is within the bound of one event."""
    buffer = Buffer(1000)
    tools = tuple(f"{n:0200d}" for n in range(64))
    assert offered(buffer, UsageEvent(time_us=1, agent="a" * 1_000_000, tools=tools))
    [event] = buffer.incoming
    assert isinstance(event, UsageEvent)
    assert len(event.agent) == 200
    assert event.tools == ()
    assert len(event.agent) < MAX_EVENT_CHARS


def test_what_is_no_event_is_invalid() -> None:
    """Anything but the four kinds is refused and counted, and so is a huge event that cannot be cut."""
    buffer = Buffer(1000)
    assert not offered(buffer, "not an event")  # pyright: ignore[reportArgumentType]
    assert not offered(buffer, UsageEvent(time_us=1, agent="x" * 5000, tools=[object()]))  # pyright: ignore[reportArgumentType]
    counts = buffer.ledger.counts(0)
    assert counts.losses == {"invalid:unknown:type": 1, "invalid:usage:arguments": 1}


def test_a_call_that_was_interrupted_half_way_is_found() -> None:
    """A difference that stands still for seconds is a call that never ended: counted invalid, it closes the account."""
    buffer = Buffer(1000)
    buffer.ledger.offered.count()
    assert buffer.ledger.settled(lambda: 0, 0.0) is None
    assert buffer.ledger.settled(lambda: 0, 4.0) is None
    assert buffer.ledger.settled(lambda: 0, 5.0) is None
    counts = buffer.ledger.settled(lambda: 0, 6.0)
    assert counts is not None
    assert counts.losses == {"invalid:unknown:interrupted": 1}
    assert counts.offered == counts.accounted() == 1


def test_large_events_are_weighed_and_small_ones_take_a_slot() -> None:
    """The bound in bytes holds whatever the strings: larger events leave less room, and give it back when taken."""
    buffer = Buffer(1000, 100 * SLOT_BYTES)
    large = "\N{GRINNING FACE}" * (MAX_EVENT_CHARS // 4)
    taken = sum(offered(buffer, UsageEvent(time_us=1, agent=f"{n}{large}"[:200], user=large)) for n in range(200))
    assert 20 < taken < 60
    small = sum(offered(buffer, UsageEvent(time_us=1)) for _ in range(100))
    assert small < 10
    assert offered(buffer, ErrorEvent(time_us=1)), "the last tenth is kept for errors"
    assert set(buffer.ledger.counts(0).losses) == {"shed:usage:bytes"}
    assert len(buffer.take(100)) == taken + small + 1
    assert sum(offered(buffer, UsageEvent(time_us=1)) for _ in range(200)) == 90


def test_an_event_that_is_refused_weighs_nothing() -> None:
    """Refusals, by either bound, leave the room as it was."""
    buffer = Buffer(10, 10_000 * SLOT_BYTES)
    long = "x" * (SMALL_EVENT_CHARS * 6)
    for _ in range(50):
        offered(buffer, UsageEvent(time_us=1, agent=long, error_type=long))
    assert len(buffer.take(50)) == 9
    assert sum(offered(buffer, UsageEvent(time_us=1)) for _ in range(50)) == 9


def test_what_the_reader_holds_takes_room() -> None:
    """Events that were taken and are not sealed yet count as buffered, and keep their slots."""
    buffer = Buffer(100)
    for _ in range(50):
        offered(buffer, UsageEvent(time_us=1))
    assert len(buffer.take(30)) == 30
    buffer.held_elsewhere(30)
    assert buffer.held() == 50
    assert sum(offered(buffer, UsageEvent(time_us=1)) for _ in range(100)) == 40
    buffer.held_elsewhere(0)
    assert sum(offered(buffer, UsageEvent(time_us=1)) for _ in range(100)) == 30


def test_the_reader_is_woken_from_the_mark_on() -> None:
    """A reader that sleeps is woken by the first event, one that lets a frame fill by many, one that is awake never."""
    rung: list[int] = []
    buffer = Buffer(100, wake=lambda: rung.append(len(buffer.incoming)))
    offered(buffer, UsageEvent(time_us=1))
    buffer.ring_at = 3
    for _ in range(3):
        offered(buffer, UsageEvent(time_us=1))
    buffer.ring_at = NEVER
    offered(buffer, UsageEvent(time_us=1))
    assert rung == [1, 4]
