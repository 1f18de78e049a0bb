"""`sidestream top` in a terminal, as a person keeps it open; completion; what the overview says."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from support import spawned
from typer.testing import CliRunner

from sidestream.cli.app import app

TIMEOUT_S = 30
PROGRAM = [sys.executable, "-m", "sidestream"]


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """Return an empty server."""
    with spawned("valkey", "--maxmemory-policy", "noeviction") as server:
        yield server.url


def environment(**more: str) -> dict[str, str]:
    """Return the environment without this process's own settings."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return bare | {"TERM": "xterm-256color", "SIDESTREAM_NAMESPACE": "cli"} | more


def read_until(screen: int, wanted: bytes) -> bytes:
    """Read what a program draws until something is among it."""
    seen, deadline = b"", time.monotonic() + TIMEOUT_S
    while wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([screen], [], [], 0.1)[0]:
            seen += os.read(screen, 65_536)
    return seen


def press_q(screen: int, _: subprocess.Popen[bytes]) -> None:
    """Press q."""
    os.write(screen, b"q")


def interrupt(_: int, process: subprocess.Popen[bytes]) -> None:
    """Do what the terminal does for Ctrl-C."""
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("end", [press_q, interrupt])
def test_top_leaves_the_terminal_as_it_was(url: str, end: Callable[[int, subprocess.Popen[bytes]], None]) -> None:
    """On a screen of its own, drawn anew as time passes; exit code 0, and the terminal's settings are back."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    before = termios.tcgetattr(terminal)
    line = [*PROGRAM, "top", "--every", "1s", "--redis-url", url]
    process = subprocess.Popen(line, env=environment(), stdin=terminal, stdout=terminal, stderr=terminal)
    try:
        drawn = read_until(screen, b"q ends it")
        assert b"\x1b[?1049h" in drawn
        assert b"Sidestream top" in drawn
        read_until(screen, b"q ends it")
        end(screen, process)
        left = read_until(screen, b"\x1b[?1049l")
        assert b"Traceback" not in left
        assert process.wait(TIMEOUT_S) == 0
        assert termios.tcgetattr(terminal) == before
    finally:
        process.kill()
        process.wait()
        os.close(screen)
        os.close(terminal)


def typed(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    line = [*PROGRAM, *arguments]
    return subprocess.run(
        line, env=environment(**environ), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def test_top_through_a_pipe_is_one_look(url: str) -> None:
    """Plain text without a control character, or one document."""
    done = typed("top", SIDESTREAM_REDIS_URL=url, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Sidestream top  ")
    assert "\x1b" not in done.stdout
    assert json.loads(typed("top", "--json", SIDESTREAM_REDIS_URL=url).stdout)["schema"] == "sidestream.top/1"


def test_states_as_a_command(url: str) -> None:
    """A document; what is asked wrongly is refused by name."""
    assert json.loads(typed("states", "--json", SIDESTREAM_REDIS_URL=url).stdout)["schema"] == "sidestream.states/1"
    refused = typed("states", "--compare", "1", "2", SIDESTREAM_REDIS_URL=url)
    assert (refused.returncode, "--compare: version '1' did nothing" in refused.stderr) == (2, True)


def test_the_shell_is_told_how_to_complete() -> None:
    """The script for bash has the program's name, and what it asks for is answered."""
    program = Path(sys.executable).parent / "sidestream"
    asked = subprocess.run(
        [program, "--show-completion", "bash"], env=environment(), capture_output=True, text=True, check=True
    )
    assert "complete -o default -F _sidestream_completion sidestream" in asked.stdout
    words = {"_SIDESTREAM_COMPLETE": "complete_bash", "COMP_WORDS": "sidestream report --by te", "COMP_CWORD": "3"}
    offered = subprocess.run([program], env=environment(**words), capture_output=True, text=True, check=False)
    assert offered.stdout.split() == ["tenant"]


def test_the_overview_groups_the_commands() -> None:
    """What looks, what runs, what mends, what is about history."""
    overview = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}).stdout
    places = [overview.index(f"─ {panel} ─") for panel in ("Look", "Run", "Mend", "History")]
    assert places == sorted(places)
    assert overview.index(" top ") < places[1] < overview.index(" worker ") < places[2] < overview.index(" dlq ")
