"""The health endpoint: three routes, and nothing that anybody sends to it changes anything."""

import contextlib
import json
import random
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from consumers.runtime.health import Health, HealthWatch
from pipeline.errors import SettingsError
from sidestream import health_endpoint
from sidestream.health_endpoint import MAX_CONNECTIONS, MAX_REQUEST_BYTES, HealthEndpoint
from sidestream.health_settings import HealthSettings, load_health_settings

STUCK, BLOCKED = 30.0, 100.0


class Told:
    """What a worker's health is said to be: ok at time 0, stuck at 30, not even live at 100."""

    now_s = 0.0
    looks = 0

    def look(self) -> Health:
        """Return it."""
        self.looks += 1
        watch = HealthWatch(0.0)
        watch.holds({("metrics", 0)}, {}, 0)
        if self.now_s >= STUCK:
            watch.failed(("metrics", 0), "refused", "NOPERM", 5, permanent=True)
        return watch.look(self.now_s)


@pytest.fixture
def told() -> Told:
    """Return what the endpoint is told."""
    return Told()


@pytest.fixture
def endpoint(told: Told) -> Generator[HealthEndpoint]:
    """Run an endpoint."""
    with HealthEndpoint("127.0.0.1", 0, told.look, {"worker": "w1"}) as running:
        yield running


def sent(endpoint: HealthEndpoint, request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the far side closes; nothing where it hangs up."""
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as client:
        try:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(65_536), b""))
        except (ConnectionResetError, BrokenPipeError):
            return b""


def get(endpoint: HealthEndpoint, path: str) -> tuple[int, str]:
    """Return status and body."""
    answer = sent(endpoint, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    return int(head.split()[1]), body.decode()


def test_ready_and_live_are_told_apart(endpoint: HealthEndpoint, told: Told) -> None:
    """Stuck is not ready and yet live; a loop that stands is neither."""
    assert [get(endpoint, path) for path in ("/live", "/ready")] == [(200, "ok\n"), (200, "ok\n")]
    told.now_s = STUCK
    assert get(endpoint, "/live") == (200, "ok\n")
    assert get(endpoint, "/ready") == (503, "metrics, partition 0: stuck for 25 s: NOPERM\n")
    told.now_s = BLOCKED
    assert get(endpoint, "/live") == (503, "the worker's loop has not turned for 100 s\n")


def test_health_has_a_schema_and_every_unit(endpoint: HealthEndpoint, told: Told) -> None:
    """docs/json.md lists its keys; its status is that of /ready."""
    told.now_s = STUCK
    status, body = get(endpoint, "/health?verbose")
    assert status == 503
    assert json.loads(body) == {
        "schema": "sidestream.health/1",
        "worker": "w1",
        "live": True,
        "ready": False,
        "why": "metrics, partition 0: stuck for 25 s: NOPERM",
        "stuck_after_s": 60.0,
        "loop_silent_s": 30.0,
        "redis_silent_s": 30.0,
        "redis_error": "",
        "units": [
            {"handler": "metrics", "partition": 0, "state": "stuck", "code": "refused", "why": "NOPERM", "for_s": 25.0}
        ],
    }


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /health HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"HEAD /health HTTP/1.1\r\n\r\n", b"405"),
        (b"DELETE / HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /health\r\n\r\n", b"400"),
        (b"GET  /health HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /health SMTP/1\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /" + b"a" * MAX_REQUEST_BYTES + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
)
def test_what_is_no_good_request_is_refused_in_a_line(endpoint: HealthEndpoint, request_: bytes, status: bytes) -> None:
    """And the next one is answered."""
    assert sent(endpoint, request_)[9:12] in {status, b""}
    assert get(endpoint, "/ready")[0] == 200


def test_noise_changes_nothing(endpoint: HealthEndpoint, told: Told) -> None:
    """Random bytes, of any length, cut anywhere: no look at the worker comes of it."""
    noise = random.Random(5)  # noqa: S311 - a seed makes the same noise again
    for _ in range(100):
        data = noise.randbytes(noise.randrange(3 * MAX_REQUEST_BYTES))
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as client:
            try:
                client.sendall(data)
            except OSError:
                continue
    assert told.looks == 0
    assert get(endpoint, "/ready")[0] == 200


def test_slow_clients_keep_nobody_out(endpoint: HealthEndpoint) -> None:
    """Whoever takes its time loses its place to the next; a hundred of them do not delay an answer."""
    slow = [socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) for _ in range(3 * MAX_CONNECTIONS)]
    for client in slow:
        with contextlib.suppress(OSError):
            client.sendall(b"GET /health HT")
    assert get(endpoint, "/ready")[0] == 200
    for client in slow:
        client.close()


def test_a_slow_client_is_let_go(endpoint: HealthEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two seconds (here: a tenth) it is hung up on, whatever it had begun to say."""
    monkeypatch.setattr(health_endpoint, "TIMEOUT_S", 0.1)
    assert sent(endpoint, b"GET /health HT") == b""


def test_a_thousand_requests_are_answered(endpoint: HealthEndpoint, told: Told) -> None:
    """One connection each."""
    assert {get(endpoint, "/ready") for _ in range(1_000)} == {(200, "ok\n")}
    assert told.looks == 1_000


def test_an_address_that_is_taken_is_said_by_name(endpoint: HealthEndpoint, told: Told) -> None:
    """The worker ends with it, before it begins."""
    with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1, port {endpoint.port}"):
        HealthEndpoint("127.0.0.1", endpoint.port, told.look, {})


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    """Off by default; a port alone opens nothing to the network."""
    assert load_health_settings({}) == HealthSettings(None, "127.0.0.1", 60.0)
    environ = {"SIDESTREAM_HEALTH_PORT": "8099", "SIDESTREAM_STUCK_AFTER": "5m"}
    assert load_health_settings(environ) == HealthSettings(8099, "127.0.0.1", 300.0)
    assert load_health_settings(environ, {"health_port": 0}).port is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SIDESTREAM_HEALTH_PORT": "http"}, "SIDESTREAM_HEALTH_PORT: 'http' is no port"),
        ({"SIDESTREAM_HEALTH_PORT": "65536"}, "is no port"),
        ({"SIDESTREAM_HEALTH_HOST": "my host"}, "SIDESTREAM_HEALTH_HOST: 'my host' is no address"),
        ({"SIDESTREAM_STUCK_AFTER": "60"}, "SIDESTREAM_STUCK_AFTER: '60' is no duration"),
        ({"SIDESTREAM_STUCK_AFTER": "5s"}, "at least 10s"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(environ: dict[str, str], message: str) -> None:
    """With its place, as every other."""
    with pytest.raises(SettingsError, match=message):
        load_health_settings(environ)


def test_what_kubernetes_sets_for_a_service_of_that_name_is_no_port() -> None:
    """A service "sidestream-health" puts its address into SIDESTREAM_HEALTH_PORT."""
    assert load_health_settings({"SIDESTREAM_HEALTH_PORT": "tcp://10.0.0.7:8099"}).port is None


def test_the_file_has_them_too(tmp_path: Path) -> None:
    """`[worker]` of sidestream.toml, under the environment."""
    file = tmp_path / "sidestream.toml"
    file.write_text('[worker]\nhealth_port = 8100\nhealth_host = "::1"\nstuck_after = "2m"\n', "utf-8")
    environ = {"SIDESTREAM_CONFIG": str(file), "SIDESTREAM_HEALTH_PORT": "8099"}
    assert load_health_settings(environ) == HealthSettings(8099, "::1", 120.0)
