"""`sidestream session`: what a reader sees of one session, and what a program gets."""

import io
import json
import os
import subprocess
import sys
import time

import pytest
from rich.cells import cell_len
from rich.console import Console
from support import Appender

from consumers.reader import StateReader
from consumers.views.timeline import TimelineFollower, read_session, stands
from pipeline.connection import AsyncServer
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys, partition_of
from sidestream.cli.look.one_session_text import session_text

S = 1_000_000
NOW_US = time.time_ns() // 1_000
HOSTILE = "evil\x1b[31m\n[red]\u202e" + "x" * 60


def happened(session: str) -> list[Event]:
    """Return what a short session tells."""
    at_us = NOW_US - 60 * S
    return [
        TransitionEvent(at_us, from_state="", to_state="draft", session=session),
        UsageEvent(at_us + 5 * S, "writer", "claude-sonnet-4-5", 26_700, 5_900, 4 * S, session, state="draft"),
        ErrorEvent(at_us + 6 * S, type="ToolError", message="it broke", agent="writer", session=session),
        OperationEvent(at_us + 7 * S, "writer", "run", 6 * S, "error", "writer", "ToolError", session=session),
        TransitionEvent(at_us + 8 * S, from_state="draft", to_state="review", duration_us=8 * S, session=session),
    ]


async def lines_of(server: AsyncServer, keys: Keys, session: str, width: int, most: int = 50) -> list[str]:
    """Return what is printed for a terminal of a width."""
    look = await read_session(StateReader(server, keys, 4), TimelineFollower(server, keys, session))
    out = Console(file=io.StringIO(), width=width, highlight=False)
    out.print(session_text(look, stands(look, [], []), [], width=width, most=most))
    file = out.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
async def test_what_happened_stands_in_lines_of_their_own(
    server: AsyncServer, keys: Keys, append: Appender, width: int
) -> None:
    """The newest first; what has no room goes, and never what happened."""
    await append(happened("deck-1"), partition=partition_of("deck-1", 4))
    lines = await lines_of(server, keys, "deck-1", width)
    assert all(cell_len(line) <= width for line in lines)
    assert lines[0].startswith("Sidestream session  deck-1  active")
    rows = [line for line in lines if " transition " in line or " run " in line or " request " in line]
    assert [row.split()[1] for row in rows] == ["transition", "run", "request", "transition"]
    assert width < 60 or any("failed" in row for row in rows)
    assert ("26.7k" in rows[2]) is (width >= 80)
    assert width < 60 or any(line.split()[:1] == ["review"] and line.endswith("goes on") for line in lines)


async def test_of_many_events_the_newest_are_listed(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """How many there were besides is said."""
    await append(happened("deck-1"), partition=partition_of("deck-1", 4))
    text = " ".join(await lines_of(server, keys, "deck-1", 80, most=2))
    assert "draft → review" in text
    assert "begins → draft" not in text
    assert "3 earlier events not shown" in text


async def test_names_are_text(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Nothing that a terminal would obey."""
    await append(happened(HOSTILE), partition=partition_of(HOSTILE, 4))
    text = "\n".join(await lines_of(server, keys, HOSTILE, 80))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "ToolError" in text


async def test_the_command_prints_text_or_one_document(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """0 for what is known, 1 for what nobody knows, 2 for what is no id."""
    await append(happened("deck-1"), partition=partition_of("deck-1", 4))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = ["--redis-url", redis_url, "--namespace", keys.namespace]
        command = [sys.executable, "-m", "sidestream", "session", *arguments, *where]
        bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(command, capture_output=True, text=True, env=bare, check=False, timeout=60)

    answer = run("deck-1")
    assert (answer.returncode, "ToolError: it broke" in answer.stdout) == (0, True)
    document = json.loads(run("deck-1", "--json").stdout)
    assert (document["schema"], document["session"], len(document["events"])) == ("sidestream.session/1", "deck-1", 5)
    assert (document["stands"]["standing"], document["stands"]["state"]) == ("active", "review")
    nobody = run("nobody")
    assert (nobody.returncode, "Nothing that is open" in nobody.stdout) == (1, True)
    assert run("x" * 201).returncode == 2
