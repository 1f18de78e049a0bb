"""Alerts over real committed windows: the watermark, the race of engines, late data, rules that come and go.

Time is the stream's: an entry with an id of its own that no handler has committed holds the watermark at that id, so a
test moves time by appending and folding.
"""

import asyncio
import logging

import pytest
from msgspec.structs import replace

from consumers.alerts.engine import AlertEngine
from consumers.alerts.evaluate import Transition
from consumers.alerts.rules import Rule
from consumers.alerts.store import read_alerts, read_incidents
from consumers.alerts.watermark import read_watermark
from consumers.handlers.metrics import MetricsHandler
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Periodic, Worker, WorkerOptions
from pipeline.connection import AsyncServer
from pipeline.events import Event, OperationEvent, Resource, UsageEvent
from pipeline.keys import DEFAULT_PARTITIONS, Keys
from pipeline.presence import read_partitions
from pipeline.stream import SealedFrame, append_command, parse_appended
from pipeline.units import US_PER_S
from pipeline.wire import FrameEncoder

RULE = Rule(name="many tokens", kind="tokens", threshold=100, window_s=20)
SLOW = Rule(name="slow", kind="slow_operation", threshold=30 * US_PER_S, window_s=20)
HOLDER = 3
"""The partition whose one uncommitted entry holds the watermark."""


class Stage:
    """A namespace with a metrics worker, events at chosen times, and a watermark at a chosen time.

    Times are seconds from `start_s`, a full minute ten minutes ago, so that no window of a test has expired.
    """

    def __init__(self, server: AsyncServer, keys: Keys, now_s: int) -> None:
        self.server = server
        self.keys = keys
        self.worker = Worker(server, keys, [FoldEffect(MetricsHandler())])
        self.start_s = now_s - 600 - now_s % 60
        self._sequence = 0

    async def append(self, *events: Event) -> None:
        """Append a frame of events behind its fence, at the broker's own time, to partition 0."""
        body = FrameEncoder(Resource(service="test")).encode(list(events))
        frame = SealedFrame(0, "a" * 32, self._sequence, len(events), "mz", body)
        command = append_command(self.keys.partition(0), frame, by_text=True)
        assert parse_appended(await self.server.call(*command)).answer == "OK"
        self._sequence += len(events)

    async def tokens(self, at: float, tokens: int) -> None:
        """Append one request that ended at `at`."""
        await self.append(UsageEvent(self.time_us(at), agent="Writer", input_tokens=tokens - 1, output_tokens=1))

    async def fold(self) -> None:
        """Commit everything that was appended."""
        await self.worker.run_until_idle()

    async def hold(self, at: float) -> None:
        """Commit everything, then append an entry of the instant `at`, which holds the watermark there."""
        await self.fold()
        entry_id = f"{self.time_us(at) // 1000}-0"
        body = FrameEncoder(Resource(), codec="json").encode([OperationEvent(self.time_us(at))])
        stream = self.keys.partition(HOLDER).stream()
        await self.server.call("XADD", stream, entry_id, "c", "json", "b", body)

    def time_us(self, at: float) -> int:
        """Return the instant `at` in microseconds since 1970."""
        return round((self.start_s + at) * US_PER_S)

    def engine(self, *rules: Rule, grace_s: float = 0.0) -> AlertEngine:
        """Return a new engine, as another worker would have it."""
        return AlertEngine(self.server, self.keys, rules, partitions=self.partitions, grace_s=grace_s)

    async def partitions(self) -> int:
        """Return the namespace's number of partitions."""
        return await read_partitions(self.server, self.keys)


@pytest.fixture
async def stage(server: AsyncServer, keys: Keys) -> Stage:
    """Return a namespace whose metrics handler has been declared in every partition."""
    stage = Stage(server, keys, int((await server.call("TIME"))[0]))
    await stage.worker.open()
    return stage


def told(transitions: list[Transition]) -> list[tuple[str, str, int]]:
    """Return rule, kind and value of transitions."""
    return [(one.rule, one.to, one.value) for one in transitions]


async def test_an_alert_fires_and_resolves_through_committed_windows(stage: Stage) -> None:
    """It fires when its window is full, stays while it holds the tokens, and resolves when they have left it."""
    engine = stage.engine(RULE)
    await stage.tokens(5, 60)
    await stage.tokens(9.999, 41)
    await stage.hold(9.999)
    assert await engine.run_once() == []
    await stage.hold(10)
    assert told(await engine.run_once()) == [("many tokens", "firing", 101)]
    [row] = await read_alerts(stage.server, stage.keys)
    assert (row.where, row.for_s, row.detail) == (RULE.where, RULE.for_s, "most by agent 'Writer': 101 tokens")
    await stage.hold(29.999)
    assert await engine.run_once() == []
    await stage.hold(30)
    assert told(await engine.run_once()) == [("many tokens", "resolved", 0)]
    newest, oldest = await read_incidents(stage.server, stage.keys)
    assert (oldest.transition.to, newest.transition.to) == ("firing", "resolved")
    assert oldest.transition.incident == f"many tokens:{RULE.hash()[:8]}:{stage.start_s + 10}"
    assert newest.transition.incident == oldest.transition.incident
    assert oldest.transition.detail == "most by agent 'Writer': 101 tokens"
    assert newest.at_ms >= oldest.at_ms


async def test_the_grace_holds_windows_open(stage: Stage) -> None:
    """A window is first looked at when the watermark is a grace past its end."""
    engine = stage.engine(RULE, grace_s=2.0)
    await stage.tokens(5, 101)
    await stage.hold(11.9)
    assert await engine.run_once() == []
    await stage.hold(12)
    assert told(await engine.run_once()) == [("many tokens", "firing", 101)]


async def test_a_slow_operation_fires_with_its_name(stage: Stage) -> None:
    """Any operation above the threshold, whatever its kind; exactly the threshold is not above it."""
    engine = stage.engine(SLOW)
    await stage.append(OperationEvent(stage.time_us(1), name="slow", kind="tool", duration_us=30 * US_PER_S))
    await stage.hold(10)
    assert await engine.run_once() == []
    await stage.append(OperationEvent(stage.time_us(11), kind="run", agent="Writer", duration_us=30 * US_PER_S + 1))
    await stage.hold(20)
    fired = await engine.run_once()
    assert told(fired) == [("slow", "firing", 30 * US_PER_S + 1)]
    assert fired[0].detail == "run 'Writer', agent Writer, status ok"
    await stage.hold(40)
    assert told(await engine.run_once()) == [("slow", "resolved", 0)]


async def test_an_uncommitted_entry_holds_the_watermark_back(stage: Stage) -> None:
    """The oldest entry that a handler has not committed, in any partition, is how far its rules see."""
    await stage.fold()
    free = await read_watermark(stage.server, stage.keys, DEFAULT_PARTITIONS, ["metrics"])
    assert free is not None
    assert free.at_ms <= free.now_ms
    assert free.at_ms > stage.time_us(590) // 1000
    await stage.hold(10)
    held = await read_watermark(stage.server, stage.keys, DEFAULT_PARTITIONS, ["metrics"])
    assert held is not None
    assert held.at_ms == stage.time_us(10) // 1000
    assert held.now_ms >= free.now_ms


async def test_a_cursor_inside_an_entry_has_not_committed_it(stage: Stage) -> None:
    """A commit may end inside an entry; its other events are still to come."""
    await stage.hold(10)
    await stage.fold()
    cursor = stage.keys.partition(HOLDER).unit("metrics").cursor()
    await stage.server.call("HSET", cursor, "index", 1)
    mark = await read_watermark(stage.server, stage.keys, DEFAULT_PARTITIONS, ["metrics"])
    assert mark is not None
    assert mark.at_ms == stage.time_us(10) // 1000
    await stage.server.call("HSET", cursor, "index", 0)


async def test_late_events_count_while_their_window_is_looked_at(stage: Stage) -> None:
    """An event that comes after the grace fires all the same, unless its window has left the rule's."""
    engine = stage.engine(RULE)
    await stage.hold(10)
    assert await engine.run_once() == []
    await stage.tokens(5, 101)
    await stage.hold(15)
    assert told(await engine.run_once()) == [("many tokens", "firing", 101)]
    await stage.hold(40)
    assert told(await engine.run_once()) == [("many tokens", "resolved", 0)]
    await stage.tokens(6, 500)
    await stage.hold(50)
    assert await engine.run_once() == []


async def test_racing_engines_tell_each_incident_once(stage: Stage) -> None:
    """Of engines without any lease one makes each transition, and it is written once."""
    engines = [stage.engine(RULE, SLOW) for _ in range(4)]
    counted: list[tuple[str, str, int]] = []
    for at in range(0, 400, 40):
        await stage.tokens(at + 5, 101)
        for until in (at + 10, at + 40):
            await stage.hold(until)
            for transitions in await asyncio.gather(*(engine.run_once() for engine in engines)):
                counted += told(transitions)
    assert counted == [("many tokens", "firing", 101), ("many tokens", "resolved", 0)] * 10
    stored = [one.transition for one in await read_incidents(stage.server, stage.keys)]
    assert told(stored[::-1]) == counted
    assert len({one.incident for one in stored}) == 10


async def test_a_new_engine_goes_on_from_the_stored_state(stage: Stage) -> None:
    """A restart tells nothing twice, and knows what is still to be resolved."""
    await stage.tokens(5, 101)
    await stage.hold(10)
    assert told(await stage.engine(RULE).run_once()) == [("many tokens", "firing", 101)]
    assert await stage.engine(RULE).run_once() == []
    await stage.hold(30)
    assert told(await stage.engine(RULE).run_once()) == [("many tokens", "resolved", 0)]


async def test_a_removed_rule_does_not_fire_for_ever(stage: Stage) -> None:
    """Its incident is resolved with the reason, and its row goes; a rule that was not firing goes silently."""
    await stage.tokens(5, 101)
    await stage.hold(10)
    await stage.engine(RULE, SLOW).run_once()
    removed = await stage.engine().run_once()
    assert [(one.rule, one.to, one.reason) for one in removed] == [("many tokens", "resolved", "rule removed")]
    assert await read_alerts(stage.server, stage.keys) == []


async def test_a_changed_rule_starts_inactive(stage: Stage) -> None:
    """The old rule's incident ends; the new one is judged by itself."""
    await stage.tokens(5, 101)
    await stage.hold(10)
    await stage.engine(RULE).run_once()
    lenient = stage.engine(replace(RULE, threshold=1_000))
    assert [(one.to, one.reason) for one in await lenient.run_once()] == [("resolved", "rule changed")]
    assert await lenient.run_once() == []


async def test_the_state_of_every_rule_can_be_shown(stage: Stage) -> None:
    """`alerts ls` needs neither the rules file nor the engine."""
    await stage.tokens(5, 101)
    await stage.hold(10)
    await stage.engine(SLOW, RULE).run_once()
    tokens, slow = await read_alerts(stage.server, stage.keys)
    assert (tokens.rule, tokens.status, tokens.value, tokens.threshold) == ("many tokens", "firing", 101, 100)
    assert tokens.since_s == tokens.watermark_s == stage.start_s + 10
    assert (slow.rule, slow.status, slow.value, slow.unit, slow.incident) == ("slow", "inactive", 0, "us", "")


async def test_rules_wait_for_handlers_that_nobody_runs(
    server: AsyncServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a declaration in every partition nothing is known, so nothing is evaluated; it is said once."""
    stage = Stage(server, keys, int((await server.call("TIME"))[0]))
    engine = stage.engine(RULE)
    assert await engine.run_once() == []
    assert await engine.run_once() == []
    assert [record.message for record in caplog.records if record.name == "sidestream.alerts"] == [
        "Alerts wait until a worker runs the handlers that they read"
    ]
    assert await read_alerts(server, keys) == []


async def test_a_server_that_lost_everything_is_begun_anew(stage: Stage) -> None:
    """After FLUSHALL the engine waits for the handlers, then tells what is true of the new state."""
    engine = stage.engine(RULE)
    await stage.tokens(5, 101)
    await stage.hold(10)
    await engine.run_once()
    await stage.server.call("FLUSHALL")
    assert await engine.run_once() == []
    fresh = Stage(stage.server, stage.keys, stage.start_s + 600)
    await fresh.worker.open()
    await fresh.tokens(5, 202)
    await fresh.hold(10)
    assert told(await engine.run_once()) == [("many tokens", "firing", 202)]


async def test_a_row_that_cannot_be_read_begins_anew(stage: Stage) -> None:
    """A damaged row must not silence its rule."""
    await stage.server.call("HSET", stage.keys.alert_states(), RULE.name, b"{\xff")
    await stage.tokens(5, 101)
    await stage.hold(10)
    assert told(await stage.engine(RULE).run_once()) == [("many tokens", "firing", 101)]


async def test_a_row_of_a_newer_worker_is_left_alone(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """An older worker neither judges nor removes what it cannot read; it says so once."""
    row = b'{"v":2,"shape":"unknown"}'
    await stage.server.call("HSET", stage.keys.alert_states(), RULE.name, row, "other", row)
    await stage.tokens(5, 101)
    await stage.hold(10)
    engine = stage.engine(RULE)
    assert await engine.run_once() == []
    assert await engine.run_once() == []
    assert await stage.server.call("HVALS", stage.keys.alert_states()) == [row, row]
    left = [record for record in caplog.records if record.message == "An alert is left to newer workers"]
    assert sorted(vars(record)["rule"] for record in left) == ["many tokens", "other"]


async def test_each_transition_is_one_log_line(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A warning when it fires, an information when it is over, the values beside the sentence."""
    caplog.set_level(logging.INFO, logger="sidestream.alerts")
    engine = stage.engine(replace(SLOW, summary="Find out why."))
    await stage.append(OperationEvent(stage.time_us(5), name="export", duration_us=31_500_000))
    await stage.hold(10)
    await engine.run_once()
    await stage.hold(30)
    await engine.run_once()
    fires, over = [record for record in caplog.records if record.name == "sidestream.alerts"]
    assert (fires.levelno, fires.message) == (logging.WARNING, "Alert fires")
    assert (over.levelno, over.message) == (logging.INFO, "Alert resolved")
    values = vars(fires)
    assert (values["rule"], values["value"], values["threshold"], values["unit"]) == ("slow", 31.5, 30.0, "s")
    assert (values["detail"], values["summary"]) == ("step 'export', status ok", "Find out why.")


async def test_a_worker_evaluates_alerts_beside_its_units(stage: Stage) -> None:
    """As a periodic task under a lease: what is appended while it runs is folded, and then fires."""
    await stage.hold(10)
    await stage.tokens(5, 101)
    fired = asyncio.Event()
    engine = stage.engine(replace(RULE, window_s=3_600))

    async def evaluate() -> None:
        await engine.run()
        rows = await read_alerts(stage.server, stage.keys)
        if any(row.status == "firing" for row in rows):
            fired.set()
            worker.stop()

    task = Periodic("alerts", 0.01, stage.keys.alert_lease(), evaluate)
    effects = [FoldEffect(MetricsHandler())]
    worker = Worker(stage.server, stage.keys, effects, periodic=[task], options=WorkerOptions(name="w"))
    async with asyncio.timeout(20):
        await worker.run()
    assert fired.is_set()
