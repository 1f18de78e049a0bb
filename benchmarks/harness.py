"""What every benchmark shares: its command line, what it ran on, its one JSON line.

Keeps:
- A run that measured nothing, too little, or something else than it says is `valid: false` and exits with 1; a quick
  run (for tests) says so and cannot be saved.
- A figure is never printed without its unit and how many samples it rests on; whether its target is met is computed
  here and nowhere else.
"""

import argparse
import datetime as dt
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

SCHEMA: Final = "sidestream.benchmark/1"
ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results.jsonl"

PACKAGES: Final = (
    "sidestream",
    "anyio",
    "fastapi",
    "faststream",
    "hiredis",
    "langfuse",
    "logfire",
    "msgspec",
    "opentelemetry-sdk",
    "pydantic-ai-slim",
    "redis",
    "uvicorn",
    "zstandard",
)
"""Ours and the peers': what a figure may change with."""

Plain: TypeAlias = str | int | float | bool | None


class Figure(Struct, frozen=True):
    """One number: what it is, what it rests on, what it should be, and what keeps it from being better."""

    name: str
    value: float
    unit: str
    samples: int
    target: float | None = None
    target_is: Literal["at_most", "at_least"] = "at_most"
    met: bool | None = None
    limited_by: str = ""


class Machine(Struct, frozen=True):
    """What a run ran on; `load_1m` is the load average before it began: a busy machine shows."""

    cpu: str
    cores: int
    system: str
    python: str
    load_1m: float


class Line(Struct, frozen=True):
    """One run, as it is printed and saved."""

    schema: str
    question: str
    valid: bool
    invalid_because: list[str]
    quick: bool
    at: str
    commit: str
    uncommitted_changes: bool
    machine: Machine
    versions: dict[str, str | None]
    server: str
    configuration: dict[str, Plain]
    figures: list[Figure]
    skipped: dict[str, str]


class Run:
    """Collects what one benchmark finds.

    Args:
        question: The benchmark's name.
        quick: Measure next to nothing: only to see that everything works.
    """

    def __init__(self, question: str, *, quick: bool) -> None:
        self.question = question
        self.quick = quick
        self.server = "none"
        self.configuration: dict[str, Plain] = {}
        self.figures: list[Figure] = []
        self._skipped: dict[str, str] = {}
        self._wrong: list[str] = []
        self._machine = _machine()

    def sized(self, whole: int, quick: int) -> int:
        """Return how much to do: `whole` in a measurement, `quick` in a quick run."""
        return quick if self.quick else whole

    def figure(self, name: str, value: float, unit: str, samples: int, *, limited_by: str = "") -> None:
        """Note a number that has no target."""
        self.figures.append(Figure(name, _rounded(value), unit, samples, limited_by=limited_by))

    def at_most(  # noqa: PLR0913 - each names a field of the figure
        self, target: float, name: str, value: float, unit: str, samples: int, *, limited_by: str
    ) -> None:
        """Note a number that should not be above its target."""
        met = value <= target
        self.figures.append(Figure(name, _rounded(value), unit, samples, target, "at_most", met, limited_by))

    def at_least(  # noqa: PLR0913 - each names a field of the figure
        self, target: float, name: str, value: float, unit: str, samples: int, *, limited_by: str
    ) -> None:
        """Note a number that should not be below its target."""
        met = value >= target
        self.figures.append(Figure(name, _rounded(value), unit, samples, target, "at_least", met, limited_by))

    def skip(self, what: str, reason: str) -> None:
        """Say that something was not measured, and why."""
        self._skipped[what] = reason
        say(f"  {what}: skipped, {reason}")

    def require(self, holds: bool, otherwise: str) -> None:
        """Make the run invalid unless something holds."""
        if not holds:
            self._wrong.append(otherwise)

    def line(self) -> Line:
        """Return the run as it is printed; here it is decided whether it counts."""
        wrong = list(self._wrong)
        if not self.figures:
            wrong.append("nothing was measured")
        wrong += [f"{figure.name}: no samples" for figure in self.figures if figure.samples <= 0]
        wrong += [f"{figure.name}: no number" for figure in self.figures if not math.isfinite(figure.value)]
        commit, changed = _commit()
        return Line(
            schema=SCHEMA,
            question=self.question,
            valid=not wrong,
            invalid_because=wrong,
            quick=self.quick,
            at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            commit=commit,
            uncommitted_changes=changed,
            machine=self._machine,
            versions={name: _version(name) for name in PACKAGES},
            server=self.server,
            configuration=self.configuration,
            # JSON has no infinity: such a figure has made the run invalid already.
            figures=[figure for figure in self.figures if math.isfinite(figure.value)],
            skipped=self._skipped,
        )


def main(question: str, about: str | None, measure: Callable[[Run], None]) -> int:
    """Run one benchmark as a command: figures for people on stderr, the JSON line on stdout.

    Args:
        question: Its name.
        about: What it asks; the module's docstring.
        measure: Fills the run.

    Returns:
        0, or 1 if the run is invalid.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{question}", description=about)
    parser.add_argument("--quick", action="store_true", help="next to nothing, to see that it works")
    parser.add_argument("--save", action="store_true", help=f"append the line to {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.quick and options.save:
        parser.error("a quick run measures nothing: it cannot be saved")
    say(f"{question}{' (quick: no measurement)' if options.quick else ''}")
    run = Run(question, quick=options.quick)
    measure(run)
    line = run.line()
    _show(line)
    encoded = msgspec.json.encode(line).decode()
    print(encoded)
    if options.save and line.valid:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(encoded + "\n")
    return 0 if line.valid else 1


def say(text: str) -> None:
    """Tell the person who waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0-1) of the values do not exceed; NaN of none.

    Args:
        ordered: The values, smallest first.
        share: 0.5 for the median.
    """
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _show(line: Line) -> None:
    for figure in line.figures:
        verdict = ""
        if figure.target is not None:
            wanted = "≤" if figure.target_is == "at_most" else "≥"
            verdict = f"   target {wanted} {figure.target:g}: {'met' if figure.met else 'NOT met'}"
        say(f"  {figure.name}: {figure.value:,.6g} {figure.unit} (n={figure.samples:,}){verdict}")
    for reason in line.invalid_because:
        say(f"  INVALID: {reason}")


def _rounded(value: float) -> float:
    """Keep five significant digits: none of these measurements knows more."""
    return float(f"{value:.5g}")


def _machine() -> Machine:
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        system=platform.platform(terse=True),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        load_1m=round(os.getloadavg()[0], 2),
    )


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> tuple[str, bool]:
    commit, changes = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", ".")
    return commit or "unknown", bool(changes) or not commit


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
