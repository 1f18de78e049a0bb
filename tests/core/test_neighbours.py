"""The collision guard: another package named like one of ours is named, with the way out."""

import subprocess
import sys
from pathlib import Path

import pytest

from sidestream._neighbours import check_neighbours


def test_the_installed_neighbours_pass() -> None:
    """Nothing is said of a whole installation."""
    check_neighbours()


@pytest.mark.parametrize("name", ["pipeline", "producers", "consumers"])
def test_an_application_with_a_package_of_that_name_is_told(tmp_path: Path, name: str) -> None:
    """`import sidestream` says which package hides ours, where it is and what to do."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import sidestream"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert name in last
    assert str(tmp_path / name) in last
    assert "Rename that package" in last


def test_a_module_of_that_name_is_told(tmp_path: Path) -> None:
    """A single file hides ours as well as a folder."""
    (tmp_path / "pipeline.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import sidestream"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert str(tmp_path / "pipeline.py") in done.stderr


def test_a_missing_neighbour_is_told(tmp_path: Path) -> None:
    """A neighbour elsewhere than beside the package is another's."""
    with pytest.raises(ImportError, match="pipeline"):
        check_neighbours(tmp_path)


def test_importing_sidestream_loads_no_client_and_no_sdk() -> None:
    """The import costs neither redis nor anyio, and none of the extras."""
    code = (
        "import sys, sidestream; "
        "print(*sorted({'redis','anyio','asyncio','logfire','pydantic','opentelemetry','genai_prices','consumers'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
