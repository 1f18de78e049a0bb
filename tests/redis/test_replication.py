"""`append_level = replicated(n)`: an event counts as appended when replicas have it, and not before."""

import logging
import signal
import socket
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import RealServer, spawned

from pipeline.connection import RedisSettings, Server
from pipeline.keys import Keys
from pipeline.presence import read_last_word
from producers.settings import PublishSettings
from producers.telemetry import Telemetry

TIMEOUT_S = 15


@dataclass(frozen=True)
class Pair:
    """A primary and its replica."""

    primary: RealServer
    replica: RealServer

    def telemetry(self, **more: str) -> Telemetry:
        """Return telemetry that asks for one replica."""
        settings = PublishSettings(namespace="test", linger_ms=5, append_level="replicated(1)", **more)  # pyright: ignore[reportArgumentType]
        return Telemetry(settings, lambda: self.primary.url)


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def pair() -> Generator[Pair]:
    """Spawn two servers, one the replica of the other; a replica is found by an address, not by a socket's path."""
    port = free_port()
    with (
        spawned("valkey", "--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0") as primary,
        spawned("valkey", "--replicaof", f"127.0.0.1 {port}") as replica,
    ):
        server = Server(RedisSettings(replica.url))
        while b"master_link_status:up" not in server.call("INFO", "replication"):
            server.call("PING")
        server.close()
        yield Pair(primary, replica)


def appended(url: str) -> int:
    """Return the events that the counters of a server say were appended."""
    server = Server(RedisSettings(url))
    counts = [server.call("HGET", Keys("test").partition(n).counters(), "appended") for n in range(4)]
    server.close()
    return sum(int(count or 0) for count in counts)


def test_what_counts_as_appended_is_on_the_replica(pair: Pair) -> None:
    """When `flush` says yes, the replica has every event."""
    telemetry = pair.telemetry()
    for n in range(2000):
        telemetry.usage("a", "m", session=f"s{n}")
    assert telemetry.flush(TIMEOUT_S)
    assert appended(pair.replica.url) == 2000
    assert telemetry.close(TIMEOUT_S)


def test_without_its_replica_an_event_is_unknown_and_never_doubled(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """With the replica frozen events are stored and not counted; they are asked for again, answered DUP, and count."""
    telemetry = pair.telemetry()
    telemetry.usage("a", "m", session="s")
    assert telemetry.flush(TIMEOUT_S)
    pair.replica.process.send_signal(signal.SIGSTOP)
    try:
        with caplog.at_level(logging.WARNING):
            for n in range(100):
                telemetry.usage("a", "m", session=f"s{n}")
            assert not telemetry.flush(2.5)
        counts = telemetry.statistics()
        assert (counts.appended, counts.unknown, counts.offered) == (1, 100, counts.accounted())
        assert appended(pair.primary.url) == 101
        [warning] = [record for record in caplog.records if record.name == "sidestream"]
        assert warning.__dict__["code"] == "not_replicated"
        assert "0 of 1 replicas" in warning.getMessage()
        server = Server(RedisSettings(pair.primary.url))
        word, _ = read_last_word(server, Keys("test"), telemetry.producer)
        assert word is not None
        assert word.accounted() == word.offered
        server.close()
    finally:
        pair.replica.process.send_signal(signal.SIGCONT)
    assert telemetry.flush(TIMEOUT_S)
    counts = telemetry.statistics()
    assert (counts.appended, counts.unknown) == (101, 0)
    assert appended(pair.primary.url) == appended(pair.replica.url) == 101
    assert telemetry.close(TIMEOUT_S)


def test_after_a_failover_nothing_that_counted_is_missing(pair: Pair) -> None:
    """The replica, promoted when its primary is killed, has every event that `flush` answered for; none twice."""
    here = [pair.primary.url]
    settings = PublishSettings(namespace="test", linger_ms=5, append_level="replicated(1)")
    telemetry = Telemetry(settings, lambda: here[0])
    for n in range(500):
        telemetry.usage("a", "m", session=f"s{n}")
    assert telemetry.flush(TIMEOUT_S)
    pair.primary.process.kill()
    for n in range(100):
        telemetry.usage("a", "m", session=f"s{n}")
    assert not telemetry.flush(0.3)
    server = Server(RedisSettings(pair.replica.url))
    server.call("REPLICAOF", "NO", "ONE")
    server.close()
    here[0] = pair.replica.url
    assert not telemetry.flush(3), "there is no replica behind the new primary"
    assert 500 <= appended(pair.replica.url) <= 600
    counts = telemetry.statistics()
    assert (counts.appended, counts.lost) == (500, 0)
    telemetry.close(0.1)


def test_frames_of_the_dead_wait_for_replicas_too(pair: Pair, tmp_path: Path) -> None:
    """A successor keeps a spooled frame in its file until the replica has it."""
    away = Telemetry(
        PublishSettings(namespace="test", linger_ms=5, spool_dir=str(tmp_path)), lambda: f"unix://{tmp_path / 'nobody'}"
    )
    for n in range(50):
        away.usage("a", "m", session=f"s{n}")
    assert away.flush(TIMEOUT_S)
    assert away.close(TIMEOUT_S)
    [left] = (tmp_path / "test").glob("*.spool")
    successor = pair.telemetry(spool_dir=str(tmp_path))
    successor.usage("a", "m", session="s")
    assert successor.flush(TIMEOUT_S)
    end_s = time.monotonic() + TIMEOUT_S
    while left.exists():
        assert time.monotonic() < end_s
        assert successor.flush(TIMEOUT_S)
    assert appended(pair.replica.url) == 51
    assert successor.close(TIMEOUT_S)
