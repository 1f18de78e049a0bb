"""Every way in which a server answers "not now": frames are kept, the trouble is named, and each event goes in once."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import RealServer, spawned

from pipeline.connection import RedisSettings, Server
from pipeline.keys import Keys
from producers.ledger import Counts
from producers.settings import PublishSettings
from producers.telemetry import Telemetry

EVENTS = 50
TIMEOUT_S = 15


@dataclass(frozen=True)
class Outage:
    """How a real server is brought into a state, and out of it; `code` is what the publisher calls the trouble."""

    code: str
    begin: Callable[[Server, Path], object]
    end: Callable[[Server, Path], object]


def _config(name: str, value: str) -> Callable[[Server, Path], object]:
    return lambda server, _: server.call("CONFIG", "SET", name, value)


def _command(*words: str) -> Callable[[Server, Path], object]:
    return lambda server, _: server.call(*words)


def _busy(server: Server, _: Path) -> None:
    """Run a script that does not end, from a connection of its own."""
    server.call("CONFIG", "SET", "busy-reply-threshold", "10")
    other = Server(RedisSettings(server.settings.url))

    def run() -> None:
        with contextlib.suppress(Exception):
            other.call("EVAL", "while true do end", 0)
        other.close()

    threading.Thread(target=run).start()
    with contextlib.suppress(Exception):
        while server.call("PING"):
            time.sleep(0.01)


def _failing_save(server: Server, folder: Path) -> None:
    """Let a background save fail: a folder stands where its file should go."""
    (folder / "dump.rdb").mkdir()
    (folder / "dump.rdb" / "full").touch()
    server.call("CONFIG", "SET", "save", "3600 1")
    server.call("BGSAVE")
    while b"rdb_last_bgsave_status:ok" in server.call("INFO", "persistence"):
        time.sleep(0.01)


OUTAGES = {
    "MISCONF": Outage("unavailable", _failing_save, _config("stop-writes-on-bgsave-error", "no")),
    "READONLY": Outage("unavailable", _command("REPLICAOF", "127.0.0.1", "1"), _command("REPLICAOF", "NO", "ONE")),
    "MASTERDOWN": Outage(
        "unavailable",
        lambda server, folder: [
            _config("replica-serve-stale-data", "no")(server, folder),
            _command("REPLICAOF", "127.0.0.1", "1")(server, folder),
        ],
        _command("REPLICAOF", "NO", "ONE"),
    ),
    "NOREPLICAS": Outage("unavailable", _config("min-replicas-to-write", "1"), _config("min-replicas-to-write", "0")),
    "BUSY": Outage("unavailable", _busy, _command("SCRIPT", "KILL")),
    "OOM": Outage("capacity", _config("maxmemory", "100kb"), _config("maxmemory", "0")),
    "NOPERM": Outage(
        "refused",
        _command("ACL", "SETUSER", "default", "-evalsha", "-eval"),
        _command("ACL", "SETUSER", "default", "+@all"),
    ),
    "WRONGTYPE": Outage(
        "refused",
        lambda server, _: [server.call("SET", Keys("test").partition(n).stream(), "no stream") for n in range(4)],
        lambda server, _: [server.call("DEL", Keys("test").partition(n).stream()) for n in range(4)],
    ),
}


@pytest.fixture
def own(tmp_path: Path) -> Generator[tuple[RealServer, Server, Path]]:
    """Spawn a server that a test may bring into any state."""
    folder = tmp_path / "data"
    folder.mkdir()
    with spawned("valkey", "--dir", str(folder)) as real:
        server = Server(RedisSettings(real.url))
        yield real, server, folder
        server.close()


@pytest.mark.parametrize("name", OUTAGES)
def test_what_a_server_refuses_for_now_is_kept_and_goes_in_once(
    own: tuple[RealServer, Server, Path], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The application goes on, one warning names the trouble, and afterwards everything is appended, once, in order."""
    real, server, folder = own
    outage = OUTAGES[name]
    telemetry = Telemetry(PublishSettings(namespace="test", linger_ms=5), lambda: real.url)
    telemetry.usage("a", "m", session="s")
    assert telemetry.flush(TIMEOUT_S)
    outage.begin(server, folder)
    with caplog.at_level(logging.WARNING):
        assert all(telemetry.usage("a", "m", session=f"s{n}") for n in range(EVENTS))
        assert not telemetry.flush(0.5)
    counts = telemetry.statistics()
    assert counts.offered == counts.accounted() == EVENTS + 1
    assert _not_yet(counts) == EVENTS
    [warning] = [record for record in caplog.records if record.name == "sidestream"]
    assert warning.__dict__["code"] == outage.code
    outage.end(server, folder)
    assert telemetry.flush(TIMEOUT_S)
    assert telemetry.statistics().appended == EVENTS + 1
    assert telemetry.close(TIMEOUT_S)
    keys = Keys("test")
    appended = [server.call("HGET", keys.partition(n).counters(), "appended") for n in range(4)]
    assert sum(int(count or 0) for count in appended) == EVENTS + 1


def _not_yet(counts: Counts) -> int:
    return counts.buffered + counts.in_flight + counts.unknown


def test_a_server_that_fails_again_and_again_is_asked_with_one_frame(
    own: tuple[RealServer, Server, Path],
) -> None:
    """After three failures a try is a probe: the backlog is not sent again and again to a server that refuses it."""
    real, server, folder = own
    telemetry = Telemetry(PublishSettings(namespace="test", linger_ms=0, partitions=4), lambda: real.url)
    telemetry.usage("a", "m")
    assert telemetry.flush(TIMEOUT_S)
    OUTAGES["OOM"].begin(server, folder)
    for _ in range(40):
        for n in range(20):
            telemetry.usage("a", "m", session=f"s{n}")
        telemetry.flush(0.05)
    server.call("CONFIG", "RESETSTAT")
    telemetry.flush(0.5)
    tried, refused = _calls(server)
    assert 0 < refused <= tried <= 12, "in half a second with a pause of a tenth, one frame and one presence a try"
    OUTAGES["OOM"].end(server, folder)
    assert telemetry.close(TIMEOUT_S)
    assert telemetry.statistics().appended == 801


def _calls(server: Server) -> tuple[int, int]:
    """Return how many scripts were run since the statistics were reset, and how many of them were refused."""
    for line in server.call("INFO", "commandstats").decode().splitlines():
        if line.startswith("cmdstat_evalsha:"):
            numbers = dict(part.split("=") for part in line.partition(":")[2].split(","))
            refused = int(numbers["rejected_calls"]) + int(numbers["failed_calls"])
            return int(numbers["calls"]) + int(numbers["rejected_calls"]), refused
    return 0, 0
