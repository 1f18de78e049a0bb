"""Open frames: who waits for whom, and for how long; time is whatever the test says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import limits
from pipeline.events import Event, UsageEvent
from pipeline.keys import partition_of
from producers.accumulator import LEAST_LINGER_S, Accumulator, Piece, Router

OWNER = "0" * 32
LINGER_S = 0.2


def filled(*counts: int, at_s: float = 0.0) -> Accumulator:
    """Return an accumulator that took so many events, one number a partition."""
    accumulator = Accumulator(LINGER_S)
    for partition, count in enumerate(counts):
        accumulator.add(partition, Piece(count, b"x" * count), at_s)
    return accumulator


def taken(accumulator: Accumulator, now_s: float, *, hurry: bool = False, most: int = 99) -> list[int]:
    """Seal what is to be sealed, and return how many events each frame has."""
    frames = accumulator.take(now_s, most, hurry=hurry)
    for frame in frames:
        accumulator.sealed(frame)
    return [frame.count for frame in frames]


def test_a_frame_waits_a_linger_for_others() -> None:
    """A frame that is not full is due a linger after its first event came; nothing is due when nothing is there."""
    accumulator = filled(3, at_s=16.0)
    assert accumulator.due_in_s(16.0) == pytest.approx(LINGER_S)
    assert taken(accumulator, 16.19) == []
    accumulator.add(0, Piece(1, b"x"), 16.19)
    assert accumulator.due_in_s(16.2) == 0.0
    assert taken(accumulator, 16.2) == [4]
    assert accumulator.due_in_s(17.0) is None
    assert accumulator.events == 0


def test_a_full_frame_does_not_wait() -> None:
    """With as many events as a frame holds there is nothing to wait for; what no longer fits begins the next."""
    accumulator = filled(limits.MAX_FRAME_EVENTS, 400)
    assert taken(accumulator, 0.0) == [500]
    accumulator.add(1, Piece(101, b"x"), 0.0)
    assert taken(accumulator, 0.0) == [400]
    assert accumulator.events == 101


def test_a_frame_is_full_by_its_bytes_too() -> None:
    """A frame takes no piece that would carry it past the target, and a single larger piece all the same."""
    accumulator = Accumulator(LINGER_S)
    accumulator.add(0, Piece(1, b"x" * 600_000), 0.0)
    accumulator.add(0, Piece(1, b"x" * 600_000), 0.0)
    assert taken(accumulator, 0.0) == [1]


def test_who_waits_in_flush_gets_every_frame() -> None:
    """In a hurry frames leave as they are, no more than there is room for; the others stay, and are counted."""
    accumulator = filled(1, 2, 3)
    assert taken(accumulator, 0.0, hurry=True, most=2) == [1, 2]
    assert accumulator.events == 3
    assert taken(accumulator, 0.0) == [3]


def test_frames_that_are_nearly_due_leave_with_the_one_that_is() -> None:
    """One write and one wake-up serve all partitions whose frames have waited for half the linger."""
    accumulator = filled(1, at_s=0.0)
    accumulator.add(1, Piece(2, b"xx"), LINGER_S * 0.4)
    accumulator.add(2, Piece(3, b"xxx"), LINGER_S * 0.6)
    assert taken(accumulator, LINGER_S) == [1, 2]


def test_the_busier_the_sooner_a_frame_leaves() -> None:
    """At rest a frame waits the whole linger, under load as long as it takes to have enough events."""

    def linger_s(rate: int) -> float:
        accumulator = filled(1, 1, 1, 1)
        for step in range(100):
            accumulator.arrived(rate // 10, step / 10)
        return accumulator.linger_s()

    assert Accumulator(LINGER_S).linger_s() == LINGER_S
    assert linger_s(100) == LINGER_S
    assert linger_s(10_000) == pytest.approx(0.08, rel=0.01)
    assert linger_s(1_000_000) == LEAST_LINGER_S


def test_a_rate_of_long_ago_is_forgotten() -> None:
    """After a pause the first event waits as in an application that was always quiet."""
    accumulator = Accumulator(LINGER_S)
    for step in range(100):
        accumulator.arrived(10_000, step / 100)
    accumulator.arrived(1, 60.0)
    assert accumulator.linger_s() == LINGER_S


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 500)), max_size=60), st.booleans())
def test_events_of_a_partition_leave_in_order(pieces: list[tuple[int, int]], hurry: bool) -> None:
    """However events come, each leaves once, in its partition's order, in frames that are within their limits."""
    accumulator = Accumulator(LINGER_S)
    sent: dict[int, bytes] = {}
    left: dict[int, bytes] = {}
    for now_s, (partition, count) in enumerate(pieces):
        data = bytes(now_s % 256 for _ in range(count))
        accumulator.add(partition, Piece(count, data), now_s / 10)
        sent[partition] = sent.get(partition, b"") + data
        for frame in accumulator.take(now_s / 10, 3, hurry=hurry):
            assert frame.count <= limits.MAX_FRAME_EVENTS
            left[frame.partition] = left.get(frame.partition, b"") + b"".join(frame.pieces)
            accumulator.sealed(frame)
    for frame in accumulator.take(1e9, 10_000, hurry=True):
        left[frame.partition] = left.get(frame.partition, b"") + b"".join(frame.pieces)
        accumulator.sealed(frame)
    assert left == sent
    assert accumulator.events == 0


def test_events_of_a_session_stay_together_and_in_order() -> None:
    """A session has one partition, and its events keep their order there."""
    events: list[Event] = [UsageEvent(time_us=n, session=f"s{n % 7}") for n in range(300)]
    parts = Router().split(events, 4, OWNER)
    assert sum(map(len, parts.values())) == 300
    for partition, some in parts.items():
        assert {partition_of(event.session, 4) for event in some} == {partition}
        assert [event.time_us for event in some] == sorted(event.time_us for event in some)


def test_an_event_routes_by_session_else_run_else_producer() -> None:
    """Events without session and run stay together, with their producer."""
    parts = Router().split([UsageEvent(time_us=1, run_id="r"), UsageEvent(time_us=2)], 64, OWNER)
    found = {event.time_us: partition for partition, some in parts.items() for event in some}
    assert found == {1: partition_of("r", 64), 2: partition_of(OWNER, 64)}


def test_routes_follow_the_number_of_partitions() -> None:
    """What was remembered for fewer partitions is not used for more."""
    router = Router()
    router.split([UsageEvent(1, session="s4")], 1, OWNER)
    assert list(router.split([UsageEvent(1, session="s4")], 64, OWNER)) == [partition_of("s4", 64)]


def test_a_session_that_cannot_be_asked_whether_it_is_empty_costs_no_neighbour() -> None:
    """Whatever an application passes as a session, every event is routed, and encoding says what is wrong."""

    class Ambiguous:
        """As an array of numbers: it has no truth value."""

        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    odd: Event = UsageEvent(2, session=Ambiguous())  # pyright: ignore[reportArgumentType]
    events: list[Event] = [UsageEvent(1), odd, UsageEvent(3)]
    parts = Router().split(events, 4, OWNER)
    assert sorted(event.time_us for some in parts.values() for event in some) == [1, 2, 3]
