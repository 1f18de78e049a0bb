"""`make demo`: visitors talk to Deckster, and every event is followed to the report, to the last one.

Everything is real: a Valkey server, a Starlette application with PydanticAI agents, WebSocket clients, two workers, an
OTLP endpoint. Only the models are offline: they answer without a provider, and state real ones.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

import anyio
import httpx
from rich.console import Console
from rich.table import Table

from consumers.alerts.store import read_alerts, read_incidents
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.replay.beginning import Asked
from consumers.replay.diff import diff
from consumers.replay.running import replay_until_idle
from consumers.versions import ALL_DAYS
from consumers.views.report import Report, read_report
from consumers.views.status import Status, read_status
from examples.deckster.clients import drive
from examples.deckster.ledger import ClientLedger, empty_ledger
from examples.deckster.stage import Actor, Stage, StageError
from examples.deckster.verdict import Line, committed, compare, counted_by_clients
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.errors import SidestreamError
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from sidestream.cli.look.report_text import report_text
from sidestream.compose import fold_effects
from sidestream.embedded import EmbeddedError, hold

RULES: Final = Path(__file__).parent / "rules.toml"
SETTLE_S: Final = 40.0
"""How long the last events, and the last alert, may take to settle."""

SESSIONS: Final = 40
SECONDS: Final = 22

PAGE_NEEDS: Final = ("jinja2", "starlette", "uvicorn")
"""What the extra `dashboard` brings."""

EXIT_FINDING: Final = 1
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo was asked for."""

    sessions: int
    seconds: int
    seed: int
    keep: bool

    @property
    def is_default_size(self) -> bool:
        """Whether traffic is what the alert rules were made for."""
        return (self.sessions, self.seconds) == (SESSIONS, SECONDS)


@dataclass(slots=True)
class Scene:
    """The demo while it plays."""

    options: Options
    out: Console
    stage: Stage
    url: str
    server: AsyncServer
    keys: Keys
    receiver: Actor | None = None
    page: Actor | None = None
    ledger: ClientLedger | None = None
    incidents_told: int = 0

    async def partitions(self) -> int:
        """Return the namespace's number of partitions."""
        return await read_partitions(self.server, self.keys)

    async def status(self) -> Status:
        """Return the state of the pipeline."""
        return await read_status(self.server, self.keys, await self.partitions())


async def demo(options: Options, out: Console) -> int:
    """Play the demo; return 0 if every event was counted once."""
    folder = Path(tempfile.mkdtemp(prefix="sidestream-demo-"))
    async with AsyncExitStack() as stack:
        if not options.keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        embedded = stack.enter_context(hold(folder / "data"))
        server = AsyncServer(RedisSettings(embedded.url))
        stack.push_async_callback(server.aclose)
        stage = await stack.enter_async_context(Stage(folder))
        scene = Scene(options, out, stage, embedded.url, server, Keys("demo"))
        _say(scene, f"Valkey {embedded.version} on a unix socket (from a wheel; nothing is installed)")
        app, workers = await _set_up(scene)
        await _say_where_the_page_is(scene)
        await _play(scene, int(await stage.ready(app, folder / "app.port")))
        await stage.end(app)
        _say(scene, "The application has stopped, and handed over its last events")
        findings = await _settle(scene)
        await _show_report(scene)
        for worker in workers:
            await stage.end(worker)
        findings += await _account(scene)
        if options.keep:
            _say_kept(scene, folder)
    return _verdict(out, findings)


async def _set_up(scene: Scene) -> tuple[Actor, list[Actor]]:
    stage = scene.stage
    common = {
        "SIDESTREAM_REDIS_URL": scene.url,
        "SIDESTREAM_NAMESPACE": scene.keys.namespace,
        "SIDESTREAM_CONFIG": str(RULES),
        "APP_VERSION": "1.0.0",
        "LOGFIRE_ENVIRONMENT": "demo",
        "PYTHONUNBUFFERED": "1",
        # Every span is counted below, so none may be sampled out.
        "LOGFIRE_TRACE_SAMPLE_RATE": "1",
    }
    if os.environ.get("LOGFIRE_TOKEN"):
        _say(scene, "LOGFIRE_TOKEN is set: spans go to Logfire")
    else:
        file = stage.folder / "receiver.url"
        scene.receiver = stage.start("receiver", "sidestream.receiver", "--port", "0", "--ready-file", str(file),
                                     "--summary-file", str(stage.folder / "spans.json"))  # fmt: skip
        common["LOGFIRE_TOKEN"] = ""
        common["OTEL_EXPORTER_OTLP_ENDPOINT"] = await stage.ready(scene.receiver, file)
        _say(scene, "No LOGFIRE_TOKEN: an OTLP receiver on loopback stands in for Logfire")
    workers = [stage.start(f"worker-{n}", "sidestream", "worker", **common) for n in (1, 2)]
    app = stage.start("app", "examples.deckster.app", "--port", "0", "--ready-file", str(stage.folder / "app.port"),
                      "--seed", str(scene.options.seed), **common)  # fmt: skip
    _open_page(scene, common)
    await stage.ready(app, stage.folder / "app.port")
    await _until(scene, lambda status: len(status.workers) == len(workers) and bool(status.accounts), 20)
    _say(scene, "Deckster (five agents) and two workers run: metrics, cost, export, alerts")
    _say(scene, "Alert windows are 10 s here, so that you see one fire and resolve; the guide's are 5 minutes")
    return app, workers


def _open_page(scene: Scene, common: Mapping[str, str]) -> None:
    """Start the web page, where what it needs is installed; nobody waits for it."""
    if all(find_spec(name) for name in PAGE_NEEDS):
        file = str(scene.stage.folder / "page.address")
        scene.page = scene.stage.start("page", "sidestream", "dashboard", "--port", "0", "--ready-file", file, **common)


async def _say_where_the_page_is(scene: Scene) -> None:
    if scene.page is not None:
        address = await scene.stage.ready(scene.page, scene.stage.folder / "page.address")
        _say(scene, f"Watch it in a browser while it lasts: {address}?range=15m")


async def _play(scene: Scene, port: int) -> None:
    options = scene.options
    scene.ledger = empty_ledger()
    _say(scene, f"{options.sessions} visitors talk to Deckster over WebSockets for {options.seconds:.0f} s")

    def heard(ledger: ClientLedger) -> None:
        scene.ledger = ledger

    async with anyio.create_task_group() as group:
        group.start_soon(_watch, scene)
        url = f"ws://127.0.0.1:{port}"
        scene.ledger = await drive(url, options.sessions, options.seconds, options.seed, heard)
        group.cancel_scope.cancel()


async def _watch(scene: Scene) -> None:
    started = time.monotonic()
    while True:
        await anyio.sleep(2)
        scene.stage.check()
        await _tell_alerts(scene)
        report = await _report(scene)
        heard = scene.ledger or empty_ledger()
        scene.out.print(
            f"  {time.monotonic() - started:3.0f} s  clients heard {heard['requests']:>4} requests,"
            f" counted {report.totals.requests:>4}: {report.totals.total_tokens:>9,} tokens,"
            f" ${(report.totals.cost_nano_usd or 0) / 1e9:.2f}"
        )


async def _report(scene: Scene) -> Report:
    now_s = int(time.time())
    since_s = now_s - 3600
    return await read_report(scene.server, scene.keys, since_s=since_s, until_s=None, by="agent", now_s=now_s)


async def _tell_alerts(scene: Scene) -> None:
    """Print what fired and resolved since the last look; from the incidents, so that none is missed between two."""
    incidents = sorted(await read_incidents(scene.server, scene.keys), key=lambda incident: incident.at_ms)
    for incident in incidents[scene.incidents_told :]:
        fires = incident.transition.to == "firing"
        sentence = f"         alert {'fires' if fires else 'resolved'}: {incident.transition.rule}"
        scene.out.print(sentence, style="bold red" if fires else "bold green", markup=False)
    scene.incidents_told = len(incidents)


async def _settle(scene: Scene) -> list[str]:
    """Wait until everything is counted and the alerts have come to rest; return what is not so."""
    findings: list[str] = []
    if not await _until(scene, _all_counted, SETTLE_S):
        findings.append("not every event was counted in time")
    ends_at_s = time.time()
    while not await _alerts_are_at_rest(scene, ends_at_s) and time.time() < ends_at_s + SETTLE_S:
        await anyio.sleep(0.5)
        await _tell_alerts(scene)
    await _tell_alerts(scene)
    fired = {incident.transition.rule for incident in await read_incidents(scene.server, scene.keys)}
    rows = await read_alerts(scene.server, scene.keys)
    findings += [f"alert {row.rule} did not resolve" for row in rows if row.status == "firing"]
    silent = sorted({row.rule for row in rows} - fired)
    if silent and scene.options.is_default_size:
        findings.append(f"alert {', '.join(silent)} did not fire")
    elif silent:
        _say(scene, "Not every alert fired: the rules are made for the default number of visitors and seconds")
    return findings


async def _alerts_are_at_rest(scene: Scene, ended_s: float) -> bool:
    """Return whether every rule has fired and resolved, or has looked at the windows up to the end and one beyond."""
    rows = await read_alerts(scene.server, scene.keys)
    fired = {incident.transition.rule for incident in await read_incidents(scene.server, scene.keys)}
    return all(
        row.status != "firing" and (row.rule in fired or row.watermark_s >= ended_s + 2 * row.window_s) for row in rows
    )


def _all_counted(status: Status) -> bool:
    waiting = sum(account.outstanding for account in status.accounts)
    return not waiting and all(producer.life == "closed" for producer in status.producers)


async def _until(scene: Scene, holds: Callable[[Status], bool], seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        while True:
            scene.stage.check()
            if holds(await scene.status()):
                return True
            await anyio.sleep(0.1)
    return False


async def _show_report(scene: Scene) -> None:
    report = await _report(scene)
    scene.out.print()
    scene.out.rule("sidestream report --since 1h --by agent", style="dim")
    scene.out.print(report_text(report, scene.out.width))


async def _account(scene: Scene) -> list[str]:
    """Hold the clients' count against every handler, and the live state against a replay."""
    reader = StateReader(scene.server, scene.keys, await scene.partitions())
    assert scene.ledger is not None
    lines = compare(counted_by_clients(scene.ledger), await committed(reader))
    if scene.receiver:
        lines.append(await _exported(scene))
    scene.out.rule("what the clients counted = what was committed", style="dim")
    scene.out.print(_table(lines))
    status = await scene.status()
    findings = [f"{line.what}: clients {line.clients}, committed {line.committed}" for line in lines if not line.equal]
    findings += [f"{broken.where}: {broken.what}" for broken in status.broken]
    dead = sum(account.dead for account in status.accounts)
    if dead:
        findings.append(f"{dead} dead letters")
    place = scene.server, scene.keys, await scene.partitions()
    begun, events = await replay_until_idle(*place, Asked(fold_effects(), ALL_DAYS))
    result = await diff(*place, await read_versions(scene.server, scene.keys), begun)
    if result.equal:
        scene.out.print(
            f"Replayed {events:,} handler-events from the stream into a second state: equal bit by bit, "
            f"{result.windows:,} windows, {result.fields:,} fields."
        )
    else:
        findings.append(f"the replay differs: {len(result.differences)} fields; {'; '.join(result.apart)}")
    return findings


async def _exported(scene: Scene) -> Line:
    assert scene.ledger is not None
    assert scene.receiver is not None
    await scene.stage.end(scene.receiver)
    summary = json.loads((scene.stage.folder / "spans.json").read_text("utf-8"))
    ledger = scene.ledger
    events = ledger["requests"] + ledger["runs"] + ledger["tools"] + ledger["transitions"] + ledger["errors"]
    return Line("export: distinct spans received", events, summary["distinct_spans"])


def _table(lines: list[Line]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column("clients", justify="right")
    table.add_column("committed", justify="right")
    table.add_column("")
    for line in lines:
        mark = "[green]equal[/]" if line.equal else f"[bold red]{line.committed - line.clients:+}[/]"
        table.add_row(line.what, f"{line.clients:,}", f"{line.committed:,}", mark)
    return table


def _verdict(out: Console, findings: list[str]) -> int:
    if not findings:
        out.print("Every event was counted exactly once.", style="bold green")
        return 0
    for finding in findings:
        out.print(f"Finding: {finding}", style="bold red", markup=False)
    return EXIT_FINDING


def _say(scene: Scene, sentence: str) -> None:
    scene.out.print(f"- {sentence}", markup=False)


def _say_kept(scene: Scene, folder: Path) -> None:
    scene.out.print(f"\nKept in {folder}. Look again:", markup=False, soft_wrap=True)
    for command in ("dashboard", "report --since 24h --by model", "status", "replay diff --bits"):
        line = f"  SIDESTREAM_DATA_DIR={folder / 'data'} .venv/bin/sidestream {command} --namespace demo"
        scene.out.print(line, markup=False, soft_wrap=True)


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:  # noqa: PLR2004 - said in the message
        raise argparse.ArgumentTypeError("use a whole number from 1 to 1000")
    return number


def main() -> None:
    """Play the demo from the command line."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--sessions", type=_positive, default=SESSIONS, help="how many visitors come (default %(default)s)"
    )
    parser.add_argument("--seconds", type=_positive, default=SECONDS, help="how long they talk (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="what every draw of chance starts from")
    parser.add_argument("--keep", action="store_true", help="keep the server's data and the logs")
    given = parser.parse_args()
    options = Options(given.sessions, given.seconds, given.seed, given.keep)
    # SIGTERM is to end the demo as Ctrl-C does: everybody is sent home first.
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    out = Console(highlight=False)
    code = EXIT_UNREACHABLE
    try:
        code = anyio.run(demo, options, out)
    except* KeyboardInterrupt:
        out.print("\nInterrupted; everything that was started has been stopped.")
        code = EXIT_INTERRUPTED
    except* (StageError, SidestreamError, EmbeddedError, httpx.HTTPError, OSError) as errors:
        for error in _leaves(errors):
            sys.stderr.write(f"demo: {error}\n")
    sys.exit(code)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in cast("tuple[BaseException, ...]", error.exceptions) for leaf in _leaves(part)]
    return [error]


if __name__ == "__main__":
    main()
