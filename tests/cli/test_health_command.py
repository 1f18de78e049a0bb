"""`sidestream worker --health-port` and `sidestream health`, as a container engine and an operator use them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from support import RealServer, spawned

from pipeline.connection import RedisSettings, Server
from pipeline.keys import Keys
from pipeline.presence import SCHEMA

TIMEOUT_S = 30
KEYS = Keys("health")


@pytest.fixture(scope="module")
def broker() -> Generator[RealServer]:
    """Spawn a server."""
    with spawned("valkey") as server:
        yield server


@dataclass(frozen=True)
class Operator:
    """Types commands, with the settings of one worker in the environment."""

    url: str
    port: int

    def environment(self) -> dict[str, str]:
        """Return them, and nothing of this process's own."""
        bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        place = {"SIDESTREAM_REDIS_URL": self.url, "SIDESTREAM_NAMESPACE": KEYS.namespace}
        return bare | place | {"SIDESTREAM_HEALTH_PORT": str(self.port), "SIDESTREAM_STUCK_AFTER": "10s"}

    def typed(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it said."""
        line = [sys.executable, "-m", "sidestream", *arguments]
        done = subprocess.run(
            line, env=self.environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def until(self, code: int, *arguments: str) -> str:
        """Ask for health again and again until the answer has this exit code; return what it said."""
        end_s = time.monotonic() + TIMEOUT_S
        while True:
            found, said = self.typed("health", *arguments)
            if found == code:
                return said
            assert time.monotonic() < end_s, said

    @contextmanager
    def worker(self) -> Generator[subprocess.Popen[str]]:
        """Run a worker; kill it if it is still there at the end."""
        line = [sys.executable, "-m", "sidestream", "worker", "--handlers", "metrics"]
        process = subprocess.Popen(line, env=self.environment(), stderr=subprocess.PIPE, text=True)
        with process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def operator(broker: RealServer) -> Operator:
    """Return an operator with a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Operator(broker.url, int(probe.getsockname()[1]))


def test_a_worker_is_asked_on_the_port_that_it_was_given(operator: Operator) -> None:
    """0 and one line while it progresses, 3 before and after; SIGTERM ends it with 0."""
    code, said = operator.typed("health")
    assert (code, said.startswith("sidestream: no worker answers at http://127.0.0.1:")) == (3, True)
    with operator.worker() as process:
        assert operator.until(0).startswith("progresses: ")
        document = json.loads(operator.until(0, "--json"))
        assert (document["schema"], document["ready"]) == ("sidestream.health/1", True)
        assert operator.until(0, "--live") == "ok"
        assert operator.until(0, "--url", f"http://localhost:{operator.port}")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors
    assert operator.typed("health", "--live")[0] == 3


def test_a_worker_that_is_refused_is_a_finding(operator: Operator, broker: RealServer) -> None:
    """1 and the reason; it stays live; when the right is given back, it goes on by itself."""
    control = Server(RedisSettings(broker.url))
    with operator.worker():
        operator.until(0)
        control.call("ACL", "SETUSER", "default", "-evalsha", "-eval")
        try:
            said = operator.until(1)
            assert operator.typed("health", "--live") == (0, "ok")
        finally:
            control.call("ACL", "SETUSER", "default", "+@all")
            control.close()
        operator.until(0)
    assert said.startswith("does not progress: ")
    assert "permission" in said


def test_status_shows_what_is_stuck_and_why(operator: Operator, broker: RealServer) -> None:
    """One unit, whose key somebody has overwritten: in words, in the document, and as broken; the others are shown."""
    control = Server(RedisSettings(broker.url))
    cursor = KEYS.partition(1).unit("metrics").cursor()
    with operator.worker():
        operator.until(0)
        control.batch([["DEL", cursor], ["SET", cursor, "no cursor"]])
        try:
            assert "WRONGTYPE" in operator.until(1)
            end_s = time.monotonic() + TIMEOUT_S
            while ": metrics, partition 1: stuck for" not in (shown := operator.typed("status")[1]):
                assert time.monotonic() < end_s, shown
            code, document = operator.typed("status", "--json")
        finally:
            control.call("DEL", cursor)
        operator.until(0)
    control.close()
    assert "metrics v1, partition 1: cannot be read: WRONGTYPE" in " ".join(shown.split())
    status = json.loads(document)
    assert (code, len(status["accounts"])) == (1, 3)
    troubles = [trouble for worker in status["workers"] for trouble in worker["troubles"]]
    assert ("metrics", 1, "stuck") in [(found["handler"], found["partition"], found["state"]) for found in troubles]


def test_a_worker_that_can_never_work_ends_with_an_error(operator: Operator, broker: RealServer) -> None:
    """A namespace of a newer version: said, and exit code 3; a wrong setting 2."""
    control = Server(RedisSettings(broker.url))
    control.call("HSET", KEYS.meta(), "schema", SCHEMA + 1)
    code, said = operator.typed("worker")
    control.call("HDEL", KEYS.meta(), "schema")
    control.close()
    assert (code, "upgrade this one" in said) == (3, True)
    code, said = operator.typed("worker", "--health-port", "99999")
    assert (code, "--health-port: 99999 is no port" in said) == (2, True)


def test_a_worker_that_meets_a_newer_version_while_it_runs_ends_too(operator: Operator, broker: RealServer) -> None:
    """Exit code 3, and the reason in its log."""
    control = Server(RedisSettings(broker.url))
    with operator.worker() as process:
        operator.until(0)
        control.call("HSET", KEYS.meta(), "schema", SCHEMA + 1)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    control.call("HDEL", KEYS.meta(), "schema")
    control.close()
    assert process.returncode == 3
    assert "CRITICAL The worker ends: it can never work here" in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_ends_the_worker_before_it_begins(operator: Operator) -> None:
    """Exit code 2: two workers on one machine need two ports."""
    with operator.worker():
        operator.until(0)
        code, said = operator.typed("worker")
    assert (code, f"cannot listen on 127.0.0.1, port {operator.port}" in said) == (2, True)


def test_health_without_a_port_is_used_wrongly(operator: Operator) -> None:
    """It says what to give."""
    assert operator.typed("health", "--health-port", "0")[0] == 2
    code, said = operator.typed("health", "--url", "nowhere")
    assert (code, said) == (2, "sidestream: --url: 'nowhere' is no address such as http://127.0.0.1:8099")
