"""What `import sidestream` costs an application, in a fresh process; beside it what the peers' imports cost.

Two views: what `-X importtime` counts for the import itself (it slows the import a little), and how much longer a
process lives that imports it than one that does not.
"""

import importlib.util
import re
import statistics
import subprocess
import sys
import time
from typing import Final

from benchmarks.harness import ROOT, Run, main

PEERS: Final = ("redis", "logfire", "langfuse", "faststream")
_LINE: Final = re.compile(r"^import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)$", re.MULTILINE)


def measure(run: Run) -> None:
    """Import each in fresh processes, in turn, so that a disturbance meets all alike."""
    rounds = run.sized(15, 1)
    run.configuration = {"rounds": rounds, "bytecode": "cached: one import before the first round"}
    names = ["sidestream"]
    for peer in PEERS:
        if importlib.util.find_spec(peer) is None:
            run.skip(peer, "not installed")
        else:
            names.append(peer)
    for name in names:
        _process_s(f"import {name}")
    counted: dict[str, list[float]] = {name: [] for name in names}
    added: dict[str, list[float]] = {name: [] for name in names}
    modules: dict[str, int] = {}
    for _ in range(rounds):
        bare_s = _process_s("pass")
        for name in names:
            added[name].append((_process_s(f"import {name}") - bare_s) * 1000)
            took_ms, modules[name] = _counted(name)
            counted[name].append(took_ms)
    bare = _modules("pass")
    for name in names:
        limit = "msgspec, contextvars and logging; redis and zstandard wait for the publisher's thread"
        why = limit if name == "sidestream" else ""
        run.figure(f"import {name}, median", statistics.median(counted[name]), "ms", rounds, limited_by=why)
        run.figure(f"import {name}, best", min(counted[name]), "ms", rounds)
        run.figure(f"import {name}, longer life of the process", statistics.median(added[name]), "ms", rounds)
        run.figure(
            f"import {name}, modules loaded beyond a bare interpreter's", modules[name] - bare, "modules", rounds
        )


def _process_s(code: str) -> float:
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started_s


def _counted(name: str) -> tuple[float, int]:
    found = _importtime(f"import {name}")
    return next(int(took_us) for took_us, module in reversed(found) if module == name) / 1000, len(found)


def _modules(code: str) -> int:
    return len(_importtime(code))


def _importtime(code: str) -> list[tuple[str, str]]:
    command = [sys.executable, "-X", "importtime", "-c", code]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return _LINE.findall(answer.stderr)


if __name__ == "__main__":
    sys.exit(main("import_time", __doc__, measure))
