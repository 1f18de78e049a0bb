"""Hold a share of the one server of a data folder, starting it if need be."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sidestream.embedded import supervisor
from sidestream.embedded.binary import locate_server
from sidestream.embedded.errors import DataFolderError, LockUnsupportedError, ServerStartError, ServerTimeoutError
from sidestream.embedded.locate import DATA_DIR_VARIABLE, data_folder, is_private, socket_path, unix_url
from sidestream.embedded.supervisor import AOF_FOLDER, LOG_NAME, SERVER_FOLDER, Plan, ask, open_folder, try_lock

POLL_S = 0.02

# A start takes about 0.1 s; loading an append-only file, about a second for each 100 MB.
WAIT_S = 60.0

GRACE_S = 2.0

LOG_LIMIT_BYTES = 1_000_000

# What a detached process needs of the environment. The rest, tokens among it, is none of its business.
PASSED_ON = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

PROCESS_LINE = re.compile(r"^process_id:(\d+)", re.MULTILINE)

# Valkey says 7.2.4 for the sake of old clients in redis_version, and its own version beside it.
VERSION_LINES = (
    re.compile(r"^valkey_version:(\S+)", re.MULTILINE),
    re.compile(r"^redis_version:(\S+)", re.MULTILINE),
)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a holder asks for."""

    folder: Path
    choice: str | None
    grace_s: float
    wait_s: float

    @property
    def server_dir(self) -> Path:
        return self.folder / SERVER_FOLDER

    @property
    def log(self) -> Path:
        return self.server_dir / LOG_NAME


@dataclass(frozen=True, slots=True)
class _Joined:
    """The server that was found or started."""

    pid: int
    version: str
    started_here: bool


class EmbeddedServer:
    """A share of the server of a data folder, and a context manager that gives it back.

    The server runs at least as long as the share. A process that dies gives its shares back; a forked child keeps
    those of its parent for as long as it lives. Made by ``hold``.

    Attributes:
        data_dir: The data folder.
        url: Where the server answers, for any Redis client (``unix://…``); the same for the life of the share.
        pid: The server's process; another one after it was killed and started again (see ``ensure``).
        version: The server's version.
        started_here: Whether this holder started it, rather than found it.
    """

    def __init__(self, wish: _Wish, share: int, joined: _Joined) -> None:
        self._wish = wish
        self._share: int | None = share
        self.data_dir = wish.folder
        self.url = unix_url(socket_path(wish.folder))
        self.pid = joined.pid
        self.version = joined.version
        self.started_here = joined.started_here

    def ensure(self) -> None:
        """Make sure that the server answers, and start it again if it has gone with its supervisor.

        The supervisor itself restarts a server that died. This is for the rest: the supervisor was killed too.

        Raises:
            EmbeddedError: As ``hold``.
        """
        joined = _join(self._wish)
        self.pid, self.version = joined.pid, joined.version

    def close(self) -> None:
        """Give the share back; the server ends a grace after the last one. Twice is as good as once."""
        share, self._share = self._share, None
        if share is not None:
            os.close(share)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def hold(
    data_dir: str | Path | None = None,
    server: str | None = None,
    *,
    grace_s: float = GRACE_S,
    wait_s: float = WAIT_S,
) -> EmbeddedServer:
    """Make sure that one server runs on a data folder and hold a share of it.

    Any number of processes may call this at once; they share one server.

    Args:
        data_dir: The data folder; by default ``SIDESTREAM_DATA_DIR`` or the user's own.
        server: What to start if none runs, as ``locate_server`` takes it. A running one is shared whatever it is.
        grace_s: Seconds the server goes on after the last share, if it is started here.
        wait_s: Seconds to wait for an answer.

    Raises:
        DataFolderError: The data folder cannot be written, or its filesystem has no flock.
        ServerNotFoundError: No server runs and there is no binary to start.
        ServerTooOldError: The binary is too old.
        ServerStartError: The server ended before it answered; its last log lines are in the message.
        ServerTimeoutError: Nothing answered in time.
    """
    wish = _Wish(data_folder(data_dir), server, grace_s, wait_s)
    _prepare(wish)
    share = _take_share(wish)
    try:
        return EmbeddedServer(wish, share, _join(wish))
    except BaseException:
        os.close(share)
        raise


def _prepare(wish: _Wish) -> None:
    """Make the folders; they hold telemetry, so they are closed to other users."""
    folders = (wish.folder, wish.server_dir, wish.server_dir / AOF_FOLDER)
    way_out = f"set {DATA_DIR_VARIABLE} to a folder that can be written, or SIDESTREAM_REDIS_URL to a server you run"
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderError(f"the data folder {wish.folder} cannot be made ({error}): {way_out}") from error
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise DataFolderError(f"the data folder {wish.folder} cannot be written ({folder}): {way_out}")


def _make_runtime_folder(wish: _Wish) -> None:
    """Make the folder of the socket where the data folder's own path is too long for one."""
    folder = socket_path(wish.folder).parent
    if folder == wish.folder:
        return
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DataFolderError(f"the folder {folder} for the socket cannot be made: {error}") from error
    if not is_private(folder):
        raise DataFolderError(f"{folder} belongs to another user or is open to others; choose a shorter data folder")


def _take_share(wish: _Wish) -> int:
    """Return a descriptor with a shared lock on the data folder, after any server there that is about to end."""
    deadline = time.monotonic() + wish.wait_s
    while True:
        share = _open(wish.folder, wish)
        if _lock(share, fcntl.LOCK_SH, wish) and supervisor.is_same(share, wish.folder):
            return share
        os.close(share)
        if time.monotonic() > deadline:
            raise ServerTimeoutError(
                f"the server on {wish.folder} has been shutting down for {wish.wait_s:.0f} s; its log is {wish.log}"
            )
        time.sleep(POLL_S)


def _open(folder: Path, wish: _Wish) -> int:
    try:
        return open_folder(folder)
    except OSError as error:
        raise DataFolderError(f"the data folder {wish.folder} was removed or cannot be read ({error})") from error


def _lock(descriptor: int, mode: int, wish: _Wish) -> bool:
    try:
        return try_lock(descriptor, mode)
    except OSError as error:
        os.close(descriptor)
        raise LockUnsupportedError(
            f"the data folder {wish.folder} cannot be locked ({error}): set {DATA_DIR_VARIABLE} to a local folder"
        ) from error


def _join(wish: _Wish) -> _Joined:
    """Return the server that a living supervisor runs, after starting one if there is none."""
    deadline = time.monotonic() + wish.wait_s
    started_here = False
    while True:
        started_here = _start_if_unsupervised(wish, deadline) or started_here
        if (found := _introduction(socket_path(wish.folder))) is not None:
            return _Joined(*found, started_here)
        if time.monotonic() > deadline:
            raise _timed_out(wish)
        time.sleep(POLL_S)


def _introduction(path: Path) -> tuple[int, str] | None:
    """Return the process and the version of a server that is ready, else None."""
    if ask(path, "PING") != b"+PONG":  # INFO alone answers while the data are still being loaded
        return None
    text = (ask(path, "INFO", "server") or b"").decode(errors="replace")
    pid = PROCESS_LINE.search(text)
    versions = [found[1] for line in VERSION_LINES if (found := line.search(text))]
    return (int(pid[1]), versions[0]) if pid and versions else None


def _timed_out(wish: _Wish) -> ServerTimeoutError:
    return ServerTimeoutError(
        f"the server on {wish.folder} did not answer within {wish.wait_s:.0f} s; "
        f"the last lines of {wish.log}:\n{supervisor.tail(wish.log)}"
    )


def _start_if_unsupervised(wish: _Wish, deadline: float) -> bool:
    """Start a supervisor if none lives; whoever gets the claim does, and hands the claim over to it."""
    claim = _open(wish.server_dir, wish)
    if not _lock(claim, fcntl.LOCK_EX, wish):
        os.close(claim)
        return False
    try:
        _launch(wish, claim, deadline)
    finally:
        os.close(claim)  # the supervisor has inherited it
    return True


def _launch(wish: _Wish, claim: int, deadline: float) -> None:
    """Start a supervisor and wait until its server answers.

    Raises:
        EmbeddedError: There is no server to start, or it did not start.
    """
    plan = Plan(
        data_dir=str(wish.folder),
        socket_path=str(socket_path(wish.folder)),
        binary=str(locate_server(wish.choice).path),
        grace_s=wish.grace_s,
        claim=claim,
    )
    _make_runtime_folder(wish)
    start = _rotate(wish.log)
    report = _run_supervisor(plan, wish, deadline)
    if report.get("state") != "up":
        reason = report.get("reason", "its supervisor was killed or failed")
        raise ServerStartError(
            f"no server on {wish.folder}: {reason}; the last lines of {wish.log}:\n{supervisor.tail(wish.log, start)}"
        )


def _rotate(log: Path) -> int:
    """Set a long log aside and return where, in bytes, the next line will be."""
    size = log.stat().st_size if log.exists() else 0
    if size <= LOG_LIMIT_BYTES:
        return size
    log.replace(log.with_suffix(".log.1"))
    return 0


def _run_supervisor(plan: Plan, wish: _Wish, deadline: float) -> dict[str, str]:
    """Return what the supervisor reports; it goes on by itself."""
    # -I -S: neither the user's environment nor site-packages reach it.
    command = [sys.executable, "-I", "-S", supervisor.__file__, json.dumps(asdict(plan))]
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C"}
    try:
        with wish.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 (this package's own file)
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(plan.claim,),
                start_new_session=True,  # Ctrl-C in the terminal is not meant for the server
                cwd="/",
                env=environment,
                timeout=max(deadline - time.monotonic(), 0.0),
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise _timed_out(wish) from error
    except OSError as error:
        raise ServerStartError(f"the supervisor of the server cannot be started: {error}") from error
    report: dict[str, str] = json.loads(done.stdout or b"{}")
    return report
