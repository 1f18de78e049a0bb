"""Benchmarks: each runs, says what it ran on, and an empty or failed run never counts."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.harness import SCHEMA, Line, Run, quantile
from benchmarks.write_up import TITLES, last_runs, page

ROOT = Path(__file__).parents[2]

KEYS = {
    "schema",
    "question",
    "valid",
    "invalid_because",
    "quick",
    "at",
    "commit",
    "uncommitted_changes",
    "machine",
    "versions",
    "server",
    "configuration",
    "figures",
    "skipped",
}


def measured() -> Run:
    """Return a run with one figure that misses its target."""
    run = Run("call", quick=False)
    run.configuration = {"partitions": 4}
    run.at_most(1_000, "usage(), p50", 1_200, "ns", 400, limited_by="the interpreter | its lock")
    return run


@pytest.mark.parametrize("question", sorted(TITLES))
def test_a_benchmark_prints_one_line_of_json(question: str) -> None:
    """With everything that a reader needs to judge its figures, and its progress elsewhere."""
    command = [sys.executable, "-m", f"benchmarks.{question}", "--quick"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("\n") == 1
    assert set(msgspec.json.decode(answer.stdout)) == KEYS
    line = msgspec.json.decode(answer.stdout, type=Line)
    assert (line.schema, line.question, line.quick, line.valid) == (SCHEMA, question, True, True)
    assert all(figure.samples > 0 and figure.unit is not None for figure in line.figures)
    assert all(figure.limited_by for figure in line.figures if figure.target is not None)
    assert line.machine.cores > 0
    assert line.configuration
    assert last_runs(answer.stdout) == [], "a quick run is no measurement"


def test_a_quick_run_cannot_be_saved() -> None:
    """Its figures mean nothing, and would stand in the write-up."""
    command = [sys.executable, "-m", "benchmarks.import_time", "--quick", "--save"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 2
    assert "cannot be saved" in answer.stderr


def test_an_empty_run_is_invalid() -> None:
    """Nothing measured is not green."""
    line = Run("call", quick=False).line()
    assert not line.valid
    assert line.invalid_because == ["nothing was measured"]


@pytest.mark.parametrize(("value", "samples"), [(1.0, 0), (float("nan"), 10), (float("inf"), 10)])
def test_a_figure_that_rests_on_nothing_makes_its_run_invalid(value: float, samples: int) -> None:
    """No samples, or no number."""
    run = measured()
    run.figure("another", value, "ns", samples)
    assert not run.line().valid


def test_a_run_that_did_something_else_is_invalid() -> None:
    """A benchmark that finds events missing says so, and keeps its figures out of the page."""
    run = measured()
    run.require(False, otherwise="of 10 calls 9 were appended")
    line = run.line()
    assert line.invalid_because == ["of 10 calls 9 were appended"]
    assert last_runs(msgspec.json.encode(line).decode()) == []


def test_a_quantile_is_one_of_the_values() -> None:
    """The smallest that at least so many do not exceed."""
    ordered = [float(n) for n in range(1, 1001)]
    assert [quantile(ordered, share) for share in (0.5, 0.99, 0.999, 1.0)] == [500, 990, 999, 1000]
    assert quantile([7.0], 0.5) == 7.0


def test_the_page_shows_the_last_run_and_the_target_it_misses() -> None:
    """Met or not, with what limits it, and the configuration it was measured with."""
    older, newer = measured(), measured()
    older.figures.clear()
    older.figure("an older figure", 1, "ns", 1)
    text = "\n".join(msgspec.json.encode(run.line()).decode() for run in (older, newer))
    written = page(last_runs(text))
    assert "| usage(), p50 | 1,200 ns | 400 | ≤ 1,000 | **no** | the interpreter \\| its lock |" in written
    assert "- partitions: 4" in written
    assert "an older figure" not in written
