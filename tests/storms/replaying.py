"""The storm over replay: workers, replays and Redis are killed, frozen and rolled back while history is computed anew.

    python -m storms.replaying [--seed 1] [--seconds 60] [--server KIND] [--json]

An appender in this process puts a few thousand events a second on the streams, bad ones among them. Real workers count
and archive them, and trim at once what all have taken; two `sidestream replay run` compute another version meanwhile,
are killed and frozen, and begin another when one is ready. In the end the last version must be the live one, bit by
bit, twice; every identity must hold, and the archive must be whole. Exit codes: 0 everything holds, 1 a check fails,
2 the run is invalid: too few events, or too few faults to prove anything.
"""

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from storms.appending import Appender, events_in
from storms.oracle import Check
from storms.plan import shortfalls
from storms.world import OwnServer
from support import server_kinds

from pipeline.keys import Keys
from pipeline.scripting import script

NAMESPACE: Final = "storm"
PARTITIONS: Final = 4
HISTORY_S: Final = 2.0
"""Before the first replay: so that there is something to read."""

PATIENCE_S: Final = 30.0
"""How much longer a storm may take until every fault has happened once."""

CALM_S: Final = 3.0
TIMEOUT_S: Final = 120.0
LOOKS: Final = 8
"""How often equality is asked for at the end: the last commits may be under way."""

LEAST_A_MINUTE: Final = {
    "events": 15_000,
    "kill a worker": 3,
    "kill a replay": 5,
    "freeze a worker": 2,
    "freeze a replay": 2,
    "roll the server back": 1,
}
WEIGHTS: Final = {
    "kill a replay": 8,
    "kill a worker": 4,
    "freeze a replay": 2,
    "freeze a worker": 2,
    "roll the server back": 1,
}


@dataclass
class Outcome:
    """What a storm found."""

    seed: int
    seconds: float
    server: str
    happened: Mapping[str, int]
    invalid: Sequence[str]
    checks: Sequence[Check] = field(default_factory=list[Check])

    @property
    def failed(self) -> list[Check]:
        """The checks that something speaks against."""
        return [check for check in self.checks if not check.holds]

    @property
    def code(self) -> int:
        """The exit code."""
        return 2 if self.invalid else int(bool(self.failed))


class Storm:
    """One storm, in a folder of its own."""

    def __init__(self, folder: Path, seed: int, kind: str) -> None:
        self.happened: Counter[str] = Counter()
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._folder = folder
        self._server = OwnServer(folder, kind)
        self._url = f"unix://{self._server.socket}"
        self._appender = Appender(self._url, Keys(NAMESPACE), seed=seed, partitions=PARTITIONS, append=script("append"))
        self._environment = {
            **os.environ,
            "SIDESTREAM_NAMESPACE": NAMESPACE,
            "SIDESTREAM_REDIS_URL": self._url,
            "SIDESTREAM_ARCHIVE_URL": folder.joinpath("archive").as_uri(),
            "SIDESTREAM_ARCHIVE_SEGMENT_AGE": "1s",
            "SIDESTREAM_ARCHIVE_SEGMENT_BYTES": "20000",
            "SIDESTREAM_RETENTION": "0s",
        }
        self._workers: list[subprocess.Popen[bytes]] = []
        self._replays: list[subprocess.Popen[bytes]] = []

    def rage(self, seconds: float) -> None:
        """Let everything happen for so long, and on a busy machine until every fault has happened once."""
        self._appender.start()
        self._workers = [self._start("worker", "--handlers", "metrics,cost,archive") for _ in range(2)]
        time.sleep(HISTORY_S)
        self._server.remember()
        ends_s = time.monotonic() + seconds
        self._replays = [self._start("replay", "run") for _ in range(2)]
        wanting = [*WEIGHTS]
        while (now_s := time.monotonic()) < ends_s or (wanting and now_s < ends_s + PATIENCE_S):
            self._begin_again()
            name = wanting.pop(0) if wanting else self._dice.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
            if self._faults()[name]():
                self.happened[name] += 1
            elif not self.happened[name]:
                wanting.append(name)
            time.sleep(self._dice.uniform(0.2, 1.0))
        # What the last rollback took is sent again, as by producers that live.
        time.sleep(CALM_S)
        self._appender.stop()
        self.happened["events"] = events_in(self._appender.record)

    def judge(self) -> list[Check]:
        """Let everything come to its end, and hold the versions against each other."""
        self._end(self._replays)
        self._do("replay", "run")
        version = self._newest()
        checks = [
            Check("equal", "the replay is the live state, bit by bit", self._differences(version)),
            Check("identities", "every event that entered has a place", self._said("status", "broken")),
        ]
        self._do("replay", "swap", str(version))
        self._do("replay", "run")
        checks.append(Check("twice", "computed once more it is the same", self._differences(self._newest())))
        checks.append(Check("archive", "the archive is whole", self._findings()))
        return checks

    def close(self) -> None:
        """End everything."""
        self._appender.abandon()
        self._end([*self._replays, *self._workers])
        self._server.kill()

    # Faults

    def _faults(self) -> Mapping[str, Callable[[], bool]]:
        return {
            "kill a replay": lambda: self._kill(self._replays, "replay", "run"),
            "kill a worker": lambda: self._kill(self._workers, "worker", "--handlers", "metrics,cost,archive"),
            "freeze a replay": lambda: self._freeze(self._replays),
            "freeze a worker": lambda: self._freeze(self._workers),
            "roll the server back": self._roll_back,
        }

    def _kill(self, some: list[subprocess.Popen[bytes]], *command: str) -> bool:
        number = self._dice.randrange(len(some))
        was_there = some[number].poll() is None
        some[number].kill()
        some[number].wait()
        some[number] = self._start(*command)
        return was_there

    def _freeze(self, some: Sequence[subprocess.Popen[bytes]]) -> bool:
        one = self._dice.choice(some)
        if one.poll() is not None:
            return False
        one.send_signal(signal.SIGSTOP)
        time.sleep(self._dice.uniform(0.2, 2.0))
        one.send_signal(signal.SIGCONT)
        return True

    def _roll_back(self) -> bool:
        self._appender.pause()
        self._server.roll_back()
        self._appender.follow_rollback()
        self._appender.resume()
        self._server.remember()
        return True

    def _begin_again(self) -> None:
        """Where a replay has caught up, drop it and begin another."""
        ended = [number for number, one in enumerate(self._replays) if one.poll() is not None]
        if not ended:
            return
        self.happened["a replay caught up"] += 1
        self._drop_all()
        for number in ended:
            self._replays[number] = self._start("replay", "run")

    def _drop_all(self) -> None:
        for number in self._numbers():
            self._run("replay", "drop", str(number), "--yes")

    # Commands

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sidestream", *command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _end(self, some: Sequence[subprocess.Popen[bytes]]) -> None:
        for one in some:
            one.kill()
        for one in some:
            one.wait()

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sidestream", *command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def _do(self, *command: str) -> None:
        done = self._run(*command)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")

    def _json(self, *command: str) -> Any:  # noqa: ANN401 - a document of a command
        return json.loads(self._run(*command, "--json").stdout)

    def _numbers(self) -> list[int]:
        return [row["replay"]["number"] for row in self._json("replay", "status")["replays"]]

    def _newest(self) -> int:
        return max(self._numbers())

    def _differences(self, version: int) -> list[str]:
        found: dict[str, Any] = {}
        for _ in range(LOOKS):
            found = self._json("replay", "diff", str(version), "--bits")
            if found["equal"] or found["differences"]:
                break
            time.sleep(2.0)
        self.happened[f"fields of version {version} compared"] = found["fields"]
        if found["equal"]:
            return []
        return [*found["apart"], *(str(one) for one in found["differences"])] or ["nothing could be compared"]

    def _said(self, command: str, field_name: str) -> list[str]:
        return [str(one) for one in self._json(command)[field_name]]

    def _findings(self) -> list[str]:
        """Return what a check has against the archive; what a rollback left behind is no damage."""
        checked = self._json("archive", "verify")["checked"]
        return [str(one) for part in checked for one in part["findings"] if one["what"] == "damaged"]


def run(seed: int, seconds: float, server: str = "valkey") -> Outcome:
    """Let a storm rage, and judge it."""
    with tempfile.TemporaryDirectory(prefix="ss-") as folder:
        storm = Storm(Path(folder), seed, server)
        try:
            storm.rage(seconds)
            checks = storm.judge()
        except BaseException:
            sys.stderr.write((Path(folder) / "log").read_text("utf-8", "replace")[-5_000:])
            raise
        finally:
            storm.close()
        return Outcome(
            seed, seconds, server, storm.happened, shortfalls(storm.happened, seconds, LEAST_A_MINUTE), checks
        )


def report(outcome: Outcome) -> str:
    """Return what is to be read of a storm."""
    lines = [f"replaying storm of {outcome.seconds:g} s, seed {outcome.seed}, {outcome.server}"]
    lines += [f"  {name}: {count:,}" for name, count in sorted(outcome.happened.items())]
    lines += [f"  INVALID {text}" for text in outcome.invalid]
    for check in outcome.checks:
        lines.append(f"  {'holds  ' if check.holds else 'FAILS  '} {check.name}: {check.what}")
        lines += [f"             {text}" for text in check.against[:5]]
    return "\n".join(lines)


def main() -> int:
    """Run a storm as a command."""
    parser = argparse.ArgumentParser(prog="python -m storms.replaying", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--server", choices=server_kinds(), default="valkey")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outcome = run(options.seed, options.seconds, options.server)
    if options.json:
        print(msgspec.json.encode(dataclasses.asdict(outcome), enc_hook=msgspec.structs.asdict).decode())  # noqa: T201
    else:
        print(report(outcome))  # noqa: T201
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
