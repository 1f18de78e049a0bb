"""The command line, as an operator types it: in a process of its own, against a real server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support import spawned

from pipeline.connection import RedisSettings, Server
from pipeline.events import Resource, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import OpenOperation, Presence, PresenceWriter
from pipeline.stream import SealedFrame, append_command
from pipeline.wire import FrameEncoder

KEYS = Keys("cli")
NOW_US = time.time_ns() // 1_000
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """Return a server that holds two sessions' events, one malformed, all counted by a worker."""
    with spawned("valkey", "--maxmemory-policy", "noeviction") as server:
        client = Server(RedisSettings(server.url))
        good = [UsageEvent(NOW_US, f"agent-{n}", "gpt-4o", 100, 10, 2_000_000, f"s-{n}") for n in range(2)]
        frames = [
            SealedFrame(0, "ab" * 16, 0, 2, "mz", FrameEncoder(Resource(service="deckster")).encode(list(good))),
            SealedFrame(0, "ab" * 16, 2, 1, "json", b'{"events":[{"event":"telepathy","time_us":1}]}'),
        ]
        client.batch([append_command(KEYS.partition(0), frame, by_text=True) for frame in frames])
        client.close()
        run_worker_until(server.url, lambda: is_settled(run("status", "--json", url=server.url)[0]))
        yield server.url


def is_settled(status: dict[str, Any]) -> bool:
    """Return whether everything is counted and every rule has been evaluated."""
    return status["outstanding"] == 0 and len(status["alerts"]) == 2


def command(*arguments: str, url: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line and its environment: nothing of this process's own settings."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    place = {"SIDESTREAM_REDIS_URL": url, "SIDESTREAM_NAMESPACE": KEYS.namespace}
    return [sys.executable, "-m", "sidestream", *arguments], bare | place | environ


def typed(*arguments: str, url: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    line, env = command(*arguments, url=url, **environ)
    return subprocess.run(line, env=env, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def run(*arguments: str, url: str) -> tuple[dict[str, Any], int]:
    """Run a command with `--json`; return its document, with the events outstanding added, and its exit code."""
    done = typed(*arguments, url=url)
    document: dict[str, Any] = json.loads(done.stdout)
    accounts = document.get("accounts", [])
    document["outstanding"] = sum(account["outstanding"] for account in accounts) if accounts else -1
    return document, done.returncode


def run_worker_until(url: str, holds: Any) -> None:  # noqa: ANN401 - a predicate
    """Run a worker until something holds, then end it by SIGTERM, and see that it leaves well."""
    line, env = command("worker", url=url)
    process = subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert "Export is off" in errors


def test_status_is_whole_and_says_so(url: str) -> None:
    """Exit code 0, and a document with a schema."""
    document, code = run("status", "--json", url=url)
    assert (document["schema"], document["broken"], code) == ("sidestream.status/1", [], 0)
    said = " ".join(typed("status", url=url).stdout.split())
    assert "no worker: nothing waits, every event is accounted for" in said
    assert "Not in the figures: 1 dead-lettered" in said


def test_status_finds_what_vanished(url: str) -> None:
    """Exit code 1 and the place, when a counter does not fit."""
    client = Server(RedisSettings(url))
    counters = KEYS.partition(0).counters()
    client.call("HINCRBY", counters, "appended", 5)
    done = typed("status", url=url)
    client.call("HINCRBY", counters, "appended", -5)
    client.close()
    assert done.returncode == 1
    assert "metrics v1, partition 0: 5 events entered and are nowhere" in done.stdout


def test_status_tells_a_slow_call_from_one_that_died_with_its_producer(url: str) -> None:
    """The one grows older, of the other it says how long ago it was seen; the document has the ids of both."""
    keys = Keys("cli-open")
    client = Server(RedisSettings(url))
    started_us = time.time_ns() // 1_000 - 70_000_000
    for name in ("alive", "dead"):
        hang = OpenOperation("chat", name, started_us, kind="request", model="gpt-4o", operation_id=f"{name}-1")
        PresenceWriter(keys, name).write(client, Presence(name, service="deckster", open_operations=(hang,)))
    said_ms = int(client.call("HGET", keys.presence("dead"), "at_ms"))
    client.call("HSET", keys.presence("dead"), "at_ms", said_ms - 42_000)
    client.close()
    seen = typed("status", url=url, SIDESTREAM_NAMESPACE="cli-open").stdout
    alive, dead = (line for line in seen.splitlines() if "request gpt-4o" in line)
    assert "1 m 1" in alive
    assert " open " in alive
    assert " unknown  4" in dead
    assert " ago " in dead
    assert "its producer died with it" in seen
    document = json.loads(typed("status", "--json", url=url, SIDESTREAM_NAMESPACE="cli-open").stdout)
    assert [(row["state"], row["operation"]["operation_id"]) for row in document["in_flight"]] == [
        ("open", "alive-1"),
        ("unknown", "dead-1"),
    ]


def test_report_adds_up_and_has_a_schema(url: str) -> None:
    """The figures of two requests, by agent."""
    document, code = run("report", "--since", "1h", "--by", "agent", "--json", url=url)
    assert (document["schema"], code) == ("sidestream.report/1", 0)
    assert "agent-0" in typed("report", "--since", "1h", url=url).stdout


@pytest.mark.parametrize("by", ["agent", "state", "tenant", "session", "error"])
def test_report_breaks_down_by_every_kind_of_dimension(url: str, by: str) -> None:
    """Each prints a table in a narrow terminal too."""
    done = typed("report", "--by", by, url=url, COLUMNS="60")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if line.endswith(" ")], "padded with blanks"


def test_a_dead_letter_is_listed_and_shown(url: str) -> None:
    """With its place, its reason and its bytes; a letter that is not there is a finding."""
    document, _ = run("dlq", "ls", "--json", url=url)
    letter = document["dead_letters"][0]
    assert (letter["code"], letter["index"]) == ("unknown_kind", 0)
    shown = typed("dlq", "show", letter["letter_id"], url=url)
    assert "telepathy" in shown.stdout
    assert typed("dlq", "show", "1-1", url=url).returncode == 1


def test_a_replay_is_equal_and_can_be_dropped(url: str) -> None:
    """plan, run, status, diff, swap, rollback, drop: 0 all the way; a diff without a replay is a finding."""
    nothing = typed("replay", "diff", url=url)
    assert (nothing.returncode, nothing.stderr) == (
        1,
        "sidestream: there is no replay: `sidestream replay run` begins one\n",
    )
    assert "Nothing has been changed" in typed("replay", "plan", url=url).stdout
    ran = typed("replay", "run", url=url)
    assert (ran.returncode, "Version 2 has caught up" in ran.stdout) == (0, True), ran
    assert "has caught up" in typed("replay", "status", url=url).stdout
    equal = typed("replay", "diff", "--bits", url=url)
    assert (equal.returncode, equal.stdout.startswith("Equal, bit by bit")) == (0, True)
    assert "Nothing would change" in typed("replay", "diff", url=url).stdout
    assert "Version 2 answers for metrics, cost, all days." in typed("replay", "swap", url=url).stdout
    assert "Version 2 answers no more" in typed("replay", "rollback", url=url).stdout
    assert "Nothing has been changed; --yes does it." in typed("replay", "drop", url=url).stdout
    document, code = run("replay", "drop", "--yes", "--json", url=url)
    assert (document["schema"], document["done"], code) == ("sidestream.replay/2", True, 0)
    assert "There is no replay." in typed("replay", "status", url=url).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["plan", "--from", "yesterday"], 2, "--from 'yesterday': a day is written like 2026-11-01"),
        (["plan", "--from", "2026-11-03", "--to", "2026-11-01"], 2, "--to 2026-11-01 is before --from 2026-11-03"),
        (["run", "--handler", "alerts"], 2, "--handler 'alerts': nothing of it can be replayed"),
        (["swap", "7"], 1, "there is no replay of version 7; there are: none"),
        (["rollback"], 1, "nothing was swapped in"),
        (["drop", "1"], 1, "version 1 answers: nothing was swapped in instead of it"),
        (["drop", "9"], 1, "there is no version 9"),
    ],
)
def test_what_a_replay_cannot_do_is_said(url: str, arguments: list[str], code: int, sentence: str) -> None:
    """In one line, with what can be done instead."""
    done = typed("replay", *arguments, url=url)
    assert (done.returncode, sentence in done.stderr, "Traceback" in done.stderr) == (code, True, False), done


def test_alerts_are_listed(url: str) -> None:
    """The guide's rules, as the worker evaluated them."""
    document, code = run("alerts", "ls", "--json", url=url)
    assert ({row["rule"] for row in document["rules"]}, code) == ({"high-token-usage", "slow-operation"}, 0)


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "sentence"),
    [
        (["report", "--by", "moon"], {}, 2, "--by: 'moon' is none of agent, model, state, session"),
        (["report", "--since", "soon"], {}, 2, "--since: 'soon' is no duration"),
        (["worker", "--handlers", "metrics,magic"], {}, 2, "--handlers: there is no handler 'magic'"),
        (["status"], {"SIDESTREAM_NAMESPACE": "Not OK"}, 2, "SIDESTREAM_NAMESPACE"),
        (["status"], {"SIDESTREAM_REDIS_URL": "http://x"}, 2, "SIDESTREAM_REDIS_URL"),
        (["status"], {"SIDESTREAM_REDIS_URL": "redis://127.0.0.1:1/0"}, 3, "no connection to Redis"),
        (["status"], {"SIDESTREAM_LINGERMS": "5"}, 2, "did you mean SIDESTREAM_LINGER_MS"),
        (["worker"], {"LOGFIRE_TRACE_SAMPLE_RATE": "lots"}, 2, "LOGFIRE_TRACE_SAMPLE_RATE"),
    ],
)
def test_a_mistake_is_named_in_one_line(
    url: str, arguments: list[str], environ: dict[str, str], code: int, sentence: str
) -> None:
    """What is wrong and where, no traceback, and an exit code for scripts."""
    line, env = command(*arguments, url=url, **environ)
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[redis]\nurll = 'x'\n", "redis.urll: there is no such setting"),
        ("[[alert]]\nname = 'x'\nkind = 'moon'\nthreshold = 1\n", "[[alert]] 1 'x': kind"),
        ("[worker]\ngrace_s = -1\n", "worker.grace_s: -1"),
        ("[moon]\n", "there is no table [moon]"),
        ("= nonsense", "is not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(url: str, tmp_path: Path, text: str, sentence: str) -> None:
    """The worker reads its rules before it starts, and refuses a file it does not understand."""
    (tmp_path / "sidestream.toml").write_text(text)
    done = typed("worker", url=url, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "sidestream.toml" in done.stderr


def test_a_server_that_evicts_is_refused() -> None:
    """It would delete windows behind our back; the message says what to set."""
    with spawned("valkey", "--maxmemory-policy", "allkeys-lru") as server:
        done = typed("worker", url=server.url)
    assert done.returncode == 3
    assert "set maxmemory-policy noeviction" in done.stderr


def test_the_embedded_server_is_the_default_and_finds_its_data_again(tmp_path: Path) -> None:
    """Without any Redis a command starts one; an application's events of yesterday are still there."""
    publish = "import sidestream as s; s.configure(service='x'); s.usage('a', 'm', 1); print(s.close(5))"
    environ = {"SIDESTREAM_DATA_DIR": str(tmp_path / "data"), "SIDESTREAM_NAMESPACE": "cli"}
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | environ
    with_server = (
        "import subprocess, sys; from sidestream.embedded import hold\n"
        "with hold(): print(subprocess.run([sys.executable, '-c', sys.argv[1]], capture_output=True, text=True).stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", with_server, publish], env=bare, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "True"
    status = subprocess.run(
        [sys.executable, "-m", "sidestream", "status", "--json"], env=bare, capture_output=True, text=True, check=True
    )
    (producer,) = json.loads(status.stdout)["producers"]
    assert (producer["presence"]["appended"], producer["life"]) == (1, "closed")
