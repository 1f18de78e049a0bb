"""The quarantine: an event that ends processes is found by a living worker, and it alone becomes a dead letter."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import fatal_handlers
import msgspec
import pytest
from fatal_handlers import FATAL
from redis_state import state_of
from support import Appender

from consumers.contract import Slice
from consumers.folding import Folded, FoldHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.letters import DeadLetter
from consumers.reader import StateReader
from consumers.recipe import Recipe
from consumers.runtime.batch import Cursor
from consumers.runtime.effects import UNLIMITED, VALUE_BUDGET, Effect, FoldEffect
from consumers.runtime.quarantine import TrialError
from consumers.runtime.retrying import Retried, Retrier
from consumers.runtime.run import Worker, WorkerOptions
from consumers.runtime.trial import Request
from consumers.runtime.unit import READ_ENTRIES, OlderRecipeError, Unit, UnitOptions
from consumers.state import Caps
from consumers.views.dead_letters import read_dead_letters
from pipeline.connection import AsyncServer
from pipeline.errors import CapacityError
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from pipeline.wire import StoredEntry
from sidestream.compose import cost_handler, fold_effects

NOW_US = time.time_ns() // 1_000
HERE = Path(__file__).parent


def usage(tokens: int, agent: str = "writer") -> UsageEvent:
    """Return a request with `tokens` input tokens."""
    return UsageEvent(NOW_US, agent=agent, model="gpt-4o", input_tokens=tokens, duration_us=1_000, session="s")


def unit_of(server: AsyncServer, keys: Keys, factory: Callable[[], FoldHandler], timeout_s: float = 20) -> Unit:
    """Return a unit of partition 0, as a worker of its own would have it."""
    return Unit(server, keys.partition(0), FoldEffect.of(factory), UnitOptions(trial_timeout_s=timeout_s))


async def after_deaths(
    server: AsyncServer, keys: Keys, factory: Callable[[], FoldHandler], timeout_s: float = 20
) -> Unit:
    """Return a unit that begins where two others have begun and committed nothing."""
    await begin(server, keys, FoldEffect.of(factory))
    return unit_of(server, keys, factory, timeout_s)


async def begin(server: AsyncServer, keys: Keys, *effects: Effect) -> None:
    """Let two owners begin at the cursors of these handlers, and do nothing."""
    for effect in effects * 2:
        await Unit(server, keys.partition(0), effect, UnitOptions()).declare()


async def drain(unit: Unit) -> int:
    """Step until nothing is left."""
    total = 0
    while moved := await unit.step():
        total += moved
    return total


async def tokens_of(server: AsyncServer, keys: Keys) -> int:
    """Return the input tokens of all cells, since the beginning."""
    cells = await StateReader(server, keys, 2).lifetime("metrics")
    return sum(measures.get("ti", 0) for measures in cells.values())


async def letters_of(server: AsyncServer, keys: Keys) -> list[tuple[str, DeadLetter]]:
    """Return the dead letters with their ids, oldest first."""
    return [(stored.letter_id, stored.letter) for stored in await read_dead_letters(server, keys, 1)][::-1]


async def retry(server: AsyncServer, keys: Keys) -> Retried:
    """Retry all letters of partition 0 with a handler that is mended."""
    retrier = Retrier(server, keys.partition(0), FoldEffect(MetricsHandler()))
    return await retrier.retry(await letters_of(server, keys))


async def starts_of(server: AsyncServer, keys: Keys) -> int:
    """Return how many owners have begun at the cursor."""
    return int(await server.call("HGET", keys.partition(0).unit("metrics").cursor(), "starts") or 0)


def command_of(url: str, handler: str) -> list[str]:
    """Return the command that runs a worker in a process of its own."""
    return [sys.executable, "-m", "one_worker", url, handler]


async def run_worker(url: str, handler: str) -> tuple[int, dict[str, Any]]:
    """Run a worker to its end; return its exit code, and what it did where it lived."""
    done = await anyio.run_process(command_of(url, handler), cwd=HERE, check=False, stderr=None)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}


async def kill_while_it_folds(command: Sequence[str], **environ: str) -> None:
    """Run a worker until it says that it folds, and kill it (-9)."""
    async with await anyio.open_process(command, cwd=HERE, env={**os.environ, **environ}) as process:
        assert process.stdout is not None
        assert (await process.stdout.receive()).startswith(b"folding")
        process.kill()
        assert await process.wait() == -signal.SIGKILL


async def test_a_worker_that_crashes_on_one_event_loses_that_event_alone(
    server: AsyncServer, keys: Keys, append: Appender, redis_url: str
) -> None:
    """Processes die until one begins where two have died; then all else is as if that event had never been appended."""
    for number in range(READ_ENTRIES):
        for partition in (0, 1):
            await append([usage(number + 100, f"agent-{number % 5}")], partition=partition)
    entry_id = await append([usage(1), usage(2), usage(FATAL), usage(4)])
    await append([usage(5)])
    await append([usage(1), usage(2), usage(4)], partition=1)
    await append([usage(5)], partition=1)
    codes = [code for code, _ in [await run_worker(redis_url, "Segfaulting") for _ in range(2)]]
    assert codes == [-signal.SIGSEGV] * 2
    code, did = await run_worker(redis_url, "Segfaulting")
    assert code == 0
    assert 0 < did["trials"] <= 12
    ((_, letter),) = await letters_of(server, keys)
    assert (letter.entry_id, letter.index, letter.events, letter.code) == (entry_id, 2, 1, "fatal")
    assert "SIGSEGV" in letter.reason
    units = [keys.partition(number).unit("metrics") for number in (0, 1)]
    states = [await state_of(server, unit) for unit in units]
    assert states[0] == states[1]
    assert await starts_of(server, keys) == 0
    # Later, with a handler that is mended, the event counts.
    before = await tokens_of(server, keys)
    done = await retry(server, keys)
    assert (len(done.taken), done.still) == (1, {})
    assert await tokens_of(server, keys) == before + FATAL
    assert await letters_of(server, keys) == []


async def test_owners_are_counted_until_one_commits(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Each once, however often it asks, and only while something waits; who has brought the cursor there is none."""
    units = [unit_of(server, keys, MetricsHandler) for _ in range(4)]
    for unit in units:
        await unit.declare()
    assert await starts_of(server, keys) == 0
    await append([usage(1)])
    for unit in (units[3], units[0], units[0], units[1], units[1]):
        await unit.declare()
    assert await starts_of(server, keys) == 2
    assert await drain(units[1]) == 1
    assert await starts_of(server, keys) == 0
    await units[2].declare()
    assert await starts_of(server, keys) == 0
    await append([usage(2)])
    await units[2].declare()
    assert await starts_of(server, keys) == 0
    await units[3].declare()
    assert await starts_of(server, keys) == 1


async def test_a_worker_that_must_not_carry_the_unit_is_no_owner(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """It has folded nothing that it could have died of."""

    class Newer(MetricsHandler):
        """A later revision of the fold."""

        def recipe(self) -> Recipe:
            return Recipe(99, Caps())

    old = unit_of(server, keys, MetricsHandler)
    await old.declare()
    await Unit(server, keys.partition(0), FoldEffect(Newer()), UnitOptions()).declare()
    await append([usage(1)])
    with pytest.raises(OlderRecipeError):
        await old.declare()
    assert await starts_of(server, keys) == 0
    assert await drain(Unit(server, keys.partition(0), FoldEffect(Newer()), UnitOptions())) == 1


async def test_letters_that_are_retried_do_not_make_a_cursor_move(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A commit of letters is no proof that what waits can be folded."""
    await append([usage(FATAL)])
    await drain(await after_deaths(server, keys, fatal_handlers.Exiting))
    await append([usage(1)])
    await begin(server, keys, FoldEffect.of(MetricsHandler))
    assert (await retry(server, keys)).events == 1
    assert await starts_of(server, keys) == 2
    unit = unit_of(server, keys, MetricsHandler)
    assert (await drain(unit), unit.trials) == (1, 1)


@pytest.mark.one_server
async def test_an_event_in_the_middle_of_a_frame_is_found_in_few_trials(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    """By halves: what is safe is committed on the way, and what survives behind it is committed at once."""
    await append([usage(FATAL if number == 333 else 1_000 + number) for number in range(500)])
    unit = await after_deaths(server, keys, fatal_handlers.Segfaulting)
    with caplog.at_level(logging.ERROR):
        assert await drain(unit) == 500
    ((_, letter),) = await letters_of(server, keys)
    assert (letter.index, letter.code) == (333, "fatal")
    assert letter.reason == "whatever process folds it ends: SIGSEGV, twice"
    assert [(record.__dict__["index"], record.levelname) for record in caplog.records] == [(333, "ERROR")]
    assert unit.trials <= 16
    assert await tokens_of(server, keys) == sum(1_000 + number for number in range(500) if number != 333)


@pytest.mark.one_server
@pytest.mark.parametrize(("position", "count"), [(0, 7), (6, 7), (0, 1), (1, 2)])
async def test_an_event_is_found_wherever_it_stands(
    server: AsyncServer, keys: Keys, append: Appender, position: int, count: int
) -> None:
    """First, last, alone: in a batch of several entries."""
    await append([usage(1), usage(1)])
    entry_id = await append([usage(FATAL if number == position else 1) for number in range(count)])
    await append([usage(1)])
    unit = await after_deaths(server, keys, fatal_handlers.Exiting)
    assert await drain(unit) == count + 3
    ((_, letter),) = await letters_of(server, keys)
    assert (letter.entry_id, letter.index) == (entry_id, position)
    assert letter.reason == "whatever process folds it ends: exit code 7, twice"
    assert await tokens_of(server, keys) == count + 2


@pytest.mark.one_server
async def test_two_fatal_events_of_one_batch_are_each_found(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The worker does not trust what is left of a batch that one of them was found in."""
    fatal = {20, 90}
    await append([usage(FATAL if number in fatal else 1) for number in range(100)])
    unit = await after_deaths(server, keys, fatal_handlers.Exiting)
    assert await drain(unit) == 100
    assert {letter.index for _, letter in await letters_of(server, keys)} == fatal
    assert await tokens_of(server, keys) == 98
    trials = unit.trials
    await append([usage(2)])
    assert (await drain(unit), unit.trials) == (1, trials)


@pytest.mark.one_server
async def test_an_event_that_hangs_is_found_by_the_clock(
    server: AsyncServer, keys: Keys, append: Appender, redis_url: str
) -> None:
    """A worker that stands still is killed by whoever watches it; whoever begins there waits no longer than allowed."""
    await append([usage(1), usage(FATAL)])
    for _ in range(2):
        await kill_while_it_folds(command_of(redis_url, "Hanging"))
    unit = unit_of(server, keys, fatal_handlers.Hanging, timeout_s=2)
    assert await drain(unit) == 2
    ((_, letter),) = await letters_of(server, keys)
    assert (letter.index, letter.reason) == (1, "whatever process folds it ends: no answer within 2 s, twice")
    assert await tokens_of(server, keys) == 1


@pytest.mark.one_server
async def test_a_worker_that_is_killed_from_outside_blames_nobody(
    server: AsyncServer, keys: Keys, append: Appender, redis_url: str
) -> None:
    """Who begins behind two deaths is careful: a process tries the batch, survives, and everything counts once."""
    await append([usage(number) for number in range(50)])
    for _ in range(2):
        await kill_while_it_folds(command_of(redis_url, "Waiting"), WAITS="1")
    assert await starts_of(server, keys) == 1
    assert await run_worker(redis_url, "Waiting") == (0, {"events": 50, "trials": 1})
    assert await letters_of(server, keys) == []
    assert await tokens_of(server, keys) == sum(range(50))


@pytest.mark.one_server
async def test_events_that_are_fatal_together_and_none_alone_all_count(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Smaller batches carry the unit past them; nothing is blamed."""
    await append([usage(FATAL if number in {3, 4} else 1) for number in range(8)])
    assert await drain(await after_deaths(server, keys, fatal_handlers.Together)) == 8
    assert await letters_of(server, keys) == []
    assert await tokens_of(server, keys) == 6 + 2 * FATAL


@pytest.mark.one_server
async def test_an_entry_that_cannot_be_decoded_alive_becomes_one_letter(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Its events are not looked at; the letter carries them all, for a decoder that is mended."""
    await append([usage(1)])
    append.producer = "ee" * 16
    entry_id = await append([usage(2), usage(3)])
    append.producer = "ab" * 16
    await append([usage(4)])
    assert await drain(await after_deaths(server, keys, fatal_handlers.ends_of_decoding)) == 4
    ((_, letter),) = await letters_of(server, keys)
    assert (letter.entry_id, letter.index, letter.events, letter.code) == (entry_id, -1, 2, "fatal")
    assert "SIGABRT" in letter.reason
    assert await tokens_of(server, keys) == 5
    assert (await retry(server, keys)).events == 2
    assert await tokens_of(server, keys) == 10


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (fatal_handlers.ends_when_built, r"a process that folds nothing ends too \(exit code 3\)"),
        (fatal_handlers.raises_when_built, "RuntimeError: no model here"),
    ],
)
async def test_a_process_that_ends_of_nothing_proves_nothing(
    server: AsyncServer, keys: Keys, append: Appender, factory: Callable[[], FoldHandler], why: str
) -> None:
    """The unit rests with an error, nothing moves; an operator who knows better lets it go on."""
    await append([usage(1)])
    unit = await after_deaths(server, keys, factory)
    for _ in range(2):
        with pytest.raises(TrialError, match=why):
            await unit.step()
    assert await letters_of(server, keys) == []
    assert await tokens_of(server, keys) == 0
    await server.call("HSET", unit.keys.cursor(), "starts", 0)
    assert await drain(unit) == 1
    assert await tokens_of(server, keys) == 1


@pytest.mark.one_server
async def test_where_no_process_can_be_started_the_worker_says_so(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health names the unit as stuck; the others go on."""
    await append([usage(1)])
    await append([usage(2)], partition=1)
    await begin(server, keys, FoldEffect.of(MetricsHandler))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    worker = Worker(server, keys, [FoldEffect.of(MetricsHandler)], options=WorkerOptions())
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        with anyio.fail_after(15):
            while not (troubles := worker.health().troubles) or worker.statistics().events == 0:  # noqa: ASYNC110 - it happens in Redis
                await anyio.sleep(0.01)
        assert [(one.handler, one.partition, one.state, one.code) for one in troubles] == [
            ("metrics", 0, "stuck", "trial")
        ]
        assert "no process can be started" in troubles[0].why
        worker.stop()
    assert await tokens_of(server, keys) == 2


@pytest.mark.one_server
async def test_another_recipe_on_the_disk_proves_nothing(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A package that was replaced under a running worker would try another fold than the worker's."""

    class Running(MetricsHandler):
        """What the worker had when it started."""

        def recipe(self) -> Recipe:
            return Recipe(99, Caps())

    await append([usage(1)])
    factory = FoldEffect.of(MetricsHandler).factory
    effect = FoldEffect(Running(), factory)
    await begin(server, keys, effect)
    unit = Unit(server, keys.partition(0), effect, UnitOptions())
    with pytest.raises(TrialError, match="another recipe"):
        await unit.step()
    assert await tokens_of(server, keys) == 0


@pytest.mark.one_server
async def test_what_is_known_to_be_safe_is_not_tried_again(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """While Redis refuses commits, the unit comes again and again: it starts one process, not one each time."""
    await append([usage(1)])
    unit = await after_deaths(server, keys, fatal_handlers.Loud)
    apply = unit.effect.apply

    async def refused(slices: Sequence[Slice], budget: int = UNLIMITED) -> Folded:
        raise CapacityError("the server is full")

    unit.effect.apply = refused
    for _ in range(3):
        with pytest.raises(CapacityError):
            await unit.step()
    unit.effect.apply = apply
    assert (await drain(unit), unit.trials) == (1, 1)


@pytest.mark.one_server
async def test_a_trial_ends_where_the_commit_will(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A budget cuts both alike; behind the first commit the unit is trusted again."""
    await append([usage(1, f"agent-{number}") for number in range(10)])
    unit = await after_deaths(server, keys, fatal_handlers.Frugal)
    assert 0 < await unit.step() < 10
    assert unit.trials == 1
    await drain(unit)
    assert unit.trials == 1
    assert await tokens_of(server, keys) == 10


@pytest.mark.one_server
async def test_the_handlers_of_a_worker_can_be_tried(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Each is built in another interpreter under the recipe that the worker has."""
    await append([usage(1), usage(2)])
    for effect in fold_effects():
        await begin(server, keys, effect)
        unit = Unit(server, keys.partition(0), effect, UnitOptions())
        assert (await drain(unit), unit.trials) == (2, 1)


async def test_no_process_is_started_while_workers_come_and_go(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Restarts with and without something to do, and a hand-over between two that run."""
    options = [WorkerOptions(f"w{number}") for number in range(6)]
    workers = [Worker(server, keys, [FoldEffect.of(MetricsHandler)], options=each) for each in options]
    for worker in workers[:4]:
        await append([usage(1)])
        await worker.run_until_idle()
        await worker.run_until_idle()
    async with anyio.create_task_group() as group:
        for worker in workers[4:]:
            group.start_soon(worker.run)
        for number in range(40):
            await append([usage(1)], partition=number % 2)
            await anyio.sleep(0.01)
        workers[4].stop()
        await append([usage(1)])
        with anyio.fail_after(15):
            while await tokens_of(server, keys) < 45:  # noqa: ASYNC110 - what is waited for happens in Redis
                await anyio.sleep(0.01)
        workers[5].stop()
    assert [worker.statistics().trials for worker in workers] == [0] * 6


def test_a_factory_must_be_one_that_another_interpreter_finds() -> None:
    """A function or class of a module; anything else would fail in the worst moment."""
    assert FoldEffect.of(cost_handler).factory == "sidestream.compose:cost_handler"
    with pytest.raises(ValueError, match="another interpreter cannot import it"):
        FoldEffect.of(lambda: MetricsHandler())  # noqa: PLW0108 - a name that nobody finds


@pytest.mark.one_server
async def test_a_worker_that_leaves_takes_its_trial_with_it(
    server: AsyncServer, keys: Keys, append: Appender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is cancelled leaves no process behind; the unit begins anew."""
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("PID_FILE", str(pid_file))
    await append([usage(FATAL)])
    unit = await after_deaths(server, keys, fatal_handlers.Hanging)
    async with anyio.create_task_group() as group:
        group.start_soon(unit.step)
        with anyio.fail_after(15):
            while not (pid_file.exists() and pid_file.read_text()):  # noqa: ASYNC110 - another process writes it
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert await letters_of(server, keys) == []


def test_a_trial_ends_by_its_own_clock_and_not_by_what_is_meant_for_the_worker(tmp_path: Path) -> None:
    """Its worker may be dead; and a service manager tells every process of a worker to leave."""
    effect = FoldEffect.of(fatal_handlers.Hanging)
    entry = StoredEntry("1-0", {b"b": b'{"events":[{"event":"usage","time_us":1,"input_tokens":13}]}'})
    request = Request(0, [entry], Cursor("0-0", 0, "0-0"), 1, VALUE_BUDGET, effect.recipe()[0], 1)
    command = [sys.executable, "-m", "consumers.runtime.trial", effect.factory]
    pid_file = tmp_path / "pid"
    environ = {**os.environ, "PYTHONPATH": str(HERE), "PID_FILE": str(pid_file)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdin is not None
        process.stdin.write(msgspec.msgpack.encode(request))
        process.stdin.close()
        while not pid_file.exists() and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        assert process.wait(10) == -signal.SIGALRM
