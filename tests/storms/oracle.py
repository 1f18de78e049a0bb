"""The oracle: what applications said they did, held against what the server has in the end.

An event's identity is `NAME.N`: the N-th event of one process. The oracle knows nothing of producers' ids, frames or
sequences when it decides what should be there; it looks at them only to hold the server's own account against its own.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct
from storms.application import PARTITIONS, SESSIONS, session_of

from pipeline.connection import Server
from pipeline.events import Event, TransitionEvent
from pipeline.keys import Keys, partition_of
from pipeline.presence import Presence, parse_presence
from pipeline.stream import parse_entries
from pipeline.wire import FrameDecoder


class Identity(NamedTuple):
    """The N-th event of a process."""

    name: str
    n: int

    @property
    def session(self) -> tuple[str, int]:
        """Whose order it must keep."""
        return self.name, self.n % SESSIONS

    @property
    def lane(self) -> tuple[str, int]:
        """The partition of its process in which it must lie."""
        return self.name, partition_of(session_of(self.name, self.n), PARTITIONS)


class Stored(NamedTuple):
    """An event that the server has: who it is, and the place its producer gave it."""

    identity: Identity
    producer: str
    partition: int
    sequence: int


class Check(Struct, frozen=True):
    """One thing that must be so, with what speaks against it."""

    name: str
    what: str
    against: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.against


@dataclass
class Process:
    """What one process said."""

    offered: int = 0
    taken: set[int] = field(default_factory=set[int])
    refused: set[int] = field(default_factory=set[int])
    safe_to: int = 0
    safe: Counter[str] = field(default_factory=Counter[str])
    pid: int = 0
    over: bool = False
    """Whether it has said that it ends."""
    clean: bool = False


@dataclass
class Testimony:
    """What all processes said, line by line."""

    processes: dict[str, Process] = field(default_factory=dict[str, Process])
    calls: tuple[int, int, int] = (0, 0, 0)

    def hear(self, line: str) -> None:
        """Take one line; `storms.application` says which there are."""
        what, name, *rest = line.split()
        process = self.processes.setdefault(name, Process())
        match what, rest:
            case "begin", [pid]:
                process.pid = int(pid)
            case "offer", [first, count]:
                process.offered = int(first) + int(count)
            case "taken", [first, bits]:
                for n, bit in enumerate(bits, int(first)):
                    (process.taken if bit == "1" else process.refused).add(n)
            case "level", [following, level]:
                process.safe_to = int(following)
                process.safe[level] += 1
            case "calls", [count, p999, longest]:
                self.calls = int(count), int(p999), int(longest)
            case "end", [clean]:
                process.over, process.clean = True, clean == "1"
            case "quit", []:
                process.over = True
            case _:
                pass

    def confirmed(self) -> Counter[str]:
        """Return how many flushes said yes, by the level that they named."""
        return sum((process.safe for process in self.processes.values()), Counter(appended=0, spooled=0))

    def total(self, what: str) -> int:
        """Return how many events were `taken` or `refused`."""
        return sum(len(getattr(process, what)) for process in self.processes.values())


@dataclass(frozen=True)
class Fence:
    """What the server says of one producer in one partition."""

    next: int
    accepted: int
    lost: int


@dataclass(frozen=True)
class Evidence:
    """All that the server has."""

    events: Sequence[Stored]
    fences: Mapping[tuple[str, int], Fence]
    lost: Mapping[int, int]
    appended: Mapping[int, int]
    presences: Sequence[Presence]


def read_events(server: Server, keys: Keys, partitions: int) -> list[Stored]:
    """Read every event of every stream, in order."""
    found: list[Stored] = []
    decoder = FrameDecoder()
    for partition in range(partitions):
        for stored in parse_entries(server.call("XRANGE", keys.partition(partition).stream(), "-", "+")):
            frame = decoder.decode(stored.parse())
            for index, event in enumerate(frame.events):
                assert event is not None, frame.bad
                found.append(Stored(_identity(event), frame.producer, partition, frame.first_seq + index))
    return found


def _identity(event: Event) -> Identity:
    text = event.to_state if isinstance(event, TransitionEvent) else event.agent
    name, _, n = text.rpartition(".")
    return Identity(name, int(n))


def read_evidence(server: Server, keys: Keys, partitions: int) -> Evidence:
    """Read all that the server has."""
    events = read_events(server, keys, partitions)
    fences: dict[tuple[str, int], Fence] = {}
    for place in {(event.producer, event.partition) for event in events}:
        key = keys.partition(place[1]).fence(place[0])
        numbers = server.call("HMGET", key, "next", "accepted", "lost")
        fences[place] = Fence(*(int(number or 0) for number in numbers))
    lost, appended = (
        {n: int(server.call("HGET", keys.partition(n).counters(), name) or 0) for n in range(partitions)}
        for name in ("lost", "appended")
    )
    names = server.call("ZRANGE", keys.presence_index(), 0, -1)
    words = [parse_presence(server.call("HGETALL", keys.presence(name.decode()))) for name in names]
    return Evidence(events, fences, lost, appended, [word for word in words if word is not None])


class Verdict:
    """Holds the testimony against the evidence.

    Args:
        testimony: What processes said.
        evidence: What the server has in the end.
        rolled_back: What it had, and had no more after it was put back to an older state.
        closed: Who was asked to close after the last fault.
    """

    def __init__(
        self, testimony: Testimony, evidence: Evidence, rolled_back: Iterable[Stored], closed: Iterable[str] = ()
    ) -> None:
        self._closed = frozenset(closed)
        self._processes = testimony.processes
        self.evidence = evidence
        self._there = Counter(event.identity for event in evidence.events)
        self.truly_lost = {stored for stored in rolled_back if stored.identity not in self._there}
        self._excused = {stored.identity for stored in self.truly_lost}
        self.died_in_memory = 0

    def checks(self) -> list[Check]:
        """Return every check."""
        return [
            Check("doubled", "no event is stored twice", _some(i for i, times in self._there.items() if times > 1)),
            Check("invented", "nothing is stored that was not offered", _some(self._invented())),
            Check("refused", "what a call refused is not stored", _some(self._refused())),
            Check("missing", "what was safe, or of a process that closed well, is stored", _some(self._missing())),
            Check("closed", "who closes when all faults are over loses nothing, and says so", self._unclean()),
            Check("died", "what died in memory is the end of what its process took", _some(self._not_the_end())),
            Check("routed", "every event lies in the partition of its session", _some(self._astray())),
            Check("order", "events of a session are stored in the order of their calls", _some(self._disorder())),
            Check("holes", "holes in a producer's sequence are what its fence counts as lost", _some(self._holes())),
            Check("lost", "what is counted as lost is what the server truly lost", _some(self._miscounted())),
            Check("account", "every producer's account balances", _some(self._unbalanced())),
            Check("word", "a last word says what its process was told by its calls", _some(self._misstated())),
        ]

    def _invented(self) -> Iterable[object]:
        return (i for i in self._there if i.n >= self._processes.get(i.name, Process()).offered)

    def _refused(self) -> Iterable[object]:
        for name, process in self._processes.items():
            yield from (i for n in process.refused if (i := Identity(name, n)) in self._there)

    def _absent(self, name: str) -> list[Identity]:
        taken = (Identity(name, n) for n in sorted(self._processes[name].taken))
        return [i for i in taken if i not in self._there and i not in self._excused]

    def _missing(self) -> Iterable[object]:
        for name, process in self._processes.items():
            absent = self._absent(name)
            self.died_in_memory += 0 if process.clean else len(absent)
            yield from (i for i in absent if process.clean or i.n < process.safe_to)

    def _not_the_end(self) -> Iterable[object]:
        last: dict[tuple[str, int], int] = {}
        for identity in self._there:
            last[identity.lane] = max(last.get(identity.lane, -1), identity.n)
        for name, process in self._processes.items():
            if not process.clean:
                yield from (i for i in self._absent(name) if i.n < last.get(i.lane, -1))

    def _unclean(self) -> list[str]:
        return sorted(name for name in self._closed if not self._processes[name].clean)

    def _astray(self) -> Iterable[object]:
        return (e.identity for e in self.evidence.events if e.identity.lane[1] != e.partition)

    def _disorder(self) -> Iterable[object]:
        last: dict[tuple[str, int], int] = {}
        for event in self.evidence.events:
            identity = event.identity
            if identity.n < last.get(identity.session, -1):
                yield identity
            last[identity.session] = identity.n

    def _holes(self) -> Iterable[object]:
        held: dict[tuple[str, int], set[int]] = defaultdict(set)
        for event in self.evidence.events:
            held[event.producer, event.partition].add(event.sequence)
        for place, fence in self.evidence.fences.items():
            holes = fence.next - len(held[place])
            if holes != fence.lost or fence.accepted + fence.lost != fence.next:
                yield f"{place[0][:6]} in {place[1]}: {holes} holes, {fence}"
        for partition, lost in self.evidence.lost.items():
            counted = sum(fence.lost for (_, p), fence in self.evidence.fences.items() if p == partition)
            if counted != lost:
                yield f"partition {partition} counts {lost} as lost, its fences {counted}"
        there = Counter(event.partition for event in self.evidence.events)
        for partition, appended in self.evidence.appended.items():
            if appended != there[partition]:
                yield f"partition {partition} counts {appended} as appended, and has {there[partition]}"

    def _miscounted(self) -> Iterable[object]:
        """Compare, for each producer that spoke again after a rollback, what it stated with what is gone."""
        gone: Counter[tuple[str, int]] = Counter()
        for stored in self.truly_lost:
            fence = self.evidence.fences.get((stored.producer, stored.partition))
            if fence is not None and stored.sequence < fence.next:
                gone[stored.producer, stored.partition] += 1
        for place, fence in self.evidence.fences.items():
            if fence.lost != gone[place]:
                yield f"{place[0][:6]} in {place[1]} says {fence.lost} are lost, {gone[place]} are"

    def _unbalanced(self) -> Iterable[object]:
        for word in self.evidence.presences:
            if word.offered != word.accounted():
                yield f"{word.producer[:6]} offered {word.offered}, accounts for {word.accounted()}"

    def _misstated(self) -> Iterable[object]:
        """Hold the goodbyes of those that closed after the last fault against what their calls returned."""
        names = {event.producer: event.identity.name for event in self.evidence.events}
        for word in self.evidence.presences:
            name = names.get(word.producer, "")
            # A word that a successor wrote may be younger than what its producer was able to say.
            if name in self._closed and word.closed and not word.recovered:
                process = self._processes[name]
                said = word.offered, word.shed, word.appended + word.spooled
                told = process.offered, len(process.refused), len(process.taken)
                if said != told:
                    yield f"{name} says offered, shed, appended {said}, and was told {told}"


def _some(found: Iterable[object]) -> list[str]:
    """Return what was found as texts, the identities as they are written."""
    return [f"{one.name}.{one.n}" if isinstance(one, Identity) else str(one) for one in found]
