"""What commits write: values that depend on the events alone, however the stream was cut into batches."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import events_of

from consumers.contract import Slice
from consumers.handlers.metrics import RANKED_BY, MetricsHandler
from consumers.payload import Known, OverflowingError, PayloadBuilder
from consumers.state import OTHER, Caps
from consumers.values import MOST, TooLargeError, UnreadableValueError, added, pack, unpack
from pipeline.events import Event, Resource, UsageEvent
from pipeline.keys import Keys
from pipeline.wire import Frame

START_US = 1_790_000_000_000_000
UNIT = Keys("test").partition(0).unit("metrics")
CAPS = Caps(cells=3, names=4, slowest=2, ranked=2)

times = st.integers(0, 8).map(lambda step: START_US + step * 1_800_000_000)
events = events_of(times, st.sampled_from(["a", "b", "c", "d", "e", "f", OTHER]))


class Store:
    """What the commit script does with a payload, without its checks: hashes, and sorted sets that keep the largest."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, bytes]] = {}
        self.largest: dict[str, dict[str, int]] = {}

    def commit(self, some: Sequence[Event]) -> None:
        """Fold one batch and write it, with nothing remembered from the one before."""
        frame = Frame(f"{START_US // 1000 + 100_000_000}-0", "ab" * 16, 0, Resource(service="deckster"), "live", some)
        folded = MetricsHandler(CAPS).fold([Slice(frame, 0, len(some))], 10**9)
        assert not folded.dead
        known = Known()
        builder = PayloadBuilder(UNIT, folded.delta, known, CAPS, RANKED_BY)
        for day in builder.days():
            known.numbers[day] = {name: int(n) for name, n in self.hashes.get(UNIT.cells(day), {}).items()}
        places, sizes = builder.missing()
        known.values.update({place: self.hashes.get(place[0], {}).get(place[1]) for place in places})
        for key in sizes:
            known.sizes[key] = len(self.hashes.get(key, {})) - (OTHER in self.hashes.get(key, {}))
        payload = builder.build(2)
        self._write(["cursor", *payload.keys], iter(payload.arguments))

    def _write(self, keys: Sequence[str], arguments: Iterator[object]) -> None:
        def number() -> int:
            value = next(arguments)
            assert isinstance(value, int)
            return value

        for _ in range(number()):
            fields = self.hashes.setdefault(keys[number() - 1], {})
            number()
            for _ in range(number()):
                name, value = next(arguments), next(arguments)
                assert isinstance(name, str)
                assert isinstance(value, bytes)
                fields[name] = value
        for _ in range(number()):
            members = self.largest.setdefault(keys[number() - 1], {})
            _, keep = number(), number()
            for _ in range(number()):
                member, score = next(arguments), number()
                assert isinstance(member, str)
                members[member] = max(score, members.get(member, -1))
            ordered = sorted(members, key=lambda member: (members[member], member.encode()), reverse=True)
            for member in ordered[keep:]:
                del members[member]
        assert next(arguments, None) is None


@given(st.lists(events, min_size=1, max_size=25), st.sets(st.integers(1, 24)))
def test_the_same_events_give_the_same_bytes_however_they_were_cut(some: list[Event], cuts: set[int]) -> None:
    """Sums, who a cap admits, and who ranks highest: one batch, or many, or one for each event."""
    whole, cut, single = Store(), Store(), Store()
    whole.commit(some)
    for start, stop in pairwise([0, *sorted(at for at in cuts if at < len(some)), len(some)]):
        cut.commit(some[start:stop])
    for event in some:
        single.commit([event])
    assert whole.hashes == cut.hashes == single.hashes
    assert whole.largest == cut.largest == single.largest


@given(st.lists(events, min_size=1, max_size=25))
def test_caps_hide_names_and_lose_nothing(some: list[Event]) -> None:
    """Whatever is over a cap is in `__other__`: sums over a window stay the sums over its events."""
    store = Store()
    store.commit(some)
    lifetime = store.hashes[UNIT.window("all", 0)]
    assert len(lifetime) <= CAPS.cells + 1
    total = sum(unpack(value).get("rq", 0) for value in lifetime.values())
    assert total == sum(isinstance(event, UsageEvent) for event in some)
    for key, fields in store.hashes.items():
        if ":by:" in key:
            assert len(fields.keys() - {OTHER}) <= CAPS.names


def test_a_value_is_the_same_bytes_for_ever() -> None:
    """These bytes are in people's Redis: they must be readable, and be what is written, by every later version."""
    assert pack({"ti": 1_200, "rq": 3, "rd.104": 2}) == bytes.fromhex(
        "01 83 a6 72642e313034 02 a2 7271 03 a2 7469 cd04b0"
    )
    assert pack({"rq": 3, "rd.104": 2, "ti": 1_200}) == pack({"ti": 1_200, "rq": 3, "rd.104": 2})
    assert unpack(pack({"c": MOST})) == {"c": MOST}


@pytest.mark.parametrize(
    "value", [b"", b"\x02\x80", b"\x01", b"\x01\x81\xa2rq\xa1x", b"12", b"\x01" + msgspec.msgpack.encode([1])]
)
def test_what_is_no_value_is_refused_and_never_counted_as_nothing(value: bytes) -> None:
    """A later layout, half a value, or what somebody wrote by hand."""
    with pytest.raises(UnreadableValueError):
        unpack(value)


def test_a_sum_that_is_too_large_is_refused_before_anything_is_written() -> None:
    """The measure and the place are named."""
    with pytest.raises(TooLargeError, match="ti"):
        added(pack({"ti": MOST}), {"ti": 1})
    known = Known(numbers={"all": {}, "20260921": {}})
    event = UsageEvent(START_US, input_tokens=1)
    frame = Frame(f"{START_US // 1000}-0", "ab" * 16, 0, Resource(), "live", [event])
    delta = MetricsHandler().fold([Slice(frame, 0, 1)], 10).delta
    for measures in delta.cells.values():
        measures["ti"] = MOST + 1
    builder = PayloadBuilder(UNIT, delta, known, Caps(), {})
    known.numbers.update({day: {} for day in builder.days()})
    builder.missing()
    with pytest.raises(OverflowingError):
        builder.build(4)
