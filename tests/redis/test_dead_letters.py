"""Dead letters: tried again in place, each counted once, with all that is needed in the letter itself."""

from collections.abc import Sequence

import anyio
import msgspec
import pytest
from redis_state import state_of
from support import Appender

from consumers import letters as kept
from consumers.contract import Slice
from consumers.folding import Folded
from consumers.handlers.metrics import MetricsHandler
from consumers.letters import DeadLetter
from consumers.reader import StateReader
from consumers.recipe import Recipe
from consumers.runtime import committing
from consumers.runtime.effects import FoldEffect
from consumers.runtime.retrying import Retried, Retrier
from consumers.runtime.unit import OlderRecipeError, Unit, UnitOptions
from consumers.state import Caps
from consumers.views.dead_letters import Wanted, read_dead_letters, select_dead_letters
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.errors import WireError
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from pipeline.scripting import script
from pipeline.wire import Entry, FrameDecoder

NOW_US = 1_790_000_000_000_000


def usage(tokens: int, *, agent: str = "writer", time_us: int = NOW_US) -> UsageEvent:
    """Return a request with `tokens` input tokens."""
    return UsageEvent(time_us, agent=agent, model="gpt-4o", input_tokens=tokens, duration_us=1_000, session="s")


class Fragile(MetricsHandler):
    """Breaks on events with certain numbers of tokens, until it is mended."""

    broken_by: frozenset[int] = frozenset({13, 14})

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold, with one event's fold going wrong."""
        folded = super().fold(slices, budget)
        bad = [
            (piece.frame, index, event)
            for piece in slices
            for index, event in piece.events()
            if isinstance(event, UsageEvent) and event.input_tokens in self.broken_by
        ]
        if not bad:
            return folded
        good = [
            Slice(piece.frame, index, index + 1)
            for piece in slices
            for index, event in piece.events()
            if isinstance(event, UsageEvent) and event.input_tokens not in self.broken_by
        ]
        delta = super().fold(good, 10**9).delta
        dead = [kept.letter_of_event(frame, index, event, "poison", "it breaks") for frame, index, event in bad]
        return Folded(delta, dead, whole=len(slices))


def unit_of(server: AsyncServer, keys: Keys, handler: MetricsHandler | None = None) -> Unit:
    """Return a unit of partition 0."""
    return Unit(server, keys.partition(0), FoldEffect(handler or MetricsHandler()), UnitOptions())


async def drain(unit: Unit) -> int:
    """Step until nothing is left."""
    total = 0
    while moved := await unit.step():
        total += moved
    return total


async def tokens_of(server: AsyncServer, keys: Keys) -> int:
    """Return the input tokens of all cells, since the beginning."""
    cells = await StateReader(server, keys, 1).lifetime("metrics")
    return sum(measures.get("ti", 0) for measures in cells.values())


async def letters_of(server: AsyncServer, keys: Keys) -> list[tuple[str, DeadLetter]]:
    """Return the dead letters with their ids, newest first."""
    return [(stored.letter_id, stored.letter) for stored in await read_dead_letters(server, keys, 1)]


async def retry(server: AsyncServer, keys: Keys, handler: MetricsHandler | None = None) -> Retried:
    """Retry all letters of partition 0."""
    retrier = Retrier(server, keys.partition(0), FoldEffect(handler or MetricsHandler()))
    return await retrier.retry(await letters_of(server, keys))


async def test_what_a_mended_handler_takes_is_counted_once_and_its_letter_goes(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Afterwards the state is what it had been if nothing had ever gone wrong, bit by bit."""
    await append([usage(1), usage(13, agent="outliner"), usage(2), usage(14)])
    await drain(unit_of(server, keys, Fragile()))
    assert await tokens_of(server, keys) == 3
    done = await retry(server, keys)
    assert (len(done.taken), done.events, done.still) == (2, 2, {})
    assert await tokens_of(server, keys) == 30
    assert await letters_of(server, keys) == []
    retried = await state_of(server, keys.partition(0).unit("metrics"))
    shadow = Unit(server, keys.partition(0), FoldEffect(MetricsHandler()), UnitOptions(version=2))
    await drain(shadow)
    assert retried == await state_of(server, shadow.keys)


async def test_what_still_breaks_stays_with_its_neighbours_taken(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Two events of one entry: one is mended, one is not."""
    await append([usage(13), usage(14)])
    await drain(unit_of(server, keys, Fragile()))
    half = Fragile()
    half.broken_by = frozenset({14})
    done = await retry(server, keys, half)
    assert len(done.taken) == 1
    assert list(done.still.values()) == ["poison: it breaks"]
    ((_, letter),) = await letters_of(server, keys)
    assert letter.index == 1
    assert await tokens_of(server, keys) == 13


async def test_a_letter_carries_its_event_when_the_entry_has_long_been_trimmed(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """With who reported it: it is counted in the same cell as if the entry were still there."""
    await append([usage(1), usage(13)])
    await drain(unit_of(server, keys, Fragile()))
    await server.call("XTRIM", keys.partition(0).stream(), "MAXLEN", 0)
    assert (await retry(server, keys)).events == 1
    cells = await StateReader(server, keys, 1).lifetime("metrics")
    assert [(cell[0], measures["ti"]) for cell, measures in cells.items()] == [("deckster", 14)]
    await server.call("FLUSHALL")


async def test_two_who_retry_at_once_count_once(
    server: AsyncServer, keys: Keys, redis_url: str, append: Appender
) -> None:
    """The letter is the token: whoever comes second finds it taken, also while a worker goes on committing."""
    for number in range(20):
        await append([usage(13, agent=f"agent-{number}"), usage(1)])
    await drain(unit_of(server, keys, Fragile()))
    letters = await letters_of(server, keys)
    others = [AsyncServer(RedisSettings(redis_url)) for _ in range(3)]
    results: list[Retried] = []

    async def race(other: AsyncServer) -> None:
        retrier = Retrier(other, keys.partition(0), FoldEffect(MetricsHandler()))
        results.extend([await retrier.retry([pair]) for pair in letters])

    async def work() -> None:
        carried = unit_of(others[2], keys)
        for number in range(20):
            await append([usage(100, agent=f"agent-{number}")])
            await drain(carried)

    async with anyio.create_task_group() as group:
        group.start_soon(race, others[0])
        group.start_soon(race, others[1])
        group.start_soon(work)
    for other in others:
        await other.aclose()
    await drain(unit_of(server, keys))
    assert sum(result.events for result in results) == 20
    assert await tokens_of(server, keys) == 20 * 13 + 20 + 20 * 100
    assert await letters_of(server, keys) == []


async def test_an_event_kind_of_a_later_version_is_retried_after_the_upgrade(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """What an old worker did not know is kept as it came; once its letter can be read it counts."""
    event = {"event": "telepathy", "time_us": NOW_US, "input_tokens": 7}
    await append.raw(msgspec.json.encode({"resource": {"service": "deckster"}, "events": [event]}), 1, codec="json")
    unit = unit_of(server, keys)
    await drain(unit)
    ((letter_id, letter),) = await letters_of(server, keys)
    assert list((await retry(server, keys)).still) == [letter_id]
    assert letter.code == "unknown_kind"
    # The upgrade: the kind is known, under a name that this version knows too.
    body = letter.body.replace(b'"telepathy"', b'"usage"')
    retrier = Retrier(server, keys.partition(0), FoldEffect(MetricsHandler()))
    done = await retrier.retry([(letter_id, msgspec.structs.replace(letter, body=body))])
    assert done.taken == [letter_id]
    assert await tokens_of(server, keys) == 7


async def test_a_whole_entry_is_retried_and_what_is_bad_in_it_gets_letters_of_its_own(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that the old worker did not know: after the upgrade good events count, bad ones stay set aside."""
    events = [{"event": "usage", "time_us": NOW_US, "input_tokens": 5}, {"event": "usage", "time_us": -1}]
    await append.raw(msgspec.json.encode({"events": events}), 2, codec="json")

    def unknown(_self: FrameDecoder, _entry: Entry) -> bytes:
        raise WireError("unknown codec", code="unknown_codec")

    with monkeypatch.context() as old:
        old.setattr(FrameDecoder, "_expand", unknown)
        await drain(unit_of(server, keys))
    ((_, letter),) = await letters_of(server, keys)
    assert (letter.index, letter.events, letter.code) == (-1, 2, "unknown_codec")
    done = await retry(server, keys)
    assert (done.events, done.still) == (2, {})
    assert await tokens_of(server, keys) == 5
    ((_, left),) = await letters_of(server, keys)
    assert (left.index, left.events, left.code) == (1, 1, "out_of_limits")


async def test_beyond_their_budget_letters_keep_place_and_reason(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their events are read from the stream while it has them; afterwards they say that nothing was kept."""
    monkeypatch.setattr(committing, "BUDGET_BYTES", 300)
    await append([usage(13, agent=f"agent-{number}") for number in range(5)])
    await drain(unit_of(server, keys, Fragile()))
    letters = await letters_of(server, keys)
    assert sorted(bool(letter.body) for _, letter in letters) == [False] * 4 + [True]
    cut = [pair for pair in letters if not pair[1].body]
    retrier = Retrier(server, keys.partition(0), FoldEffect(MetricsHandler()))
    assert (await retrier.retry(cut[:2])).events == 2
    await server.call("XTRIM", keys.partition(0).stream(), "MAXLEN", 0)
    done = await retrier.retry(cut[2:])
    assert [why.partition(":")[0] for why in done.still.values()] == ["cut", "cut"]
    assert await tokens_of(server, keys) == 26
    await server.call("FLUSHALL")


async def test_another_recipe_retries_nothing(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Prices of two versions are never mixed, by this door either."""

    class Newer(MetricsHandler):
        """A later revision of the fold."""

        def recipe(self) -> Recipe:
            return Recipe(99, Caps())

    await append([usage(13)])
    await drain(unit_of(server, keys, Fragile()))
    with pytest.raises(OlderRecipeError, match="another recipe"):
        await retry(server, keys, Newer())
    assert len(await letters_of(server, keys)) == 1


async def test_purged_letters_are_gone_and_their_events_stay_accounted_for(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Some by their code, chosen without looking at each; what is discarded makes room again."""
    await append([usage(13), usage(14)])
    await append.raw(b"\x00nonsense", 7)
    await drain(unit_of(server, keys, Fragile()))
    unit = keys.partition(0).unit("metrics")
    pages = [page async for page in select_dead_letters(server, keys, 1, Wanted(code="poison"))]
    ids = [stored.letter_id for page in pages for stored in page]
    assert len(ids) == 2
    before = int(await server.call("HGET", unit.cursor(), "dead_bytes"))
    assert await server.run(script("discard"), [unit.cursor(), unit.dead_letters()], [*ids, "1-1"]) == [2, 2]
    assert int(await server.call("HGET", unit.cursor(), "dead_bytes")) < before
    assert [letter.code for _, letter in await letters_of(server, keys)] == ["bad_compression"]
    assert int(await server.call("HGET", unit.cursor(), "dead")) == 9
