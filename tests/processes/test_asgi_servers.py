"""ASGI servers, stopped by SIGTERM under load: every event whose response was sent is on the stream."""

import http.client
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from launching import Site, until

LOAD_THREADS = 3
ENOUGH = 60

UVICORN = (sys.executable, "-m", "uvicorn", "--log-level", "warning")
GUNICORN = (sys.executable, "-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--no-control-socket")


class Connection(http.client.HTTPConnection):
    """A connection over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("host", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect; leave no socket open if nobody listens."""
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise


class Load:
    """Clients that ask until the server is gone, and count the answers that came whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.enough = threading.Event()
        self.answers: list[bytes] = []
        self.threads = [threading.Thread(target=self._ask) for _ in range(LOAD_THREADS)]

    def _ask(self) -> None:
        with closing(Connection(self._path)) as connection:
            try:
                while self._one(connection):
                    pass
            except (OSError, http.client.HTTPException):
                return  # the server has gone

    def _one(self, connection: Connection) -> bool:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            return False
        with self._lock:
            self.answers.append(body)
            if len(self.answers) >= ENOUGH:
                self.enough.set()
        return True


def accepts(path: Path) -> bool:
    """Return whether someone listens on the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def stop_under_load(site: Site, path: Path, command: Sequence[str]) -> Load:
    """Start a server, load it, end it by SIGTERM while the load goes on; return the load when all has ended."""
    with site.process(*command) as process:
        until(lambda: accepts(path))
        load = Load(path)
        for thread in load.threads:
            thread.start()
        came = load.enough.wait(10)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=15)
        for thread in load.threads:
            thread.join(10)
    assert came, said
    return load


def everything_arrived(site: Site, load: Load) -> None:
    """Assert that each answer's event is on the stream, and that each process said goodbye with nothing left."""
    arrived = site.agents().count("director")
    assert len(load.answers) <= arrived <= len(load.answers) + LOAD_THREADS
    presences = site.presences()
    assert presences
    assert all(presence.closed and presence.appended == presence.offered for presence in presences)


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn_drains_at_sigterm(site: Site, tmp_path: Path, workers: int) -> None:
    """With one process and with two, whatever was answered is on the stream, and the application's last word too."""
    path = tmp_path / "s"
    command = (*UVICORN, "--uds", str(path), "--workers", str(workers), "hosted:with_lifespan")
    everything_arrived(site, stop_under_load(site, path, command))
    assert site.agents().count("") >= 1  # the operation reported by the application's own shutdown


def test_gunicorn_drains_at_sigterm(site: Site, tmp_path: Path) -> None:
    """Each of gunicorn's uvicorn workers drains."""
    path = tmp_path / "s"
    load = stop_under_load(site, path, (*GUNICORN, "--bind", f"unix:{path}", "-w", "2", "hosted:with_lifespan"))
    everything_arrived(site, load)


def test_an_application_without_a_lifespan_drains_too(site: Site, tmp_path: Path) -> None:
    """The middleware serves the lifespan that the application refuses."""
    path = tmp_path / "s"
    everything_arrived(site, stop_under_load(site, path, (*UVICORN, "--uds", str(path), "hosted:without_lifespan")))


def test_without_the_middleware_what_was_in_memory_is_lost(site: Site, tmp_path: Path) -> None:
    """The server ends without `atexit`: this is why the middleware exists."""
    path = tmp_path / "s"
    load = stop_under_load(site, path, (*UVICORN, "--uds", str(path), "hosted:undrained"))
    assert len(site.agents()) < len(load.answers)
    assert not any(presence.closed for presence in site.presences())
