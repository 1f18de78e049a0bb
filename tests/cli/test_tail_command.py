"""`sidestream tail`, as an operator types it: against real servers, on a terminal, through a pipe, while Redis goes."""

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue
from typing import IO

import pytest
from rich.cells import cell_len
from storms.world import OwnServer
from support import Appender, server_kinds, spawned

from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.errors import UnknownOutcomeError, UnreachableError
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from sidestream.cli.look.tail_reading import Patience

KEYS = Keys("cli")
NOW_US = time.time_ns() // 1_000
TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
TIMEOUT_S = 60
PROGRAM = [sys.executable, "-m", "sidestream", "tail"]


@pytest.fixture
def url() -> Generator[str]:
    """Return an empty server."""
    with spawned("valkey", "--maxmemory-policy", "noeviction") as server:
        yield server.url


@pytest.fixture(params=server_kinds())
def own(request: pytest.FixtureRequest) -> Generator[OwnServer]:
    """Return a server that can be killed and started again."""
    with tempfile.TemporaryDirectory(prefix="ss-") as folder:
        server = OwnServer(Path(folder), request.param)
        yield server
        server.kill()


def environment(url: str, **more: str) -> dict[str, str]:
    """Return the environment without this process's own settings."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return bare | {"SIDESTREAM_REDIS_URL": url, "SIDESTREAM_NAMESPACE": KEYS.namespace} | more


def typed(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    line = [*PROGRAM, *arguments]
    return subprocess.run(line, env=environment(url), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def append(url: str, *frames: Sequence[Event], partition: int = 1) -> None:
    """Append frames, as a live producer does."""

    async def go() -> None:
        server = AsyncServer(RedisSettings(url))
        appender = Appender(server, KEYS)
        appender.producer = f"{time.time_ns():032x}"
        for frame in frames:
            await appender(frame, partition=partition)
        await server.aclose()

    asyncio.run(go())


def some() -> list[Event]:
    """Return an event of each kind."""
    return [
        UsageEvent(NOW_US, agent="writer", model="gpt-4o", input_tokens=1_200, output_tokens=34, duration_us=1_830_000),
        OperationEvent(NOW_US, name="writer", kind="run", duration_us=2_000_000, agent="writer", status="error"),
        TransitionEvent(NOW_US, from_state="a", to_state="b", session="s-1"),
        ErrorEvent(NOW_US, type="Oops\x1b[31m", message="it broke", agent="critic"),
    ]


def numbered(*numbers: int) -> list[list[Event]]:
    """Return frames of one request each, whose agents are numbered."""
    return [[UsageEvent(NOW_US + number, agent=f"a-{number}")] for number in numbers]


def agents(lines: list[str]) -> list[str]:
    """Return the agents of JSON lines."""
    return [json.loads(line)["agent"] for line in lines]


class Followed:
    """The command while it follows; what it says is read as it comes."""

    def __init__(self, url: str, *arguments: str) -> None:
        line = [*PROGRAM, *arguments]
        self.process = subprocess.Popen(
            line, env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.told: Queue[str] = Queue()
        self.said: Queue[str] = Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.told)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.said)),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: Queue[str]) -> None:
        for line in stream:
            lines.put(line.rstrip("\n"))

    def tell(self) -> str:
        """Return the next line of standard output."""
        return self.told.get(timeout=TIMEOUT_S)

    def say(self) -> str:
        """Return the next line of standard error."""
        return self.said.get(timeout=TIMEOUT_S)

    def interrupt(self) -> int:
        """Do what the terminal does for Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def followed(url: str, *arguments: str) -> Generator[Followed]:
    """Follow until the end of the test."""
    found = Followed(url, *arguments)
    try:
        yield found
    finally:
        found.close()


def on_terminal(width: int, *arguments: str, url: str, **environ: str) -> list[str]:
    """Return what a terminal of that width shows of a run to its end."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    env = environment(url, TERM="xterm-256color", **environ)
    process = subprocess.Popen([*PROGRAM, *arguments], env=env, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen, deadline = b"", time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            if select.select([screen], [], [], 0.1)[0]:
                seen += os.read(screen, 65_536)
    except OSError:
        pass  # how Linux says that nobody has the terminal any more
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    return seen.decode().split("\r\n")[:-1]


def test_a_pipe_gets_events_alone(url: str) -> None:
    """One a line, with its date; what would colour a terminal is text; the head goes to standard error."""
    append(url, some())
    done = typed("--since", "1h", url=url)
    assert done.returncode == 0
    usage, run, moved, error = (line.split(maxsplit=2)[2] for line in done.stdout.splitlines())
    assert " ".join(usage.split()) == "request writer deckster 1.2k 34 1.8 s gpt-4o"
    assert " ".join(run.split()) == "run writer deckster FAILED 2.0 s"
    assert " ".join(moved.split()) == "state s-1 deckster a → b"
    assert " ".join(error.split()) == "error critic deckster Oops\N{REPLACEMENT CHARACTER}[31m: it broke"
    head, columns = done.stderr.splitlines()
    assert head == f"Sidestream tail, cli  {TODAY}, UTC; all events; arrived within 1h"
    assert columns.startswith("TIME                     EVENT    AGENT ")
    assert typed("--since", "1h", "--json", url=url).stderr == ""


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_terminal_gets_lines_that_fit(url: str, width: int) -> None:
    """The head and the columns above; with wide names, too; nothing fills two lines."""
    append(url, [*some(), UsageEvent(NOW_US, agent="幻灯片作家" * 9, session="🎨" * 40, model="m" * 90)])
    head, *above, columns, usage, run, moved, error, wide = on_terminal(
        width, "-n", "9", "--no-follow", url=url, NO_COLOR="1"
    )
    assert " ".join([head, *above]).replace("\x1b[1m", "").replace("\x1b[0m", "").startswith("Sidestream tail, cli  ")
    lines = [
        line.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "") for line in (columns, usage, wide)
    ]
    assert [line.startswith(("TIME", "2")) for line in lines] == [True, True, True]
    assert all(cell_len(line) <= width for line in lines)
    assert "…" in wide
    assert ("gpt-4o" in usage, ":" in usage[:3], "deckster" in usage) == (width >= 80, True, width >= 140)
    assert ("FAILED" in run, "a → b" in moved, "Oops" in error) == (True, True, True)


def test_colours_are_the_terminals(url: str) -> None:
    """Red for what failed, bold for a transition; none for NO_COLOR."""
    append(url, some())
    *_, usage, run, moved, error = on_terminal(80, "--no-follow", url=url)
    assert [line.startswith("\x1b[31m") for line in (usage, run, moved, error)] == [False, True, False, True]
    assert moved.startswith("\x1b[1m")
    assert not any("\x1b[31m" in line for line in on_terminal(80, "--no-follow", url=url, NO_COLOR="1"))


def test_filters_leave_the_rest_out(url: str) -> None:
    """Of a history; what is no kind of event is refused, and all of them are named."""
    append(url, some())
    for options, kinds in (
        (("--errors",), ["operation", "error"]),
        (("--event", "usage", "--model", "gpt-4o"), ["usage"]),
        (("--event", "request", "--event", "run"), ["usage", "operation"]),
        (("--agent", "critic", "--agent", "nobody"), ["error"]),
        (("--state", "b"), ["transition"]),
        (("--session", "s-1", "--service", "deckster", "--environment", "test"), ["transition"]),
        (("--slow", "2s"), ["operation"]),
    ):
        told = typed("--json", "--since", "1h", *options, url=url).stdout.splitlines()
        assert [json.loads(line)["event"] for line in told] == kinds
    wrong = typed("--event", "dream", url=url)
    kinds = "request, run, tool, step, transition, error, usage, operation, state"
    assert (wrong.returncode, wrong.stderr) == (2, f"sidestream: --event: 'dream' is none of {kinds}\n")


def test_the_shell_offers_the_kinds_of_events() -> None:
    """As it does what `report --by` takes."""
    words = {"_SIDESTREAM_COMPLETE": "complete_bash", "COMP_WORDS": "sidestream tail --event tr", "COMP_CWORD": "3"}
    program = Path(sys.executable).parent / "sidestream"
    offered = subprocess.run([program], env=environment("", **words), capture_output=True, text=True, check=False)
    assert offered.stdout.split() == ["transition"]


def test_the_last_lines_come_first(url: str) -> None:
    """Of all partitions by arrival, of those that fit; ten where nobody says how many; none for 0."""
    for number in range(30):
        append(url, *numbered(number), partition=number % 4)
    json_of = ("--json", "--no-follow")
    assert agents(typed(*json_of, "-n", "3", url=url).stdout.splitlines()) == ["a-27", "a-28", "a-29"]
    assert agents(typed(*json_of, url=url).stdout.splitlines()) == [f"a-{n}" for n in range(20, 30)]
    two = typed(*json_of, "-n", "5", "--agent", "a-3", "--agent", "a-17", url=url)
    assert agents(two.stdout.splitlines()) == ["a-3", "a-17"]
    assert two.stderr == "sidestream: 2 of 30 events fit.\n"
    found = typed(*json_of, "-n", "1", "--agent", "a-3", url=url)
    assert (agents(found.stdout.splitlines()), found.stderr) == (["a-3"], "")
    assert agents(typed("--json", "--since", "1h", "-n", "2", url=url).stdout.splitlines()) == ["a-28", "a-29"]
    assert len(typed("--json", "--since", "1h", url=url).stdout.splitlines()) == 30
    assert typed(*json_of, "-n", "0", url=url).stdout == ""


def test_after_the_last_lines_it_goes_on(url: str) -> None:
    """Nothing twice and nothing left out between; Ctrl-C ends it with the shells' code."""
    append(url, *numbered(1, 2, 3))
    with followed(url, "--json", "-n", "2") as tail:
        assert agents([tail.tell(), tail.tell()]) == ["a-2", "a-3"]
        append(url, *numbered(4, 5), partition=2)
        assert agents([tail.tell(), tail.tell()]) == ["a-4", "a-5"]
        assert tail.interrupt() == 130


def test_reading_back_has_a_bound(url: str) -> None:
    """It is said where it was met."""
    append(url, *([UsageEvent(NOW_US, agent="a")] * 500 for _ in range(210)))
    done = typed("--no-follow", "--agent", "b", "--json", url=url)
    bound, fit = done.stderr.splitlines()
    assert bound.startswith("sidestream: Read back 100,000 events, to what arrived at ")
    assert fit == "sidestream: 0 of 100,000 events fit."


def test_it_says_why_it_shows_nothing(url: str) -> None:
    """A namespace that nobody knows; nothing that fits, with the filters; nothing within the time."""
    unknown = typed("--since", "1h", url=url)
    assert (unknown.returncode, unknown.stdout) == (0, "")
    assert "Nothing was ever published in namespace cli of this Redis." in unknown.stderr
    with followed(url, "--agent", "nobody") as tail:
        assert tail.say() == f"Sidestream tail, cli  {TODAY}, UTC; agent nobody; Ctrl-C ends it"
        assert tail.say().startswith("TIME ")
        assert tail.say().endswith("in namespace cli of this Redis; waiting for what comes.")
        append(url, some())
    with followed(url, "--agent", "nobody") as tail:
        said = [tail.say() for _ in range(3)]
        assert said[2] == "sidestream: 0 of 4 events fit; waiting for what comes."
    client = Server(RedisSettings(url))
    client.call("XTRIM", KEYS.partition(1).stream(), "MAXLEN", 0)
    client.close()
    assert "Nothing arrived in that time; the newest entry arrived " in typed("--since", "1h", url=url).stderr
    assert "Nothing is kept; the newest entry arrived " in typed("--no-follow", url=url).stderr


def test_what_cannot_be_read_is_said_beside(url: str) -> None:
    """On standard error, so that a pipe has events alone; the others of its entry are told."""
    client = Server(RedisSettings(url))
    two = {"events": [{"event": "usage", "time_us": 1, "agent": "a"}, {"event": "dream\n"}]}
    client.call("XADD", KEYS.partition(3).stream(), "*", "n", 2, "b", json.dumps(two))
    client.call("XADD", KEYS.partition(3).stream(), "*", "b", "no frame")
    client.close()
    done = typed("--json", "--since", "1h", url=url)
    assert agents(done.stdout.splitlines()) == ["a"]
    event, entry = done.stderr.splitlines()
    assert ", event 1 cannot be read: " in event
    assert " cannot be read: the body is no frame" in entry


async def test_what_comes_is_told_at_once_and_changes_nothing(url: str) -> None:
    """Until Ctrl-C; no group, no cursor and no key is made."""
    await asyncio.to_thread(append, url, some())
    client = Server(RedisSettings(url))
    before = sorted(client.call("KEYS", "*"))
    with followed(url, "--follow", "--since", "1h", "--json") as tail:
        found = [json.loads(tail.tell()) for _ in range(4)]
        body = json.dumps({"events": [{"event": "usage", "time_us": 1}]})
        client.call("XADD", KEYS.partition(3).stream(), "*", "b", body)
        assert json.loads(tail.tell())["id"].endswith("-0:3:0")
        assert [one["id"].partition(":")[2] for one in found] == [f"1:{n}" for n in range(4)]
        assert tail.interrupt() == 130
        assert (tail.told.empty(), tail.said.empty()) == (True, True)
    client.call("DEL", KEYS.partition(3).stream())
    assert sorted(client.call("KEYS", "*")) == before
    client.close()


def test_nobody_who_reads_ends_it(url: str) -> None:
    """`| head`: it ends, without a word and with 0."""
    append(url, *([UsageEvent(NOW_US, agent="a" * 100)] * 100 for _ in range(40)))
    for options in (("--since", "1h"), ("--since", "1h", "--json"), ("-n", "4000")):
        process = subprocess.Popen(
            [*PROGRAM, *options], env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert "sidestream: " not in process.stderr.read()
        process.stderr.close()
        assert process.wait(TIMEOUT_S) == 0


def test_a_full_disk_is_not_taken_for_a_reader_who_left(url: str) -> None:
    """It fails."""
    append(url, some())
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "--since", "1h"],
            env=environment(url),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode != 0
    assert "No space left on device" in done.stderr


def test_it_waits_for_a_redis_that_is_away(own: OwnServer) -> None:
    """It says so, and goes on where it was: what comes later is told once, what it has told is not told again."""
    url = f"unix://{own.socket}"
    append(url, *numbered(1, 2))
    with followed(url, "--json") as tail:
        assert agents([tail.tell(), tail.tell()]) == ["a-1", "a-2"]
        own.kill()
        assert tail.say().startswith("sidestream: Redis is away (no connection to Redis: ")
        own.restart()
        append(url, *numbered(3))
        assert agents([tail.tell()]) == ["a-3"]
        back = tail.say()
        assert back.startswith("sidestream: Redis is back after ")
        assert back.endswith("; going on where it was.")
        append(url, *numbered(4), partition=0)
        assert agents([tail.tell()]) == ["a-4"]
        assert tail.interrupt() == 130
        assert tail.said.empty()


async def test_the_embedded_server_is_brought_back() -> None:
    """While it does not answer, and not at the first failure; without `endless` the failure is the answer."""
    said: list[str] = []
    revived: list[int] = []
    failures = [UnreachableError("gone\n"), UnknownOutcomeError("gone"), UnreachableError("gone")]

    async def read() -> str:
        if failures:
            raise failures.pop()
        return "read"

    patience = Patience(said.append, lambda: revived.append(1), endless=True)
    assert await patience.ask(read) == "read"
    assert (patience.failed, len(revived), len(said)) == (True, 2, 2)
    assert said[0] == "Redis is away (gone); trying again."
    failures.append(UnreachableError("gone"))
    with pytest.raises(UnreachableError):
        await Patience(said.append, None, endless=False).ask(read)


def test_ctrl_c_ends_it_while_redis_is_away(own: OwnServer) -> None:
    """At once, with the shells' code."""
    with followed(f"unix://{own.socket}", "--json") as tail:
        assert "Nothing was ever published" in tail.say()
        own.kill()
        assert "Redis is away" in tail.say()
        began_s = time.monotonic()
        assert tail.interrupt() == 130
        assert time.monotonic() - began_s < 2


def unseen(own: OwnServer, tail: Followed, *commands: list[str | int]) -> None:
    """Do something to the server between its being back and the tail's knowing of it: the tail stands still."""
    own.kill()
    assert "Redis is away" in tail.say()
    tail.process.send_signal(signal.SIGSTOP)
    own.restart()
    url = f"unix://{own.socket}"
    append(url, *numbered(3, 4, 5))
    client = own.client()
    for command in commands:
        client.call(*command)
    client.close()
    append(url, *numbered(6))
    tail.process.send_signal(signal.SIGCONT)


def test_what_was_trimmed_meanwhile_is_said(own: OwnServer) -> None:
    """How many entries, exactly; and that it had told before is none of them."""
    append(f"unix://{own.socket}", *numbered(1, 2))
    with followed(f"unix://{own.socket}", "--json") as tail:
        assert agents([tail.tell(), tail.tell()]) == ["a-1", "a-2"]
        unseen(own, tail, ["XTRIM", KEYS.partition(1).stream(), "MAXLEN", 1])
        assert agents([tail.tell(), tail.tell()]) == ["a-5", "a-6"]
        assert "Redis is back" in tail.say()
        assert tail.say() == "sidestream: A gap: 2 entries of partition 1 went before they were read."


def test_what_was_trimmed_and_had_been_told_is_no_gap(own: OwnServer) -> None:
    """Though the stream begins behind the place where it was."""
    append(f"unix://{own.socket}", *numbered(1, 2))
    with followed(f"unix://{own.socket}", "--json") as tail:
        assert agents([tail.tell(), tail.tell()]) == ["a-1", "a-2"]
        unseen(own, tail, ["XTRIM", KEYS.partition(1).stream(), "MAXLEN", 3])
        assert agents([tail.tell() for _ in range(4)]) == ["a-3", "a-4", "a-5", "a-6"]
        assert "Redis is back" in tail.say()
        assert tail.interrupt() == 130
        assert tail.said.empty()


def test_a_stream_that_was_flushed_meanwhile_is_said(own: OwnServer) -> None:
    """Nobody can tell what was on it; what came behind is told."""
    append(f"unix://{own.socket}", *numbered(1, 2))
    with followed(f"unix://{own.socket}", "--json") as tail:
        assert agents([tail.tell(), tail.tell()]) == ["a-1", "a-2"]
        unseen(own, tail, ["FLUSHALL"])
        assert agents([tail.tell()]) == ["a-6"]
        assert "Redis is back" in tail.say()
        assert tail.say().startswith("sidestream: A gap: partition 1 began anew (flushed, ")


def test_a_history_fails_where_redis_goes(own: OwnServer) -> None:
    """Exit code 3: half of one looks like all of it."""
    url = f"unix://{own.socket}"
    append(url, *([UsageEvent(NOW_US, agent="a" * 190, model="m" * 190)] * 50 for _ in range(400)))
    with followed(url, "--since", "1h", "--json") as tail:
        tail.tell()
        tail.process.send_signal(signal.SIGSTOP)
        own.kill()
        tail.process.send_signal(signal.SIGCONT)
        assert tail.process.wait(TIMEOUT_S) == 3
        assert tail.say().startswith("sidestream: no ")
