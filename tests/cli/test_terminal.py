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
from typing import Self

import pytest
from support import spawned
from typer.testing import CliRunner

from sidestream.cli.app import app

TIMEOUT_S = 30
PROGRAM = [sys.executable, "-m", "sidestream"]
OTHER_SCREEN, OWN_SCREEN, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


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


class Terminal:
    """A command in a terminal of its own: what it draws, what is pressed, what its process is told."""

    def __init__(self, *arguments: str, keyboard: bool = True, **environ: str) -> None:
        self.screen, self.terminal = pty.openpty()
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.terminal)
        # A group of its own, as a shell makes one for a command: only such a one can be stopped from the keyboard.
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env=environment(**environ),
            stdin=self.terminal if keyboard else subprocess.DEVNULL,
            stdout=self.terminal,
            stderr=self.terminal,
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)
        os.close(self.terminal)

    def until(self, wanted: bytes) -> bytes:
        """Read what is drawn until something is among it."""
        return read_until(self.screen, wanted)

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.screen, keys)

    def is_stopped(self) -> bool:
        """Wait until the process has stopped; False if it ended instead."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        return os.WIFSTOPPED(status)

    def is_as_before(self) -> bool:
        """Tell whether the terminal's settings are those of before."""
        return termios.tcgetattr(self.terminal) == self.before


def top_in_a_terminal(url: str, *, keyboard: bool = True, **environ: str) -> Terminal:
    """Keep `top` open."""
    return Terminal("top", "--every", "1s", "--redis-url", url, keyboard=keyboard, **environ)


def press_q(terminal: Terminal) -> None:
    """Press q."""
    terminal.press(b"q")


def interrupt(terminal: Terminal) -> None:
    """Do what the terminal does for Ctrl-C."""
    terminal.process.send_signal(signal.SIGINT)


def quit_at_once(terminal: Terminal) -> None:
    r"""Do what the terminal does for Ctrl-\."""
    terminal.process.send_signal(signal.SIGQUIT)


@pytest.mark.parametrize("end", [press_q, interrupt, quit_at_once])
def test_top_leaves_the_terminal_as_it_was(url: str, end: Callable[[Terminal], None]) -> None:
    """On a screen of its own, drawn anew as time passes; exit code 0, and the terminal's settings are back."""
    with top_in_a_terminal(url) as terminal:
        drawn = terminal.until(b"q ends it")
        assert OTHER_SCREEN in drawn
        assert b"Sidestream top" in drawn
        terminal.until(b"q ends it")
        end(terminal)
        left = terminal.until(OWN_SCREEN)
        assert CURSOR in left
        assert b"Traceback" not in left
        assert terminal.process.wait(TIMEOUT_S) == 0
        assert terminal.is_as_before()


def test_a_stopped_top_gives_the_terminal_back_and_takes_it_again(url: str) -> None:
    """Ctrl-Z: the shell's screen, its cursor, its keys; `fg`: ours, drawn anew, and q still ends it."""
    with top_in_a_terminal(url) as terminal:
        terminal.until(b"q ends it")
        assert not terminal.is_as_before()
        terminal.process.send_signal(signal.SIGTSTP)
        assert CURSOR in terminal.until(OWN_SCREEN)
        assert terminal.is_stopped()
        assert terminal.is_as_before()
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(OTHER_SCREEN)
        terminal.until(b"q ends it")
        assert not terminal.is_as_before()
        terminal.press(b"q")
        terminal.until(OWN_SCREEN)
        assert terminal.process.wait(TIMEOUT_S) == 0
        assert terminal.is_as_before()


def test_keys_of_top(url: str) -> None:
    """Each is told by the foot; arrows are none."""
    with top_in_a_terminal(url) as terminal:
        terminal.until(b"Looks every 1 s; q ends it, p pauses")
        terminal.press(b"?")
        terminal.until(b"^L redraw")
        terminal.press(b"?-")
        terminal.until(b"Looks every 2 s")
        terminal.press(b"-")
        terminal.until(b"Looks every 5 s")
        terminal.press(b"++")
        terminal.until(b"Looks every 1 s")
        terminal.press(b" ")
        terminal.until(b"Paused at")
        terminal.press(b"\x0c")
        terminal.until(b"\x1b[2J")
        terminal.until(b"Paused at")
        terminal.press(b"\x1bOq\x1b[Dp")
        terminal.until(b"Looks every 1 s")
        terminal.press(b"Q")
        assert terminal.process.wait(TIMEOUT_S) == 0


def test_without_a_keyboard_no_key_is_promised(url: str) -> None:
    """Ctrl-C ends it."""
    with top_in_a_terminal(url, keyboard=False) as terminal:
        drawn = terminal.until(b"Ctrl-C ends it")
        assert b"q ends it" not in drawn
        interrupt(terminal)
        terminal.until(OWN_SCREEN)
        assert terminal.process.wait(TIMEOUT_S) == 0


def test_a_terminal_that_cannot_be_drawn_on_gets_one_look(url: str) -> None:
    """As a pipe does."""
    with top_in_a_terminal(url, TERM="dumb") as terminal:
        drawn = terminal.until(b"Pipeline")
        assert terminal.process.wait(TIMEOUT_S) == 0
        assert b"Sidestream top" in drawn
        assert b"\x1b" not in drawn


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


def test_states_of_a_range(url: str) -> None:
    """One that has ended, too; what it cannot be narrowed by, and what is no range, is refused by name."""
    done = typed("states", "--from", "2026-01-01", "--until", "2026-01-02T12:00", SIDESTREAM_REDIS_URL=url)
    assert (done.returncode, done.stdout[:52]) == (0, "Sidestream states  2026-01-01 00:00 to 2026-01-03 00")
    refused = typed("states", "--agent", "writer", SIDESTREAM_REDIS_URL=url)
    assert (refused.returncode, "transitions carry no agent" in refused.stderr) == (2, True)
    for command in ("states", "report"):
        refused = typed(command, "--since", "1h", "--from", "2026-01-01", SIDESTREAM_REDIS_URL=url)
        assert (refused.returncode, "--since and --from" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", ["top", "report", "states"])
def test_no_terminal_is_too_narrow(url: str, command: str) -> None:
    """Below 30 columns it is drawn for these."""
    done = typed(command, SIDESTREAM_REDIS_URL=url, COLUMNS="10")
    assert (done.returncode, done.stderr) == (0, "")
    assert 10 < max(map(len, done.stdout.splitlines())) <= 30


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
