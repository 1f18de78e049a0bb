"""The storm over the consuming side: workers and Redis are killed, frozen and rolled back, and an oracle counts along.

    python -m storms.consuming [--seed 1] [--seconds 120] [--variant NAME] [--server KIND] [--json]

An appender in this process puts a few thousand events a second on the streams, bad ones among them, and knows what lies
where. Real workers (metrics, cost, export) count them through a proxy. In the end everything is counted once more, by a
model of plain dictionaries. Exit codes: 0 everything holds, 1 a check fails, 2 the run is invalid: too few events, or
too few faults to prove anything.
"""

import argparse
import contextlib
import dataclasses
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import anyio
import msgspec
from storms.appending import Appender, events_in
from storms.commit_proxy import CommitProxy, Held, percentile_s
from storms.consumer import LEASE_S, REST_S
from storms.consuming_plan import (
    ALWAYS_NEEDED,
    KILLED_A_MINUTE,
    KILLS,
    KILLS_PAUSE_S,
    LEAST_A_MINUTE,
    MALFORMED_A_MINUTE,
    NEEDED,
    TAKES_S,
    TRIMMED_A_MINUTE,
    WEIGHTS,
)
from storms.consuming_variants import EDITS_COMMIT, FLAVOURS, VARIANTS, append_script
from storms.counting_model import HANDLERS
from storms.counting_oracle import CountingVerdict, read_books, read_found
from storms.far_side import FarSide
from storms.oracle import Check
from storms.plan import PAUSE_S, Fault, plan, shortfalls
from storms.resp_proxy import Fate
from storms.worker_processes import Workers
from storms.world import START_S, OwnServer
from support import server_kinds

from consumers.views.accounting import UnitAccount, read_unit_accounts
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.errors import SidestreamError
from pipeline.keys import Keys
from sidestream.embedded import locate_server

T = TypeVar("T")

NAMESPACE: Final = "storm"
PARTITIONS: Final = 4
UNITS: Final = PARTITIONS * (len(HANDLERS) + 1)
WORKERS: Final = 4
"""How many there are at most; at least one."""

IDLE_S: Final = 60.0
CALM_S: Final = 1.0
"""Before the first fault: so that there is something to lose."""

ACCOUNTS_S: Final = 0.2
"""How often accounts are looked at: they cost a server that is behind some milliseconds each."""

COMPACT_S: Final = 10.0
"""How often the server writes its file anew: an event is a hundred commands in it, all run again at each start."""

RETENTION: Final = "5s"
"""How long entries stay in a storm that trims: longer than an append whose answer was lost is looked for."""

SOON_S: Final = 3.0
"""How long a fault waits for what it needs: a commit to hold up, a worker to take over."""

RATES: Final[dict[Fate, float]] = {"refuse": 0.03, "drop_reply": 0.02, "cut_before": 0.01, "delay": 0.01}
"""Of the scripts; of reads likewise, but none is refused."""


@dataclass
class Outcome:
    """What a storm found; times in seconds."""

    seed: int
    seconds: float
    variant: str
    server: str
    faults: Mapping[str, int]
    events: int
    entries: int
    set_aside: int
    rolled_back: int
    again: int
    lost: int
    commits: int
    takeovers: int
    takeover_p50_s: float
    takeover_p99_s: float
    heals: int
    heal_p50_s: float
    heal_p99_s: float
    idle_s: float
    spans: int
    repeated: int
    invalid: Sequence[str]
    checks: Sequence[Check] = field(default_factory=list[Check])

    @property
    def failed(self) -> list[Check]:
        """The checks that something speaks against."""
        return [check for check in self.checks if not check.holds]

    @property
    def code(self) -> int:
        """The exit code."""
        return 2 if self.invalid else 1 if self.failed else 0


class Storm:
    """One storm: a server, a proxy, workers, an appender, and what is done to them.

    Args:
        folder: Of its own.
        seed: Of everything that is decided.
        variant: The guard that workers do without, or another flavour; `none` is neither.
        kind: Which server.
    """

    def __init__(self, folder: Path, seed: int, variant: str, kind: str) -> None:
        self.variant = variant
        self.happened: Counter[str] = Counter()
        self.keys = Keys(NAMESPACE)
        self.server = OwnServer(folder, kind)
        self.proxy = CommitProxy(folder / "proxy", self.server.socket, seed)
        self.proxy.start()
        self.far_side = FarSide(seed)
        self.far_side.__enter__()
        self.appender = Appender(
            f"unix://{self.server.socket}",
            self.keys,
            seed=seed,
            partitions=PARTITIONS,
            append=append_script(variant),
            mostly_bad=variant == "malformed",
        )
        self.workers = Workers(
            {
                "SIDESTREAM_REDIS_URL": f"unix://{folder / 'proxy'}",
                "SIDESTREAM_NAMESPACE": NAMESPACE,
                "OTEL_EXPORTER_OTLP_ENDPOINT": self.far_side.url,
                **({"SIDESTREAM_RETENTION": RETENTION} if variant == "trimmed" else {}),
            },
            variant,
            folder / "log",
        )
        self.idle_s = 0.0
        self.carried = False
        self._dice = random.Random(seed + 1)  # noqa: S311 - repeatable on purpose
        self._does: Mapping[str, Callable[[float], bool | None]] = {
            "kill a worker": self._kill_worker,
            "freeze a worker": self._freeze_worker,
            "drain a worker": self._drain_worker,
            "commit too late": self._commit_too_late,
            "freeze the server": self._freeze_server,
            "kill the server": self._kill_server,
            "remember the server": self._remember,
            "roll the server back": self._roll_back,
            "roll back under a commit": self._roll_back_under_a_commit,
            "fill the server": self._fill,
            "forget scripts": lambda _: self._command("SCRIPT", "FLUSH"),
            "plant a wrong type": self._plant,
            "cut connections": lambda _: self._command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        }

    def rage(self, faults: Sequence[Fault]) -> None:
        """Let everything happen."""
        self._begin()
        self.proxy.rates = RATES
        time.sleep(CALM_S)
        compacted_s = time.monotonic()
        for fault in faults:
            time.sleep(fault.after_s)
            if time.monotonic() > compacted_s + COMPACT_S:
                self.server.compact()
                compacted_s = time.monotonic()
            self.workers.tend()
            if self._does[fault.name](fault.lasts_s) is not False:
                self.happened[fault.name] += 1

        if self._two_books:
            self._end_deploy()

    def _end_deploy(self) -> None:
        """Let those with the old book leave, and the others price what comes."""
        for name in [name for name in self.workers.living if self.workers.books[name] == "none"]:
            self.workers.drain(name)
        self.workers.start("double")
        before = self.proxy.commits
        self._until(SOON_S, lambda: self.proxy.commits > before + UNITS, 0.02)

    def _begin(self) -> None:
        for _ in range(2):
            self.workers.start()
        if not self._until(START_S, lambda: len(self._accounts()) == UNITS):
            raise RuntimeError(f"the workers did not begin: {self.workers.last_words()}")
        self.appender.start()
        if self.variant == "flushed":
            time.sleep(1)
            self.appender.pause()
            self._command("FLUSHALL")
            self.appender.follow_rollback()
            self.appender.resume()
            self.happened["flush everything"] += 1

    def _start_worker(self) -> None:
        """Start one; where there are two price books, every second one has the other."""
        self.workers.start("double" if self._two_books and self._dice.random() < 0.5 else "none")

    @property
    def _two_books(self) -> bool:
        return self.variant in {"two_books", "any_recipe"}

    def calm(self) -> None:
        """End all faults, and let workers count what is left."""
        self.proxy.rates = {}
        self.far_side.calm = True
        self.appender.stop()
        self.workers.tend()
        began_s = time.monotonic()
        self.carried = self._until(IDLE_S if self.variant in {"none", *FLAVOURS} else IDLE_S / 4, self._idle)
        self.idle_s = time.monotonic() - began_s
        self.workers.close()
        self.happened += self.proxy.happened + self.appender.happened + self.far_side.happened

    def _idle(self) -> bool:
        self.workers.tend()
        accounts = self._accounts()
        return len(accounts) == UNITS and not any(one.outstanding_entries for one in accounts)

    def _until(self, timeout_s: float, happens: Callable[[], object], every_s: float = ACCOUNTS_S) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not happens():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(every_s)
        return True

    def _victim(self) -> str:
        return self._dice.choice(sorted(self.workers.living))

    def _replace(self) -> None:
        """Start none, one or two workers, so that there are between one and four."""
        for _ in range(self._dice.choice((0, 1, 1, 2))):
            if len(self.workers.living) < WORKERS:
                self._start_worker()
        if not self.workers.living:
            self._start_worker()

    def _kill_worker(self, _: float) -> None:
        self.proxy.orphaned(self.workers.kill(self._victim()))
        self._replace()

    def _drain_worker(self, _: float) -> None:
        self.workers.drain(self._victim())
        self._replace()

    def _freeze_worker(self, lasts_s: float) -> None:
        """Freeze one beyond its lease, while others go on."""
        if len(self.workers.living) < 2:
            self._start_worker()
        process = self.workers.living[self._victim()]
        process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_S + lasts_s)
        process.send_signal(signal.SIGCONT)

    def _commit_too_late(self, _: float) -> bool:
        """Hold a commit up until its worker is dead and another has committed the unit."""
        for _ in range(3):
            held = self.proxy.catch()
            try:
                name = self.workers.named(held.pid) if held.caught.wait(SOON_S) else None
                if name is not None:
                    return self._outlive(held, name)
            finally:
                self.proxy.let_go(held)
        return False

    def _outlive(self, held: Held, name: str) -> bool:
        before = self.proxy.workers.get(held.unit)
        self.proxy.orphaned(self.workers.kill(name))
        self._start_worker()
        late = {before, held.pid}
        return self._until(LEASE_S + 2 * SOON_S, lambda: self.proxy.workers.get(held.unit) not in late, 0.02)

    def _freeze_server(self, lasts_s: float) -> None:
        self.proxy.server_went()
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(lasts_s)
        self.server.process.send_signal(signal.SIGCONT)
        self.proxy.server_came()

    def _remember(self, _: float) -> None:
        self.server.compact()
        self.server.remember()

    def _kill_server(self, _: float) -> None:
        self.proxy.server_went()
        self.server.restart()
        self.proxy.server_came()

    def _roll_back(self, _: float) -> bool:
        """Put the server back, knowing to the event what it has no more."""
        if not self.server.remembers:
            return False
        self.appender.pause()
        self._put_back()
        self.appender.resume()
        return True

    def _put_back(self) -> None:
        self.proxy.server_went()
        self.server.roll_back()
        self.appender.follow_rollback()
        self.proxy.server_came()
        # There is always something to go back to.
        self.server.remember()

    def _roll_back_under_a_commit(self, _: float) -> bool:
        """Let a worker read and fold what a rollback then takes, with its cursor as it was, and let it commit."""
        rates, self.proxy.rates = self.proxy.rates, {}
        self.appender.pause()
        idle: list[UnitAccount] = []
        caught = False
        if self._until(SOON_S, lambda: idle.extend(self._carried_and_idle()) or idle):
            self.server.remember()
            held = self.proxy.catch(self._name_of(idle[0]))
            self.appender.one_more(idle[0].partition)
            caught = held.caught.wait(SOON_S)
            self._put_back()
            self.proxy.let_go(held)
        self.appender.resume()
        self.proxy.rates = rates
        return caught

    def _carried_and_idle(self) -> list[UnitAccount]:
        """Return units that a living worker has committed to the end."""
        idle = [one for one in self._accounts() if not one.outstanding_entries]
        return [one for one in idle if self.workers.named(self.proxy.workers.get(self._name_of(one), 0))]

    def _name_of(self, account: UnitAccount) -> str:
        return self.keys.partition(account.partition).unit(account.handler).prefix

    def _fill(self, lasts_s: float) -> None:
        self._command("CONFIG", "SET", "maxmemory", "1mb")
        time.sleep(lasts_s)
        self._command("CONFIG", "SET", "maxmemory", "0")

    def _plant(self, _: float) -> bool:
        """Make keys that the next commits need something else, until a worker has met one."""
        window_s = 10
        start_s = (int(time.time()) // window_s + 1) * window_s
        units = [self.keys.partition(number).unit(HANDLERS[0]) for number in range(PARTITIONS)]
        planted = [unit.slowest("10s", start_s) for unit in units]
        for key in planted:
            self._command("SET", key, "planted")
        refused = self._until(window_s + SOON_S, lambda: self.proxy.happened["commit BAD"])
        time.sleep(REST_S)
        self._command("DEL", *planted)
        return refused

    def _command(self, *words: str) -> None:
        with contextlib.closing(self.server.client()) as client, contextlib.suppress(SidestreamError):
            client.call(*words)

    def _accounts(self) -> list[UnitAccount]:
        return self._asked(lambda server: read_unit_accounts(server, self.keys, PARTITIONS))

    def _asked(self, question: Callable[[AsyncServer], Awaitable[T]]) -> T:
        """Ask the server, not through the proxy."""

        async def ask() -> T:
            server = AsyncServer(RedisSettings(f"unix://{self.server.socket}"))
            try:
                return await question(server)
            finally:
                await server.aclose()

        return anyio.run(ask)

    def judge(self) -> tuple[CountingVerdict, list[Check]]:
        """Count everything once more, and compare."""
        books = self._asked(lambda server: read_books(server, self.keys, PARTITIONS))
        verdict = CountingVerdict(self.appender.record, books)
        now_s = int(time.time())
        found = self._asked(lambda server: read_found(server, self.keys, PARTITIONS, verdict.days(now_s)))
        self.happened += Counter({"trimmed events": found.trimmed})
        checks = verdict.checks(found, self.far_side.delivered)
        complaints = [line for line in self.workers.complaints() if not self._asked_for(line)]
        return verdict, [
            *checks,
            Check("carried", "every unit was carried to the end in time", [] if self.carried else ["not in time"]),
            Check("ended", "every worker that was asked to leave left, and none else ended", self.workers.failed),
            Check("raised", "nothing was raised in any worker, and nothing was beyond repeating", complaints),
        ]

    def _asked_for(self, complaint: str) -> bool:
        """Return whether a worker has to complain: its book is the older one, or something was planted."""
        older = self._two_books and ("older_recipe" in complaint or "newer recipe" in complaint)
        planted = self.happened["plant a wrong type"] and "refused its arguments: BAD" in complaint
        return bool(older or planted)

    def end(self) -> None:
        """End every process and every thread."""
        self.proxy.rates = {}
        for process in [*self.workers.living.values(), *(process for _, process in self.workers.leaving)]:
            process.kill()
            process.wait()
        self.appender.abandon()
        self.proxy.stop()
        self.far_side.__exit__(None, None, None)
        self.server.kill()


@contextlib.contextmanager
def raging(seed: int, variant: str, kind: str) -> Generator[Storm]:
    """Make a storm in a folder of its own, and leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    storm = Storm(folder, seed, variant, kind)
    try:
        yield storm
    finally:
        storm.end()
        shutil.rmtree(folder, ignore_errors=True)


def run(seed: int, seconds: float, variant: str = "none", kind: str = "valkey") -> Outcome:
    """Let a storm rage, and return what was found."""
    needed = NEEDED.get(variant)
    with raging(seed, variant, kind) as storm:
        kinds, pause_s = (KILLS, KILLS_PAUSE_S) if variant in {"killed", "malformed"} else (WEIGHTS, PAUSE_S)
        storm.rage(plan(seed, seconds, kinds, takes_s=TAKES_S, first=needed, pause_s=pause_s))
        storm.calm()
        verdict, checks = storm.judge()
        return _outcome(storm, verdict, checks, seed=seed, seconds=seconds)


def _outcome(storm: Storm, verdict: CountingVerdict, checks: Sequence[Check], *, seed: int, seconds: float) -> Outcome:
    proxy, appender = storm.proxy, storm.appender
    set_aside = len(verdict.model.set_aside["metrics"])
    happened = storm.happened + Counter({"events": verdict.model.events, "set aside": set_aside})
    least = dict(LEAST_A_MINUTE)
    if storm.variant in NEEDED:
        least = {name: LEAST_A_MINUTE.get(name, 1) for name in (*ALWAYS_NEEDED, *NEEDED[storm.variant])}
    if storm.variant in {"killed", "malformed"}:
        least["kill a worker"] = KILLED_A_MINUTE
    if storm.variant == "malformed":
        least["set aside"] = MALFORMED_A_MINUTE
    if storm.variant == "trimmed":
        # Rollbacks take most of what is not yet trimmed and of what is.
        least |= {"events": 1_000, "set aside": 10, "trimmed events": TRIMMED_A_MINUTE}
    return Outcome(
        seed=seed,
        seconds=seconds,
        variant=storm.variant,
        server=f"{_name(storm.server.binary)}, AOF always",
        faults=dict(sorted(storm.happened.items())),
        events=verdict.model.events,
        entries=len(appender.record),
        set_aside=set_aside,
        rolled_back=events_in(appender.rolled_back),
        again=appender.again,
        lost=sum(appender.lost.values()),
        commits=proxy.commits,
        takeovers=len(proxy.taken_over.took_s),
        takeover_p50_s=percentile_s(proxy.taken_over.took_s, 0.5),
        takeover_p99_s=percentile_s(proxy.taken_over.took_s, 0.99),
        heals=len(proxy.healed.took_s),
        heal_p50_s=percentile_s(proxy.healed.took_s, 0.5),
        heal_p99_s=percentile_s(proxy.healed.took_s, 0.99),
        idle_s=storm.idle_s,
        spans=len(storm.far_side.delivered),
        repeated=storm.far_side.repeated,
        invalid=[*shortfalls(happened, seconds, least), *_still_guarded(storm)],
        checks=checks,
    )


def _still_guarded(storm: Storm) -> list[str]:
    """Return what is wrong with a variant whose guard was never removed."""
    if storm.variant in EDITS_COMMIT and storm.proxy.guarded_commits:
        return [f"{storm.variant}: workers have run the commit script with every guard in it"]
    return []


def _name(binary: Path) -> str:
    found = locate_server(str(binary))
    return f"{found.flavour} {'.'.join(map(str, found.version))}"


def report(outcome: Outcome) -> str:
    """Return an outcome as a person reads it."""
    faults = ", ".join(f"{name} {count:,}" for name, count in outcome.faults.items())
    lines = [
        f"consuming storm of {outcome.seconds:g} s, seed {outcome.seed}, variant {outcome.variant}, {outcome.server}",
        f"  faults   {faults}",
        f"  events   {outcome.events:,} in {outcome.entries:,} entries on the streams in the end,",
        f"           {outcome.set_aside:,} places that must be set aside",
        f"           {outcome.rolled_back:,} events taken by rollbacks for good, {outcome.lost:,} said to be lost,",
        f"           {outcome.again:,} entries appended again",
        f"  commits  {outcome.commits:,}; after the last fault, idle within {outcome.idle_s:.1f} s",
        f"  takeover of {outcome.takeovers} units whose worker was killed (a lease is {LEASE_S:g} s):",
        f"           p50 {outcome.takeover_p50_s:.2f} s, p99 {outcome.takeover_p99_s:.2f} s",
        f"  healing  of {outcome.heals} units after the server came back:",
        f"           p50 {outcome.heal_p50_s:.2f} s, p99 {outcome.heal_p99_s:.2f} s",
        f"  spans    {outcome.spans:,} delivered, {outcome.repeated:,} of them again",
    ]
    lines += [
        f"  {'holds' if check.holds else 'FAILS'}    {check.name}: {check.what}"
        + "".join(f"\n             {text[:300]}" for text in check.against[:5])
        + (f"\n             ({len(check.against)} in all)" if check.against else "")
        for check in outcome.checks
    ]
    return "\n".join(lines + [f"  INVALID  {text}" for text in outcome.invalid])


def main() -> int:
    """Run one storm, and say how it went."""
    parser = argparse.ArgumentParser(prog="storms.consuming", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--variant", choices=["none", *FLAVOURS, *VARIANTS], default="none")
    parser.add_argument("--server", choices=server_kinds(), default="valkey")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    outcome = run(given.seed, given.seconds, given.variant, given.server)
    if given.json:
        print(msgspec.json.encode(dataclasses.asdict(outcome), enc_hook=msgspec.structs.asdict).decode())  # noqa: T201
    else:
        print(report(outcome))  # noqa: T201
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
