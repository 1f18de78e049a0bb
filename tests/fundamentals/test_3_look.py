"""3. Looking: the report, the alerts, the replay; from an application's call to an operator's answer."""

from collections.abc import Generator
from pathlib import Path

import pytest

import sidestream
from consumers.alerts.engine import AlertEngine
from consumers.alerts.rules import parse_rules
from consumers.register import read_versions
from consumers.replay.beginning import Asked
from consumers.replay.diff import diff
from consumers.replay.running import replay_until_idle
from consumers.runtime.run import Worker
from consumers.versions import ALL_DAYS
from consumers.views.report import read_report
from consumers.views.status import read_status
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from sidestream.compose import fold_effects


@pytest.fixture
def app(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Be an application that has done some work, and closed."""
    monkeypatch.chdir(tmp_path)
    sidestream.configure(service="deckster", redis_url=redis_url, namespace="test", linger_ms=1)
    with sidestream.session_context("session-1", "user-1", state="outlining"):
        with sidestream.operation("outline", kind="run", agent="outliner"):
            sidestream.usage("outliner", "gpt-4o", 100_000, 2_000, provider="openai", duration_us=3_000_000)
        sidestream.track_state_transition("outlining", "writing")
        sidestream.usage("writer", "our own model", 50, 5)
    assert sidestream.close(5)
    yield
    sidestream.close()


async def test_a_report_adds_up_and_says_how_complete_it_is(app: None, server: AsyncServer, keys: Keys) -> None:
    """Money of the models whose price is known; the others are unpriced, which is not $0."""
    await Worker(server, keys, fold_effects()).run_until_idle()
    now_s = int((await server.call("TIME"))[0])
    report = await read_report(server, keys, since_s=now_s - 600, until_s=None, by="agent", now_s=now_s)
    totals = report.totals
    assert (totals.requests, totals.runs, totals.transitions) == (2, 1, 1)
    assert (totals.cost_nano_usd, totals.unpriced_requests) == (270_000_000, 1)
    assert report.completeness.complete(now_s - 600)


async def test_status_accounts_for_every_event(app: None, server: AsyncServer, keys: Keys) -> None:
    """What the application offered = what was appended = what every handler committed."""
    await Worker(server, keys, fold_effects()).run_until_idle()
    status = await read_status(server, keys, await read_partitions(server, keys))
    assert not status.broken
    [producer] = status.producers
    assert producer.presence.offered == producer.presence.appended == 4
    for handler in ("metrics", "cost"):
        assert sum(account.committed for account in status.accounts if account.handler == handler) == 4


async def test_an_alert_is_evaluated_from_what_was_committed(app: None, server: AsyncServer, keys: Keys) -> None:
    """Before a worker has counted an event there is nothing to fire on, whatever the stream holds."""
    rules = parse_rules([{"name": "tokens", "kind": "tokens", "threshold": 1_000, "window": "10s"}])
    engine = AlertEngine(server, keys, rules, partitions=lambda: read_partitions(server, keys), grace_s=0)
    assert await engine.run_once() == []


async def test_a_replay_gives_the_same_state_bit_by_bit(app: None, server: AsyncServer, keys: Keys) -> None:
    """The same handlers over the same stream, into a second version beside the live one."""
    await Worker(server, keys, fold_effects()).run_until_idle()
    place = server, keys, await read_partitions(server, keys)
    begun, _ = await replay_until_idle(*place, Asked(fold_effects(), ALL_DAYS))
    assert (await diff(*place, await read_versions(server, keys), begun)).equal
