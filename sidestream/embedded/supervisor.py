"""Keep one server running on a data folder for as long as anybody holds a share of it.

Run as a script by whoever needs the server first, detached, in a session of its own. It imports the standard library
only and is started without site-packages, so that what stays in memory is small and no broken package can stop it.

**Keeps:**

- At most one server writes a data folder. The folder of its append-only file is locked by a descriptor which only the
  server process inherits: the lock ends with that process (and with the child that rewrites the file), not earlier,
  whoever else is killed, and no file that somebody might delete stands for it.
- The server outlives its last share by the grace and no longer. Shares are shared locks on the data folder; the
  supervisor ends the server only under the exclusive one, and keeps that until it is gone itself, so a newcomer waits
  instead of meeting a server that is about to end.
- There is one supervisor a data folder: it is born with the exclusive lock on the server's folder, taken by whoever
  starts it and inherited.
- A server does not outlive its supervisor: on Linux the kernel sends it SIGTERM, elsewhere the next supervisor asks
  it to shut down before it starts its own.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SERVER_FOLDER = "server"
AOF_FOLDER = "appendonlydir"  # the server's own default name for it
LOG_NAME = "server.log"

POLL_S = 0.1
START_POLL_S = 0.01
STOP_LIMIT_S = 20.0
LOG_TAIL_LINES = 12

# A server that dies more often than this, in a time that short, will not be saved by one more start.
DEATHS_LIMIT = 5
DEATHS_WINDOW_S = 60.0

PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor has to do; travels to it as JSON.

    Args:
        data_dir: The data folder, absolute.
        socket_path: Where the server shall listen.
        binary: The server's executable.
        grace_s: Seconds to go on after the last share was given back.
        claim: The inherited descriptor that holds the lock on the server's folder.
    """

    data_dir: str
    socket_path: str
    binary: str
    grace_s: float
    claim: int

    @property
    def server_dir(self) -> Path:
        """The folder with all the server writes."""
        return Path(self.data_dir) / SERVER_FOLDER

    @property
    def aof_dir(self) -> Path:
        """The folder of the append-only file."""
        return self.server_dir / AOF_FOLDER


def open_folder(path: Path) -> int:
    """Return a descriptor of a folder, to lock it; it is not inherited by programs started later."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def try_lock(descriptor: int, mode: int) -> bool:
    """Take a flock if that is possible at once.

    Args:
        descriptor: What to lock.
        mode: ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX``.

    Returns:
        False if somebody else's lock stands in the way.

    Raises:
        OSError: The filesystem cannot lock.
    """
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_same(descriptor: int, path: Path) -> bool:
    """Say whether a path still leads to the folder that a descriptor was opened for."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def ask(path: Path, *words: str, timeout_s: float = 0.5) -> bytes | None:
    """Send one command to a server on a unix socket.

    Args:
        path: The socket.
        words: The command and its arguments.
        timeout_s: Seconds to wait at each step.

    Returns:
        The reply's first line, or the body of a bulk string; None if nobody answered.
    """
    parts = [word.encode() for word in words]
    request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout_s)
            link.connect(os.fspath(path))
            link.sendall(request)
            with link.makefile("rb") as stream:
                line = stream.readline().rstrip()
                return (stream.read(int(line[1:])) if line.startswith(b"$") else line) or None
    except OSError:
        return None


def tail(log: Path, start: int = 0) -> str:
    """Return the last lines of a log.

    Args:
        log: The file.
        start: Position, in bytes, of the first line that may be of interest.
    """
    try:
        with log.open("rb") as lines:
            lines.seek(start)
            return "\n".join(lines.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    except OSError:
        return ""


def server_command(plan: Plan) -> list[str]:
    """Return how the server is started: unix socket only, every write in the append-only file, nothing evicted."""
    settings = {
        "port": "0",
        "unixsocket": plan.socket_path,
        "unixsocketperm": "700",
        "dir": str(plan.server_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "appenddirname": AOF_FOLDER,
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        # A hash of 512 small fields is searched from end to end at every increment: a commit took 31 ms instead of 6.
        "hash-max-listpack-entries": "128",
        "daemonize": "no",
    }
    return [plan.binary, *(part for name, value in settings.items() for part in (f"--{name}", value))]


class Supervisor:
    """Start the server, start it again if it dies, end it when nobody holds a share.

    Args:
        plan: What to do.
        report: Called once, with the state (``up`` or ``failed``) and a reason.
    """

    def __init__(self, plan: Plan, report: Callable[[str, str], None]) -> None:
        self._plan = plan
        self._report = report
        self._socket = Path(plan.socket_path)
        self._shares = open_folder(Path(plan.data_dir))
        self._server: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._was_up = False
        self._met_orphan = False
        self._failure: str | None = None
        self._signal: int | None = None
        self._deaths: list[float] = []
        self._unheld_since: float | None = None

    def run(self) -> None:
        """Do all of it; returns when the server has ended."""
        self._set_signals()
        while (reason := self._reason_to_leave()) is None:
            self._step()
            time.sleep(POLL_S if self._ready else START_POLL_S)
        _say(f"leaving: {reason}")
        self._stop_server()
        self._sweep()
        if not self._was_up:
            self._report("failed", reason)

    def _set_signals(self) -> None:
        """Undo what the starter may have ignored or blocked: children inherit it, and the server must hear SIGTERM."""
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signal = number

    def _reason_to_leave(self) -> str | None:
        if self._failure is not None:
            return self._failure
        if self._signal is not None:
            return f"the supervisor got signal {self._signal}"
        if not self._has_claim():
            return "the data folder was removed or replaced"
        return "nobody holds a share" if self._is_unheld_for_grace() else None

    def _has_claim(self) -> bool:
        """Say whether the folders that this process has locked are still those that others find."""
        plan = self._plan
        return is_same(self._shares, Path(plan.data_dir)) and is_same(plan.claim, plan.server_dir)

    def _is_unheld_for_grace(self) -> bool:
        """Say whether the grace is over; if so the exclusive lock is kept, and newcomers wait for our end."""
        if not try_lock(self._shares, fcntl.LOCK_EX):
            self._unheld_since = None
            return False
        now = time.monotonic()
        if self._unheld_since is None:
            self._unheld_since = now
        if now - self._unheld_since >= self._plan.grace_s:
            return True
        fcntl.flock(self._shares, fcntl.LOCK_UN)
        return False

    def _step(self) -> None:
        if self._server is None:
            self._start_server()
        elif self._server.poll() is not None:
            self._bury(self._server)
        elif not self._ready:
            self._look_if_ready()
        elif not self._socket.exists():
            # A cleaner of temporary files, or a person. Nobody new can reach the server: start it again.
            _say("the socket has vanished")
            self._stop_server()

    def _start_server(self) -> None:
        lock = open_folder(self._plan.aof_dir)
        try:
            if try_lock(lock, fcntl.LOCK_EX):
                self._server = _spawn(self._plan, lock)
            else:
                self._retire_orphan()
        finally:
            os.close(lock)  # from now on the server alone holds it

    def _retire_orphan(self) -> None:
        """Ask a server to end whose supervisor was killed: who else would write here, since the claim is ours."""
        if not self._met_orphan:
            self._met_orphan = True
            _say("another server still writes in this folder; asking it to shut down and waiting for its end")
        ask(self._socket, "SHUTDOWN")

    def _bury(self, server: subprocess.Popen[bytes]) -> None:
        """Decide, when the server has ended, whether to start it again."""
        now = time.monotonic()
        self._deaths = [then for then in self._deaths if now - then < DEATHS_WINDOW_S] + [now]
        self._server, self._ready = None, False
        if server.returncode >= 0:
            # It ended by its own decision: somebody asked it to, or it cannot work here and has logged why.
            self._failure = f"the server ended with status {server.returncode}"
        elif len(self._deaths) >= DEATHS_LIMIT:
            self._failure = f"signal {-server.returncode} ended the server, {DEATHS_LIMIT} times within a minute"
        else:
            _say(f"signal {-server.returncode} ended the server, starting it again")

    def _look_if_ready(self) -> None:
        if ask(self._socket, "PING") != b"+PONG":
            return
        self._ready = True
        if not self._was_up:
            self._was_up = True
            self._report("up", "")

    def _stop_server(self) -> None:
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            # Stopped or hung. What it acknowledged more than a second ago is in the append-only file.
            self._server.kill()
            self._server.wait()
        self._server, self._ready = None, False

    def _sweep(self) -> None:
        """Remove the socket of a server that could not do so itself, and the runtime folder if there is one."""
        if not self._has_claim():
            return  # what is there by now may be another's
        with suppress(OSError):
            self._socket.unlink(missing_ok=True)
            if self._socket.parent != Path(self._plan.data_dir):
                self._socket.parent.rmdir()


def _spawn(plan: Plan, lock: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (the binary the user chose; starting it is the purpose)
        server_command(plan),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        pass_fds=(lock,),
        preexec_fn=tie_to_parent(),  # noqa: PLW1509 (this process has one thread)
    )


def tie_to_parent() -> Callable[[], None] | None:
    """Return what a child calls, before it becomes the server, to be ended with this process."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was killed in between, and the signal will never come
            os._exit(1)

    return tie


def _say(sentence: str) -> None:
    print(f"supervisor {os.getpid()}: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 (stderr is its log file)


def _report_to_starter(state: str, reason: str) -> None:
    """Tell the process that waits at the other end of stdout, and let it go."""
    with suppress(OSError):  # it may have been killed; others may hold shares
        os.write(1, json.dumps({"state": state, "reason": reason}).encode())
    os.dup2(2, 1)


def main(plan_json: str) -> None:
    """Supervise in a child that nobody waits for.

    Args:
        plan_json: A ``Plan``.
    """
    plan = Plan(**json.loads(plan_json))
    if os.fork() > 0:
        return  # so that it is no child of the holder, who would have to bury it
    os.set_inheritable(plan.claim, False)
    os.umask(0o077)
    Supervisor(plan, _report_to_starter).run()


if __name__ == "__main__":
    main(sys.argv[1])
