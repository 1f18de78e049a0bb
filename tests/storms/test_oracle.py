"""The oracle: a good story passes every check, and each check fails for the story that it is there to catch."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace
from storms import oracle
from storms.application import PARTITIONS
from storms.oracle import Evidence, Fence, Identity, Stored, Verdict

from pipeline.presence import Presence

PRODUCER = "ab" * 16
EVENTS = 24


@dataclass
class Story:
    """What one process said, and what the server has of it; by default all went well."""

    lines: list[str] = field(default_factory=list[str])
    stored: list[Stored] = field(default_factory=list[Stored])
    rolled_back: list[Stored] = field(default_factory=list[Stored])
    fences: dict[tuple[str, int], Fence] = field(default_factory=dict[tuple[str, int], Fence])
    words: list[Presence] = field(default_factory=list[Presence])
    closed: list[str] = field(default_factory=list[str])

    def failed(self) -> set[str]:
        """Return the names of the checks that fail."""
        testimony = oracle.Testimony()
        for line in self.lines:
            testimony.hear(line)
        lost, appended = dict.fromkeys(range(PARTITIONS), 0), dict.fromkeys(range(PARTITIONS), 0)
        for (_, partition), fence in self.fences.items():
            lost[partition] += fence.lost
        for stored in self.stored:
            appended[stored.partition] += 1
        evidence = Evidence(self.stored, self.fences, lost, appended, self.words)
        checks = Verdict(testimony, evidence, self.rolled_back, self.closed).checks()
        return {check.name for check in checks if not check.holds}

    def killed(self, safe_to: int) -> None:
        """Let it be killed, after a flush that confirmed what was before `safe_to`."""
        self.lines[-1] = f"level app {safe_to} appended"
        self.closed.clear()
        self.words.clear()

    def forget(self, *numbers: int) -> list[Stored]:
        """Take events off the streams, and no trace of them in the fences; return them."""
        gone = [stored for stored in self.stored if stored.identity.n in numbers]
        self.stored = [stored for stored in self.stored if stored not in gone]
        return gone

    def settle(self) -> None:
        """Let the fences expect what follows the last event of each partition, and count every hole before it."""
        self.fences = {}
        for stored in self.stored:
            place = stored.producer, stored.partition
            held = [s.sequence for s in self.stored if (s.producer, s.partition) == place]
            following = max(held) + 1
            self.fences[place] = Fence(following, len(held), following - len(held))


def _good() -> Story:
    story = Story(["begin app 1", f"offer app 0 {EVENTS}", f"taken app 0 {'1' * EVENTS}", "end app 1"])
    following = [0] * PARTITIONS
    for n in range(EVENTS):
        identity = Identity("app", n)
        partition = identity.lane[1]
        story.stored.append(Stored(identity, PRODUCER, partition, following[partition]))
        following[partition] += 1
    story.settle()
    story.words = [Presence(PRODUCER, offered=EVENTS, appended=EVENTS, closed=1)]
    story.closed = ["app"]
    return story


def _lane(story: Story) -> Sequence[int]:
    """Return the events of one partition that has several, in order."""
    partition = story.stored[0].partition
    return [stored.identity.n for stored in story.stored if stored.partition == partition]


def _doubled(story: Story) -> None:
    story.stored.append(story.stored[-1]._replace(producer="cd" * 16, sequence=0))
    story.fences["cd" * 16, story.stored[-1].partition] = Fence(1, 1, 0)


def _invented(story: Story) -> None:
    story.lines[1:3] = [f"offer app 0 {EVENTS - 1}", f"taken app 0 {'1' * (EVENTS - 1)}"]


def _refused(story: Story) -> None:
    story.lines[2] = f"taken app 0 0{'1' * (EVENTS - 1)}"


def _missing(story: Story) -> None:
    story.killed(safe_to=EVENTS)
    story.forget(_lane(story)[-1])
    story.settle()


def _closed(story: Story) -> None:
    story.lines[-1] = "end app 0"


def _died(story: Story) -> None:
    story.killed(safe_to=0)
    story.forget(_lane(story)[0])


def _routed(story: Story) -> None:
    first = story.stored[0]
    story.stored[0] = first._replace(partition=(first.partition + 1) % PARTITIONS, sequence=EVENTS)


def _order(story: Story) -> None:
    story.stored.sort(key=lambda stored: -stored.identity.n)


def _holes(story: Story) -> None:
    place, fence = next(iter(story.fences.items()))
    story.fences[place] = dataclasses.replace(fence, next=fence.next + 1)


def _lost(story: Story) -> None:
    """A producer gives up what it still had, and the server counts it as lost, though it never had it."""
    story.killed(safe_to=0)
    story.forget(_lane(story)[0])
    story.settle()


def _account(story: Story) -> None:
    story.words[0] = replace(story.words[0], offered=EVENTS + 1)


def _word(story: Story) -> None:
    story.words[0] = replace(story.words[0], offered=EVENTS - 1, appended=EVENTS - 1)


STORIES: dict[str, Callable[[Story], None]] = {
    spoil.__name__.removeprefix("_"): spoil
    for spoil in (
        _doubled,
        _invented,
        _refused,
        _missing,
        _closed,
        _died,
        _routed,
        _order,
        _holes,
        _lost,
        _account,
        _word,
    )
}


def test_a_good_story_passes() -> None:
    """What was taken is stored once, in order, and every account says so."""
    assert _good().failed() == set()


@pytest.mark.parametrize("name", STORIES)
def test_each_check_can_fail(name: str) -> None:
    """Each check fails for what it is there to catch."""
    story = _good()
    STORIES[name](story)
    assert name in story.failed()


def test_what_dies_in_memory_is_no_loss() -> None:
    """The end of what a killed process took, beyond what a flush confirmed, may be missing."""
    story = _good()
    lane = _lane(story)
    story.killed(safe_to=lane[-2] + 1)
    story.forget(lane[-1])
    story.settle()
    assert story.failed() == set()


def test_what_a_rollback_took_is_excused_if_it_is_counted() -> None:
    """Events that the server had and lost may be missing, if their producer, that spoke again, counted them."""
    story = _good()
    story.rolled_back = story.forget(_lane(story)[0])
    story.settle()
    assert story.failed() == set()
    story.rolled_back.clear()
    assert {"missing", "lost"} <= story.failed()


def test_every_check_has_its_story() -> None:
    """A check that nothing is known to fail is none."""
    verdict = Verdict(oracle.Testimony(), Evidence([], {}, {}, {}, []), [])
    assert {check.name for check in verdict.checks()} == set(STORIES)
