"""`sidestream backfill`, as an operator types it: against a real server that keeps its data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from feeding import write_lines
from support import Appender, server_binary, spawned

from consumers.archive.archive import SegmentArchive
from consumers.archive.store import ArchiveStore
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.segments import Archived
from pipeline.wire import StoredEntry

KEYS = Keys("cli")
NOW_US = time.time_ns() // 1_000
DAY_US = 86_400_000_000
TIMEOUT_S = 60


@pytest.fixture
def url() -> Generator[str]:
    """Return an empty server."""
    with spawned("valkey", "--maxmemory-policy", "noeviction") as server:
        yield server.url


def command(*arguments: str, url: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    """Return a command line and its environment."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    place = {"SIDESTREAM_REDIS_URL": url, "SIDESTREAM_NAMESPACE": KEYS.namespace}
    return [sys.executable, "-m", "sidestream", *arguments], bare | place | environ


def typed(*arguments: str, url: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    line, env = command(*arguments, url=url, **environ)
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def lines(number: int, **more: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any field
    """Return lines of requests of yesterday."""
    return [{"event": "usage", "time_us": NOW_US - DAY_US + n, "session": f"s-{n % 50}", **more} for n in range(number)]


def test_a_file_is_fed_and_the_same_again_changes_nothing(url: str, tmp_path: Path) -> None:
    """What it takes is said before, what became of it behind; users are as secret as those of live events."""
    path = write_lines(tmp_path / "a.jsonl", lines(1_000, user="ada"))
    done = typed("backfill", str(path), url=url, SIDESTREAM_USER_KEY="k" * 16)
    assert (done.returncode, done.stderr) == (0, "")
    found, days, ledger, fed = done.stdout.splitlines()
    assert found.startswith(f"{path}: JSON lines, ")
    assert days.startswith("1,000 events of ")
    assert ledger.startswith("Their ledger takes at most ")
    assert fed == "Fed 1,000 events: 1,000 new, 0 known."
    again = json.loads(typed("backfill", str(path), "--json", url=url).stdout)
    assert (again["schema"], again["new"], again["known"], again["bad"]) == ("sidestream.backfill/1", 0, 1_000, 0)
    told = typed("tail", "--json", "--since", "1h", url=url).stdout.splitlines()
    assert len(told) == 1_000
    assert {json.loads(line)["user"] != "ada" for line in told} == {True}
    assert json.loads(told[0])["origin"] == "backfill"


def test_a_dry_run_changes_nothing_and_says_what_is_bad(url: str, tmp_path: Path) -> None:
    """By file and number, twenty of them; the others are counted."""
    path = tmp_path / "a.csv"
    good = f"usage,{NOW_US - DAY_US},7\n"
    path.write_text("event,time_us,input_tokens\n" + good + "usage,yesterday,7\n" * 25)
    done = typed("backfill", str(path), "--dry-run", url=url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"{path}:3: time_us: Expected `int`, got `str`"
    assert done.stderr.splitlines()[20:] == ["and 5 lines more that cannot be taken"]
    assert "Nothing has been changed" in done.stdout
    assert Server(RedisSettings(url)).call("DBSIZE") == 0
    assert list(tmp_path.iterdir()) == [path]
    done = typed("backfill", str(path), url=url)
    assert done.returncode == 1
    assert f"Set aside, to be mended and fed: {tmp_path / 'a.bad.csv'}" in done.stdout
    assert (tmp_path / "a.bad.csv").read_text().splitlines()[:2] == ["event,time_us,input_tokens", "usage,yesterday,7"]


async def append_live(url: str) -> None:
    """Append an event of each kind, as a live producer does."""
    server = AsyncServer(RedisSettings(url))
    some: list[Event] = [
        UsageEvent(NOW_US, agent="writer", model="gpt-4o", input_tokens=1_200, output_tokens=34, duration_us=1_830_000),
        OperationEvent(NOW_US, name="writer", kind="run", duration_us=2_000_000, agent="writer", status="error"),
        TransitionEvent(NOW_US, from_state="a", to_state="b", session="s-1"),
        ErrorEvent(NOW_US, type="Oops\x1b[31m", message="it broke", agent="critic"),
    ]
    await Appender(server, KEYS)(some, partition=1)
    await server.aclose()


async def test_an_hour_that_was_captured_live_is_refused(url: str, tmp_path: Path) -> None:
    """By its name; what `tail` wrote of it is there already, and goes in where it is not."""
    await append_live(url)
    path = tmp_path / "a.jsonl"
    path.write_text(typed("tail", "--json", "--since", "1h", url=url).stdout)
    done = typed("backfill", str(path), url=url)
    assert done.returncode == 1
    assert "4 events of these are of hours that were captured live: " in done.stderr
    assert json.loads(typed("backfill", str(path), "--json", url=url).stdout)["refused"] is True
    held = typed("backfill", str(path), "--only-missing", url=url)
    assert (held.returncode, held.stdout.splitlines()[-1]) == (0, "Fed 4 events: 0 new, 0 known, 4 here already.")
    other = typed("backfill", str(path), "--namespace", "other", url=url)
    assert other.stdout.splitlines()[-1] == "Fed 4 events: 4 new, 0 known."


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        (("a.csv",), "event,moment\n", "there is no column 'moment'; known are event, id, service, "),
        (("a.csv",), "event\n", "column 'time_us' is missing"),
        (("a.csv",), "", "the file is empty"),
        (("missing.jsonl",), None, "cannot be read: No such file"),
        (("a.csv", "--rate", "0"), "event,time_us\n", "--rate"),
    ],
)
def test_what_is_typed_wrongly_is_said(
    url: str, tmp_path: Path, arguments: tuple[str, ...], content: str | None, said: str
) -> None:
    """With exit code 2, before anything is fed."""
    if content is not None:
        (tmp_path / arguments[0]).write_text(content)
    done = typed("backfill", str(tmp_path / arguments[0]), *arguments[1:], url=url)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_run_and_its_server_are_killed_and_the_next_goes_on(tmp_path: Path) -> None:
    """`kill -9` of both in the middle: what the server still has is known, the rest goes in, nothing twice."""
    folder = Path(tempfile.mkdtemp(prefix="ss-"))
    url, total = f"unix://{folder}/s", 12_000
    path = write_lines(tmp_path / "a.jsonl", lines(total))
    server = serve(folder)
    line, env = command("backfill", str(path), "--rate", "4000", url=url)
    run = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Server(RedisSettings(url))
        until_s = time.monotonic() + TIMEOUT_S
        while appended(client) < 3_000 and time.monotonic() < until_s:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        server.kill()
        server.wait()
        client.close()
        server = serve(folder)
        before = appended(client)
        assert 0 < before < total
        done = json.loads(typed("backfill", str(path), "--json", url=url).stdout)
        assert (done["new"], done["known"]) == (total - before, before)
        assert json.loads(typed("backfill", str(path), "--json", url=url).stdout)["known"] == total
        client.close()
    finally:
        run.kill()
        run.wait()
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def serve(folder: Path) -> subprocess.Popen[bytes]:
    """Start a server that keeps its data in a folder, and wait until it answers."""
    options = ["--port", "0", "--unixsocket", str(folder / "s"), "--dir", str(folder), "--appendonly", "yes"]
    line = [str(server_binary("valkey")), *options, "--appendfsync", "always", "--save", "", "--logfile", "log"]
    process = subprocess.Popen(line)
    client = Server(RedisSettings(f"unix://{folder}/s"))
    until_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until_s:
        try:
            client.call("PING")
            break
        except Exception:  # noqa: BLE001 - it is not there yet
            time.sleep(0.02)
    client.close()
    return process


def appended(client: Server) -> int:
    """Return how many events are on the streams."""
    replies = client.batch([["HGET", KEYS.partition(number).counters(), "appended"] for number in range(4)])
    return sum(int(reply or 0) for reply in replies if not isinstance(reply, Exception))


async def test_the_archive_tells_what_was_trimmed(url: str, tmp_path: Path) -> None:
    """Where the stream and the fence have forgotten it."""
    await append_live(url)
    path = tmp_path / "a.jsonl"
    path.write_text(typed("tail", "--json", "--since", "1h", url=url).stdout)
    client = Server(RedisSettings(url))
    partition = KEYS.partition(1)
    [(entry_id, flat)] = client.call("XRANGE", partition.stream(), "-", "+")
    entry = StoredEntry(entry_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))
    store = ArchiveStore((tmp_path / "archive").as_uri(), KEYS.namespace)
    await SegmentArchive(store).put(1, [Archived(entry, NOW_US, NOW_US)])
    client.call("DEL", partition.fence("ab" * 16))
    client.call("XTRIM", partition.stream(), "MAXLEN", 0)
    client.call("HSET", partition.counters(), "trimmed", 4)
    client.close()
    archive = {"SIDESTREAM_ARCHIVE_URL": store.url}
    done = typed("backfill", str(path), "--only-missing", "--json", url=url, **archive)
    assert (json.loads(done.stdout)["held"], json.loads(done.stdout)["new"]) == (4, 0)
