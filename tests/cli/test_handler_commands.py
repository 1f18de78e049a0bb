"""`sidestream handler` and `purge`, as an operator types them: what is shown, what is refused, what goes."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest
from support import Appender, spawned

from consumers.handlers.metrics import MetricsHandler
from consumers.replay.beginning import Asked
from consumers.replay.running import replay_until_idle
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.versions import ALL_DAYS
from pipeline.connection import AsyncServer, RedisSettings, Server, parse_info
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from pipeline.presence import Presence, PresenceWriter
from pipeline.scripting import script

NOW_US = time.time_ns() // 1_000
DAY_MS = 24 * 3_600_000
TIMEOUT_S = 60
KEYS, OTHER = Keys("cli"), Keys("cli-2")


@pytest.fixture(scope="module")
def own_url() -> Generator[str]:
    """Spawn a server for this module."""
    with spawned("valkey", "--maxmemory-policy", "noeviction") as server:
        yield server.url


@pytest.fixture
def url(own_url: str) -> str:
    """Return a server with two namespaces whose names begin alike; `cli` has a replay that no document knows of."""

    async def fill() -> None:
        server = AsyncServer(RedisSettings(own_url))
        await server.call("FLUSHALL")
        for keys in (KEYS, OTHER):
            await Appender(server, keys)([UsageEvent(NOW_US, agent="writer", model="gpt-4o", session="s")])
            fold = FoldEffect(MetricsHandler())
            await Worker(server, keys, [fold]).run_until_idle()
            await replay_until_idle(server, keys, 4, Asked([fold], ALL_DAYS))
            await server.call("DEL", keys.versions())
        append = Appender(server, KEYS)
        append.producer = "cd" * 16
        await append([UsageEvent(NOW_US, agent="writer", model="gpt-4o", session="s")])
        await server.aclose()

    asyncio.run(fill())
    return own_url


@pytest.fixture
def server(url: str) -> Generator[Server]:
    """Return a client of that server."""
    client = Server(RedisSettings(url))
    yield client
    client.close()


def typed(*arguments: str, url: str, namespace: str = "cli") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ = bare | {"SIDESTREAM_REDIS_URL": url, "SIDESTREAM_NAMESPACE": namespace}
    line = [sys.executable, "-m", "sidestream", *arguments]
    return subprocess.run(line, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON document that a command printed."""
    return json.loads(done.stdout)


def keys_of(server: Server, keys: Keys) -> set[bytes]:
    """Return the keys of a namespace."""
    return {key for key in server.call("KEYS", "*") if keys.owns(key.decode())}


def test_handlers_are_listed_with_what_they_hold(url: str) -> None:
    """Each version apart; a table for people, a document with a schema for machines."""
    found = document(typed("handler", "ls", "--json", url=url))
    assert (found["schema"], found["as_of_ms"] > 0) == ("sidestream.handlers/1", True)
    rows = [(row["handler"], row["version"], row["kind"], row["partitions"]) for row in found["handlers"]]
    assert rows == [("metrics", 1, "fold", 4), ("metrics", 2, "replay", 4)]
    first = found["handlers"][0]
    assert (first["entries"], first["lag"], first["skipped"], first["since_ms"]) == (1, 1, 0, 0)
    assert first["bytes"] > 0
    shown = typed("handler", "ls", url=url)
    assert shown.returncode == 0
    assert "metrics v2" in shown.stdout
    assert "the beginning" in shown.stdout
    assert "None is declared yet" in typed("handler", "ls", url=url, namespace="empty").stdout


def test_a_retirement_is_shown_first_and_done_when_it_is_asked_for(url: str, server: Server) -> None:
    """Without --yes nothing changes; with it, that version alone goes, and asking again names what there is."""
    before = keys_of(server, KEYS)
    shown = typed("handler", "retire", "metrics", "--version", "2", url=url)
    assert shown.returncode == 0
    assert "Would retire v2:metrics" in shown.stdout
    assert "Nothing has been changed; --yes does it." in shown.stdout
    assert keys_of(server, KEYS) == before
    done = document(typed("handler", "retire", "metrics", "--version", "2", "--yes", "--json", url=url))
    assert (done["schema"], done["what"], done["done"]) == ("sidestream.removal/1", "v2:metrics", True)
    left = keys_of(server, KEYS)
    assert len(before - left) == done["keys"] == sum(kind["keys"] for kind in done["kinds"].values())
    assert all(b":v2:metrics:" in key for key in before - left)
    again = typed("handler", "retire", "metrics", "--version", "2", "--yes", url=url)
    assert again.returncode == 2
    assert "known are metrics --version 1" in again.stderr


def test_a_handler_that_a_worker_holds_is_not_retired(url: str, server: Server) -> None:
    """Exit code 1, and which worker it is."""
    lease = KEYS.partition(2).unit("metrics").lease()
    server.run(script("lease"), [lease], ["host:7:abcdef", 60_000])
    before = keys_of(server, KEYS)
    for options in ([], ["--yes"]):
        done = typed("handler", "retire", "metrics", *options, url=url)
        assert done.returncode == 1
        assert "held by host:7:abcdef" in done.stderr
        assert "Would retire" in done.stdout
    assert keys_of(server, KEYS) == before


def test_a_purge_is_shown_first_and_done_when_it_is_asked_for(url: str, server: Server) -> None:
    """By kind; another namespace whose name begins alike keeps every key."""
    mine, theirs = keys_of(server, KEYS), keys_of(server, OTHER)
    shown = typed("purge", "--namespace", "cli", url=url)
    assert shown.returncode == 0
    assert f"Would remove namespace cli, {len(mine)} keys" in shown.stdout
    assert "streams" in shown.stdout
    assert keys_of(server, KEYS) == mine
    done = document(typed("purge", "--namespace", "cli", "--yes", "--json", url=url))
    assert (done["what"], done["done"], done["keys"]) == ("cli", True, len(mine))
    assert not keys_of(server, KEYS)
    assert keys_of(server, OTHER) == theirs


def test_a_namespace_that_is_alive_is_not_purged(url: str, server: Server) -> None:
    """Exit code 1 for a worker and for a producer, by name, unless it is forced."""
    PresenceWriter(KEYS, "ab" * 16).write(server, Presence("ab" * 16, service="deckster", instance="pod-1"))
    server.call("ZADD", KEYS.workers(), NOW_US // 1_000 + 600_000, "host:7:abcdef")
    before = keys_of(server, KEYS)
    done = typed("purge", "--namespace", "cli", "--yes", url=url)
    assert done.returncode == 1
    assert "worker host:7:abcdef" in done.stderr
    assert "producer deckster pod-1" in done.stderr
    assert keys_of(server, KEYS) == before
    assert typed("purge", "--namespace", "cli", "--yes", "--force", url=url).returncode == 0
    assert not keys_of(server, KEYS)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["purge", "--yes"], 2, "--namespace"),
        (["purge", "--namespace", "Not OK"], 2, "namespace"),
        (["handler", "retire", "moon", "--yes"], 2, "v1:moon has nothing here; known are metrics --version 1"),
        (["handler", "retire", "met*", "--yes"], 2, "is no name of a handler"),
        (["handler", "retire", "metrics", "--version", "0"], 2, "--version"),
        (["handler", "ls", "--redis-url", "redis://127.0.0.1:1/0"], 3, "no connection to Redis"),
        (["purge", "--namespace", "x", "--redis-url", "redis://127.0.0.1:1/0"], 3, "no connection to Redis"),
    ],
)
def test_a_mistake_is_named(url: str, arguments: list[str], code: int, sentence: str) -> None:
    """With an exit code for scripts, and nothing is touched."""
    done = typed(*arguments, url=url)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_status_says_what_holds_the_stream_and_how_full_the_server_is(url: str, server: Server) -> None:
    """A handler that has stood still for a day while an entry waits, and memory from 70 percent on."""
    now_ms = int(server.call("TIME")[0]) * 1_000
    partition = KEYS.partition(3)
    server.call("XGROUP", "DESTROY", partition.stream(), "v2:metrics")
    server.call("DEL", partition.stream())
    server.call("XADD", partition.stream(), f"{now_ms - 2 * DAY_MS}-0", "b", b'{"events":[]}')
    server.call("HSET", partition.unit("metrics", 2).cursor(), "at", now_ms - 2 * DAY_MS, "id", "0-0", "done", "0-0")
    used = int(parse_info(server.call("INFO", "memory"))["used_memory"])
    server.call("CONFIG", "SET", "maxmemory", int(used / 0.8))
    shown = typed("status", url=url)
    found = document(typed("status", "--json", url=url))
    server.call("CONFIG", "SET", "maxmemory", 0)
    assert (found["memory"]["level"], found["memory"]["hours_left"]) == ("high", None)
    # An entry has waited for two days, and no worker is alive.
    assert (shown.returncode, found["verdict"]) == (1, "no_worker")
    assert "! Redis's memory is 8" in shown.stdout
    assert [(row["handler"], row["version"], row["partition"]) for row in found["stalled"]] == [("metrics", 2, 3)]
    assert "metrics v2, partition 3: has stood still for 48 h" in " ".join(shown.stdout.split())
    assert "sidestream handler retire metrics --version 2" in " ".join(shown.stdout.split())
