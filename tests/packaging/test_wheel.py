"""The wheel as an application installs it: bare, into an empty environment, beside modules of its own."""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from support import RealServer

ROOT = Path(__file__).parent.parent.parent
EXTRAS = (
    "logfire",
    "pydantic",
    "opentelemetry",
    "starlette",
    "uvicorn",
    "jinja2",
    "genai_prices",
    "httpx",
    "rich",
    "typer",
    "pyarrow",
)
PUBLISH = f"""
import json, sys
import sidestream
telemetry = sidestream.configure(service="bare", namespace="bare")
with sidestream.session_context("s-1", "u-1"):
    ok = sidestream.usage("writer", "gpt-4o", 1200, 340)
flushed = sidestream.flush(10)
sidestream.close(5)
found = [name for name in {EXTRAS!r} if name in sys.modules]
print(json.dumps({{"ok": ok, "flushed": flushed, "imported": found}}))
"""


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it, without any extra, into an environment of its own; return its Python."""
    folder = tmp_path_factory.mktemp("bare")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("sidestream-*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel]
    subprocess.run([str(part) for part in pip], check=True, capture_output=True)
    return python


def run(python: Path, folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the bare environment's Python in a folder."""
    command = [str(python), *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.xdist_group("wheel")
def test_a_bare_install_publishes_and_brings_nothing_else(bare: Path, tmp_path: Path, real_server: RealServer) -> None:
    """Four packages are enough to publish, and none of the extras is there or imported."""
    done = run(bare, tmp_path, "-c", PUBLISH, SIDESTREAM_REDIS_URL=real_server.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"ok": True, "flushed": True, "imported": []}
    names = run(bare, tmp_path, "-m", "pip", "list", "--format=json", "--disable-pip-version-check").stdout
    installed = {package["name"].lower().replace("-", "_") for package in json.loads(names)}
    assert {"sidestream", "msgspec", "redis", "hiredis", "zstandard", "anyio"} <= installed
    assert not installed & set(EXTRAS)


@pytest.mark.xdist_group("wheel")
def test_the_command_line_without_its_extra_says_which_to_install(bare: Path, tmp_path: Path) -> None:
    """One sentence and exit code 2 instead of a traceback."""
    done = run(bare, tmp_path, "-m", "sidestream", "worker")
    assert done.returncode == 2
    assert "pip install 'sidestream[worker]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.xdist_group("wheel")
def test_an_application_with_a_pipeline_of_its_own_is_told_so(bare: Path, tmp_path: Path) -> None:
    """A module of the application that hides ours is named, with its path and the way out."""
    (tmp_path / "pipeline.py").write_text("stages = []\n")
    done = run(bare, tmp_path, "-c", "import sidestream")
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert str(tmp_path / "pipeline.py") in done.stderr


@pytest.mark.xdist_group("wheel")
def test_the_wheel_is_typed_and_carries_its_scripts(bare: Path, tmp_path: Path) -> None:
    """py.typed stands in every package, and the Lua scripts are beside the code."""
    look = (
        "import importlib.resources as r;"
        "print([(r.files(p) / 'py.typed').is_file() for p in ('sidestream', 'pipeline', 'producers', 'consumers')],"
        "(r.files('pipeline') / 'scripts' / 'append.lua').is_file())"
    )
    assert run(bare, tmp_path, "-c", look).stdout.strip() == "[True, True, True, True] True"


@pytest.mark.xdist_group("wheel")
def test_the_wheel_carries_the_files_of_the_page(bare: Path, tmp_path: Path) -> None:
    """Every template, style sheet and script of the repository, byte for byte; and only those."""
    folder = ROOT / "sidestream" / "dashboard"
    expected = {
        f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for part in ("templates", "assets")
        for file in (folder / part).iterdir()
    }
    look = (
        "import hashlib, importlib.resources as r, json; f = r.files('sidestream') / 'dashboard';"
        "print(json.dumps({p + '/' + x.name: hashlib.sha256(x.read_bytes()).hexdigest()"
        " for p in ('templates', 'assets') for x in (f / p).iterdir()}))"
    )
    assert json.loads(run(bare, tmp_path, "-c", look).stdout) == expected
    assert len(expected) >= 14


@pytest.mark.xdist_group("wheel")
def test_applications_type_check_strictly_against_the_wheel(bare: Path, tmp_path: Path) -> None:
    """The examples, where nothing of the repository is, find every name and its type in what is installed."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    found = _type_check(bare, tmp_path)
    assert found["summary"]["errorCount"] == found["summary"]["warningCount"] == 0, found["generalDiagnostics"]
    assert found["summary"]["filesAnalyzed"] >= len(list((tmp_path / "examples").rglob("*.py")))


@pytest.mark.xdist_group("wheel")
def test_a_wrong_call_does_not_type_check_against_the_wheel(bare: Path, tmp_path: Path) -> None:
    """Without this the test before would pass where nothing has a type."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "app.py").write_text("import sidestream\nsidestream.usage(1, 'm')\nsidestream.use()\n")
    found = _type_check(bare, tmp_path)
    assert {problem["rule"] for problem in found["generalDiagnostics"]} >= {
        "reportArgumentType",
        "reportAttributeAccessIssue",
    }


def _type_check(python: Path, folder: Path) -> dict[str, Any]:
    """Run the type checker over `folder/examples`: ours from the wheel, third parties from this environment."""
    settings = {
        "include": ["examples"],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportMissingTypeStubs": False,
        "venvPath": str(python.parents[2]),
        "venv": python.parents[1].name,
        # An editable install is a line in a file there, which is not read from here: only the wheel has our names.
        "extraPaths": [sysconfig.get_path("purelib")],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run(Path(sys.executable), folder, "-m", "basedpyright", "--outputjson", "-p", str(folder))
    return json.loads(done.stdout)
