"""The counting oracle: a good story passes every check, and each check fails for the story it is there to catch."""

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from msgspec.structs import replace
from storms.counting_model import HANDLERS, SINK, Books, bucket_of
from storms.counting_oracle import CountingVerdict, Found
from storms.entries import PRICES, Entry, Maker

from consumers.catalogue import Catalogue, Pricer
from consumers.histogram import bucket_of as bucket_in_product
from consumers.letters import DeadLetter
from consumers.pricing import PriceBook
from consumers.views.accounting import UnitAccount
from consumers.views.dead_letters import StoredLetter
from consumers.views.status import Broken
from pipeline.events import UsageEvent
from pipeline.wire import StoredEntry

NOW_S = 1_796_000_000
_NOTHING = {int: 0, str: "", bool: False}
ACCOUNT = msgspec.convert(
    {one.name: _NOTHING.get(one.type) for one in msgspec.structs.fields(UnitAccount)}, UnitAccount
)
"""An account in which there is nothing."""


@dataclass
class Story:
    """What was appended, what was counted, and what arrived; by default all went well."""

    verdict: CountingVerdict
    found: Found
    delivered: set[str]

    def failed(self) -> set[str]:
        """Return the names of the checks that fail."""
        return {check.name for check in self.verdict.checks(self.found, self.delivered) if not check.holds}


def record() -> list[Entry]:
    """Return some entries of one partition, as if appended."""
    maker = Maker(random.Random(1), 1)  # noqa: S311 - repeatable on purpose
    entries = [maker.entry(0) for _ in range(60)]
    for n, entry in enumerate(entries):
        entry.entry_id = f"{NOW_S * 1_000 + n}-0"
    return entries


@pytest.fixture
def story() -> Story:
    """A story in which all went well."""
    verdict = CountingVerdict(record(), Books({}))
    model = verdict.model
    days = verdict.days(NOW_S)
    found = Found(
        unreadable=[],
        cells={place: copy.deepcopy(cells) for place, cells in model.tally.cells.items() if place[1] in {0, *days}},
        names={place: copy.deepcopy(names) for place, names in model.tally.names.items() if place[2] in days},
        slow={day: [us for _, us in model.tally.slow[day].most_common(20)] for day in days},
        letters=[
            StoredLetter(handler, partition, "1-0", DeadLetter(entry_id, index, 1, "bad_event", ""))
            for handler, places in model.set_aside.items()
            for partition, entry_id, index in places
        ],
        accounts=[
            replace(ACCOUNT, handler=handler, cursor_id=verdict.record[-1].entry_id) for handler in (*HANDLERS, SINK)
        ],
        broken=[],
        stored={
            0: [
                StoredEntry(
                    entry.entry_id,
                    dict(zip(entry.fields[::2], entry.fields[1::2], strict=True)) or {b"b": entry.body},
                )
                for entry in verdict.record
            ]
        },
    )
    return Story(verdict, found, set(model.spans))


def _count(story: Story, by: int) -> None:
    cells = story.found.cells["metrics", 0]
    cells[next(cell for cell, numbers in cells.items() if numbers["rq"])]["rq"] += by


def lose(story: Story) -> None:
    """Count one request less."""
    _count(story, -1)


def double(story: Story) -> None:
    """Count one request twice."""
    _count(story, 1)


def add_up_wrongly(story: Story) -> None:
    """Count a token too much."""
    next(iter(story.found.cells["metrics", 0].values()))["ti"] += 1


def misprice(story: Story) -> None:
    """Ask a nano-dollar too much."""
    next(iter(story.found.cells["cost", 0].values()))["c"] += 1


def misdate(story: Story) -> None:
    """Count something on the wrong day."""
    day = max(day for handler, day in story.found.cells if handler == "metrics")
    next(iter(story.found.cells["metrics", day].values()))["ti"] += 1


def misname(story: Story) -> None:
    """Count tokens for somebody else."""
    place = next(place for place in story.found.names if place[:2] == ("metrics", "user"))
    story.found.names[place]["somebody"] = Counter(tk=1)


def misplace_slowest(story: Story) -> None:
    """Forget the slowest operation."""
    next(iter(story.found.slow.values())).pop(0)


def forget_a_letter(story: Story) -> None:
    """Set nothing aside of what should be."""
    story.found.letters = story.found.letters[1:]


def repeat_a_letter(story: Story) -> None:
    """Set something aside twice."""
    story.found.letters = [*story.found.letters, story.found.letters[0]]


def forget_an_entry(story: Story) -> None:
    """Let the stream lose an entry."""
    story.found.stored = {0: story.found.stored[0][1:]}


def change_an_entry(story: Story) -> None:
    """Let an entry have another body."""
    first, *rest = story.found.stored[0]
    story.found.stored = {0: [replace(first, fields={b"b": b"?"}), *rest]}


def break_an_identity(story: Story) -> None:
    """Let `status` find something."""
    story.found.broken = [Broken("metrics v1, partition 0", "1 events entered and are nowhere")]


def stop_early(story: Story) -> None:
    """Leave a cursor before the end."""
    story.found.accounts = [replace(story.found.accounts[0], cursor_id="0-0"), *story.found.accounts[1:]]


def deliver_less(story: Story) -> None:
    """Let a span never arrive."""
    story.delivered.pop()


def garble(story: Story) -> None:
    """Let something not be readable."""
    story.found.unreadable = ["metrics, in all: KeyError"]


STORIES: dict[Callable[[Story], None], set[str]] = {
    lose: {"lost", "totals"},
    double: {"doubled", "totals"},
    add_up_wrongly: {"totals"},
    misprice: {"money"},
    misdate: {"days"},
    misname: {"names"},
    misplace_slowest: {"slowest"},
    forget_a_letter: {"letters"},
    repeat_a_letter: {"letters"},
    forget_an_entry: {"stream"},
    change_an_entry: {"stream"},
    break_an_identity: {"identities"},
    stop_early: {"idle"},
    deliver_less: {"exported"},
    garble: {"readable"},
}


def test_a_good_story_passes_every_check(story: Story) -> None:
    """Nothing speaks against it, and there was something of everything."""
    assert story.failed() == set()
    assert story.verdict.model.events > 1_000
    assert story.verdict.model.set_aside["metrics"] > story.verdict.model.set_aside[SINK]


def test_names_over_the_cap_are_counted_together(story: Story) -> None:
    """A window holds so many names; the rest stands under one, and is no less exact."""
    place = next(place for place in story.found.names if place[1] == "session")
    names = story.found.names[place]
    names["__other__"] = names.pop(next(iter(names)))
    assert "names" not in story.failed()
    names["__other__"]["rq"] += 1
    assert "names" in story.failed()


@pytest.mark.parametrize("tell", STORIES, ids=lambda tell: tell.__name__)
def test_each_check_catches_its_story(story: Story, tell: Callable[[Story], None]) -> None:
    """One thing is wrong, and the checks that are there for it say so."""
    tell(story)
    assert story.failed() == STORIES[tell]


def test_the_oracles_buckets_are_those_of_the_documentation() -> None:
    """By the definition, in integers: a power of the eighth root of two ends its bucket."""
    assert [bucket_of(value) for value in (0, 1, 2, 3, 4, 256, 257)] == [-1, 0, 7, 12, 15, 63, 64]
    dice = random.Random(1)  # noqa: S311 - repeatable on purpose
    values = [dice.randrange(1 << dice.randrange(1, 54)) for _ in range(10_000)]
    assert [bucket_of(value) for value in values] == [bucket_in_product(value) for value in values]


def test_the_oracles_prices_are_those_of_the_catalogue() -> None:
    """Each known model, with and without tokens from the cache; the third is known to nobody."""
    pricer = Pricer(Catalogue(), PriceBook())
    for model, (fresh, cached, written) in PRICES.items():
        event = UsageEvent(NOW_S * 1_000_000, model=model, input_tokens=100, cache_read_tokens=40, output_tokens=7)
        assert pricer.price(event).nano_usd == 60 * fresh + 40 * cached + 7 * written
