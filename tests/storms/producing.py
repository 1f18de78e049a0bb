"""The storm over the producing side: applications, forks and Redis are killed and frozen, and an oracle keeps count.

    python -m storms.producing [--seed 1] [--seconds 120] [--variant NAME] [--server KIND] [--json]

What happens when is decided by the seed before it begins; how far each process has come by then is chance. The oracle
is this process, which is never killed. Exit codes: 0 everything holds, 1 a check fails, 2 the run is invalid: too few
events, or too few faults to prove anything.
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
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from storms.application import PARTITIONS
from storms.oracle import Check, Stored, Verdict, read_events, read_evidence
from storms.plan import Fault, plan, shortfalls
from storms.resp_proxy import Fate, FaultProxy
from storms.variants import VARIANTS
from storms.world import START_S, Applications, OwnServer
from support import server_kinds

from pipeline.errors import SidestreamError
from pipeline.keys import Keys
from sidestream.embedded import locate_server

APPLICATIONS: Final = 4
NAMESPACE: Final = "storm"
CLOSE_S: Final = 60.0
FORK_WITHIN_S: Final = 1.0
"""How long the killer of a fork waits for one."""

RATES: Final[dict[Fate, float]] = {"refuse": 0.04, "drop_reply": 0.03, "cut_before": 0.01, "delay": 0.01}
SMALL_BUFFER: Final = 200
"""Events that some applications without a spool hold at most: an outage makes them refuse."""


@dataclass
class Outcome:
    """What a storm found."""

    seed: int
    seconds: float
    variant: str
    server: str
    faults: Mapping[str, int]
    offered: int
    taken: int
    refused: int
    stored: int
    died_in_memory: int
    lost: int
    lost_unsaid: int
    forks: int
    confirmed: Mapping[str, int]
    calls: int
    call_p999_us: float
    call_max_us: float
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
    """One storm: a server, a proxy, applications, and what is done to them.

    Args:
        folder: Of its own.
        seed: Of everything that is decided.
        variant: The guard that applications do without; `none` removes none.
        kind: Which server.
    """

    def __init__(self, folder: Path, seed: int, variant: str, kind: str) -> None:
        self.variant = variant
        self.happened: Counter[str] = Counter()
        self.rolled_back: list[Stored] = []
        self.keys = Keys(NAMESPACE)
        self.server = OwnServer(folder, kind)
        self.proxy = FaultProxy(folder / "proxy", self.server.socket, seed)
        self.proxy.start()
        self.spool = folder / "spool"
        self.applications = Applications(
            {
                "SIDESTREAM_REDIS_URL": f"unix://{folder / 'proxy'}",
                "SIDESTREAM_NAMESPACE": NAMESPACE,
                "SIDESTREAM_LINGER_MS": "20",
                "SIDESTREAM_PARTITIONS": str(PARTITIONS),
            },
            variant,
            folder / "log",
        )
        self._dice = random.Random(seed + 1)  # noqa: S311 - repeatable on purpose
        self._started = 0
        self._does: Mapping[str, Callable[[float], None]] = {
            "kill an application": self._kill_application,
            "kill a fork": self._kill_fork,
            "freeze an application": self._freeze_application,
            "freeze a fork": self._freeze_fork,
            "freeze the server": self._freeze_server,
            "kill the server": lambda _: self.server.restart(),
            "remember the server": lambda _: self.server.remember(),
            "roll the server back": self._roll_back,
            "fill the server": self._fill,
            "forget scripts": lambda _: self._command("SCRIPT", "FLUSH"),
            "cut connections": lambda _: self._command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        }

    def start_application(self) -> None:
        """Start one more; every second has a spool, every fourth a buffer that is soon full."""
        self._started += 1
        more = {"SIDESTREAM_SPOOL_DIR": str(self.spool)} if self._started % 2 else {}
        if self._started % 4 == 0:
            more["SIDESTREAM_BUFFER_EVENTS"] = str(SMALL_BUFFER)
        self.applications.start(f"app{self._started}", self._dice.getrandbits(32), **more)

    def rage(self, faults: Sequence[Fault]) -> None:
        """Let everything happen."""
        self.applications.start("witness", self._dice.getrandbits(32), "witness")
        for _ in range(APPLICATIONS):
            self.start_application()
        deadline_s = time.monotonic() + START_S
        while sum(process.offered > 0 for process in list(self.applications.testimony.processes.values())) <= 1:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the applications did not begin: {self.applications.exceptions()}")
            time.sleep(0.01)
        self.proxy.rates = RATES
        for fault in faults:
            time.sleep(fault.after_s)
            if self._possible(fault.name):
                self._does[fault.name](fault.lasts_s)
                self.happened[fault.name] += 1

    def _possible(self, name: str) -> bool:
        """Return whether there is what it takes: a copy to go back to, a fork that lives, soon at least."""
        if name == "roll the server back":
            return self.server.remembers
        deadline_s = time.monotonic() + FORK_WITHIN_S
        while name.endswith("a fork") and not self.applications.forks():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.01)
        return True

    def calm(self) -> list[str]:
        """End all faults, let everyone close, and send what the dead left; return who did not end well."""
        self.proxy.rates = {}
        self.happened.update(self.proxy.happened)
        failed = self.applications.close(CLOSE_S)
        failed += self.applications.outlive_forks(CLOSE_S)
        deadline_s = time.monotonic() + CLOSE_S
        while self._has_spool():
            # One that comes later finds what was not yet free when the one before it looked.
            self._started += 1
            self.applications.start(f"last{self._started}", 0, "last", SIDESTREAM_SPOOL_DIR=str(self.spool))
            time.sleep(1.5)
            failed += self.applications.close(CLOSE_S)
            if time.monotonic() > deadline_s:
                return [*failed, "the spool is not empty"]
        return failed

    def _has_spool(self) -> bool:
        return any(self.spool.glob("*/*.spool"))

    def _victim(self) -> str:
        return self._dice.choice(sorted(set(self.applications.living) - {"witness"}))

    def _kill_application(self, _: float) -> None:
        self.applications.kill(self._victim())
        self.start_application()

    def _freeze_application(self, lasts_s: float) -> None:
        name = self._victim()
        self.applications.signal(name, signal.SIGSTOP)
        time.sleep(lasts_s)
        if self._dice.random() < 0.3:
            self.applications.kill(name)
            self.start_application()
        else:
            self.applications.signal(name, signal.SIGCONT)

    def _kill_fork(self, _: float) -> None:
        self._signal_fork(signal.SIGKILL)

    def _freeze_fork(self, lasts_s: float) -> None:
        name = self._signal_fork(signal.SIGSTOP)
        time.sleep(lasts_s)
        self.applications.signal_fork(name, signal.SIGCONT)

    def _signal_fork(self, number: signal.Signals) -> str:
        name = self._dice.choice(sorted(self.applications.forks()))
        self.applications.signal_fork(name, number)
        return name

    def _freeze_server(self, lasts_s: float) -> None:
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(lasts_s)
        self.server.process.send_signal(signal.SIGCONT)

    def _fill(self, lasts_s: float) -> None:
        self._command("CONFIG", "SET", "maxmemory", "1mb")
        time.sleep(lasts_s)
        self._command("CONFIG", "SET", "maxmemory", "0")

    def _roll_back(self, _: float) -> None:
        """Put the server back, knowing to the event what it had and what it has afterwards."""
        self.proxy.hold()
        before = self._events()
        self.server.roll_back()
        after = set(self._events())
        self.rolled_back += [stored for stored in before if stored not in after]
        self.proxy.release()

    def _events(self) -> list[Stored]:
        with contextlib.closing(self.server.client()) as client:
            return read_events(client, self.keys, PARTITIONS)

    def _command(self, *words: str) -> None:
        with contextlib.closing(self.server.client()) as client, contextlib.suppress(SidestreamError):
            client.call(*words)

    def judge(self) -> tuple[Verdict, list[Check]]:
        """Hear everyone out, look at the server, and judge."""
        self.applications.hear_out()
        with contextlib.closing(self.server.client()) as client:
            evidence = read_evidence(client, self.keys, PARTITIONS)
        verdict = Verdict(self.applications.testimony, evidence, self.rolled_back, self.applications.closed)
        return verdict, verdict.checks()

    def end(self) -> None:
        """End every process."""
        for name in list(self.applications.living):
            self.applications.kill(name)
        self.applications.hear_out()
        self.proxy.stop()
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
    with raging(seed, variant, kind) as storm:
        storm.rage(plan(seed, seconds))
        failed = storm.calm()
        verdict, checks = storm.judge()
        ended = Check("ended", "every process that was let live ended well", failed)
        raised = Check("raised", "nothing was raised in any process", storm.applications.exceptions())
        return _outcome(storm, verdict, [*checks, ended, raised], seed=seed, seconds=seconds)


def _outcome(storm: Storm, verdict: Verdict, checks: Sequence[Check], *, seed: int, seconds: float) -> Outcome:
    testimony = storm.applications.testimony
    calls, p999_ns, longest_ns = testimony.calls
    counted = sum(fence.lost for fence in verdict.evidence.fences.values())
    told = Counter({name: testimony.total(name) for name in ("taken", "refused")})
    happened = storm.happened + testimony.confirmed() + told
    return Outcome(
        seed=seed,
        seconds=seconds,
        variant=storm.variant,
        server=f"{_name(storm.server.binary)}, AOF always",
        faults=dict(sorted(storm.happened.items())),
        offered=sum(process.offered for process in testimony.processes.values()),
        taken=testimony.total("taken"),
        refused=testimony.total("refused"),
        stored=len(verdict.evidence.events),
        died_in_memory=verdict.died_in_memory,
        lost=counted,
        lost_unsaid=len(verdict.truly_lost) - counted,
        forks=sum("f" in name for name in testimony.processes),
        confirmed=testimony.confirmed(),
        calls=calls,
        call_p999_us=p999_ns / 1000,
        call_max_us=longest_ns / 1000,
        invalid=shortfalls(happened, seconds),
        checks=checks,
    )


def _name(binary: Path) -> str:
    found = locate_server(str(binary))
    return f"{found.flavour} {'.'.join(map(str, found.version))}"


def report(outcome: Outcome) -> str:
    """Return an outcome as a person reads it."""
    faults = ", ".join(f"{name} {count}" for name, count in outcome.faults.items())
    lines = [
        f"storm of {outcome.seconds:g} s, seed {outcome.seed}, variant {outcome.variant}, {outcome.server}",
        f"  faults   {faults}, forks {outcome.forks}",
        f"  events   {outcome.offered:,} offered, {outcome.taken:,} taken, {outcome.refused:,} refused",
        f"           {outcome.stored:,} stored in the end",
        f"           {outcome.died_in_memory:,} died in memory, {outcome.lost:,} lost by the server and counted,",
        f"           {outcome.lost_unsaid:,} lost by the server at the end of a producer that never spoke again",
        f"  flushes  that said appended: {outcome.confirmed['appended']}, spooled: {outcome.confirmed['spooled']}",
        f"  calls    {outcome.calls:,} timed, in a process that is left alone",
        f"           p99.9 {outcome.call_p999_us:,.0f} us, slowest {outcome.call_max_us:,.0f} us",
    ]
    lines += [
        f"  {'holds' if check.holds else 'FAILS'}    {check.name}: {check.what}"
        + "".join(f"\n             {text}" for text in check.against[:5])
        + (f"\n             ({len(check.against)} in all)" if check.against else "")
        for check in outcome.checks
    ]
    return "\n".join(lines + [f"  INVALID  {text}" for text in outcome.invalid])


def main() -> int:
    """Run one storm, and say how it went."""
    parser = argparse.ArgumentParser(prog="storms.producing", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--variant", choices=["none", *VARIANTS], default="none")
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
