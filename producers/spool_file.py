"""One file of the spool: sealed frames in SQLite, with one owner, bounded on disk.

Keeps:
- One owner: whoever holds the lock beside the file. It is a `flock`, which dies with its holder; a forked child closes
  the copy it inherits, and never touches its parent's connection. The lock is not on the file itself: SQLite's own
  locks vanish when any descriptor of the file is closed.
- The lock is made first and removed last, so a file without one belongs to nobody.
- A frame that was written comes back as it was, or not at all: each row carries a checksum.
- The file and its log stay within the limit: SQLite refuses the page that would pass it.

It runs in `locking_mode=EXCLUSIVE`: no shared memory, which a truncated or full disk could turn into a SIGBUS of the
application.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import sqlite3
import threading
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import msgspec
from msgspec import Struct

from pipeline.errors import SidestreamError, TransientError
from pipeline.stream import SealedFrame

SUFFIX: Final = ".spool"
FORMAT: Final = 1
"""Stands in the file; another one is left alone."""

PAGE_BYTES: Final = 4096
_LOG_PART: Final = 8
"""One part in so many of the limit is for SQLite's log."""

_BUSY_S: Final = 0.0
_TABLES: Final = """
CREATE TABLE frames (
    ordinal INTEGER PRIMARY KEY, part INTEGER NOT NULL, first INTEGER NOT NULL, events INTEGER NOT NULL,
    codec TEXT NOT NULL, sealed_ms INTEGER NOT NULL, aside TEXT NOT NULL DEFAULT '', checksum INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE owner (about BLOB NOT NULL);
"""

Aside: TypeAlias = Literal["expired", "refused", "broken"]
"""Why a frame is kept and never sent: too old, refused by the server for good, or not as it was written."""


class SpoolError(SidestreamError):
    """The file cannot be used as it is."""

    code = "spool"


class SpoolFullError(TransientError):
    """There is no room: the limit is reached, or the disk is full."""

    code = "spool_full"


class Owner(Struct, frozen=True):
    """Who wrote a file: what its lock says for those who may not open it, and the file for those who inherit it."""

    producer: str
    namespace: str
    service: str = ""
    version: str = ""
    environment: str = ""
    instance: str = ""
    pid: int = 0
    started_ms: int = 0
    partitions: int = 0
    frames: int = 0
    events: int = 0
    oldest_ms: int = 0


class StoredFrame(Struct, frozen=True):
    """A frame as the file has it: `ordinal` is its place in order of sealing, `sealed_ms` the wall clock."""

    ordinal: int
    sealed_ms: int
    frame: SealedFrame


class Totals(Struct, frozen=True):
    """What a file holds to be sent, and what of it is set aside (frames)."""

    frames: int = 0
    events: int = 0
    first: int = 0
    last: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0
    aside: int = 0


class SpoolFile:
    """An open file whose lock we hold; used by one thread."""

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        self._connection = connection
        self._sync = "FULL"
        _OPEN.append(self)

    @classmethod
    def create(cls, folder: Path, owner: Owner, limit_bytes: int) -> "SpoolFile":
        """Make the file of a new producer.

        Raises:
            SpoolFullError: The limit or the disk has no room for it.
            SpoolError: It cannot be made.
        """
        path = folder / f"{owner.producer}{SUFFIX}"
        with _translated(path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                made = cls(path, lock, _connect(path))
            except BaseException:
                _remove(path)
                os.close(lock)
                raise
        try:
            made._lay_out(owner, limit_bytes)
        except BaseException:
            made.remove()
            raise
        return made

    def _lay_out(self, owner: Owner, limit_bytes: int) -> None:
        pages = limit_bytes // PAGE_BYTES
        log_pages = max(4, min(1000, pages // _LOG_PART))
        with _translated(self.path, writing=True):
            self._run(f"PRAGMA page_size={PAGE_BYTES}")
            self._run("PRAGMA journal_mode=WAL")
            self._run(f"PRAGMA max_page_count={max(1, pages - log_pages)}")
            self._run(f"PRAGMA wal_autocheckpoint={log_pages // 2}")
            self._run(f"PRAGMA journal_size_limit={log_pages * PAGE_BYTES}")
            self._run("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _TABLES.split(";")):
                self._run(statement)
            self._run("INSERT INTO owner VALUES (?)", (msgspec.json.encode(owner),))
            self._run(f"PRAGMA user_version={FORMAT}")
            self._run("COMMIT")
        self.say(owner)

    @classmethod
    def adopt(cls, path: Path) -> "SpoolFile | None":
        """Take the file of a producer that is gone; None while it has an owner, or where there is nothing any more.

        Raises:
            SpoolError: It is not for us: not ours to read, not a file we know.
        """
        with _translated(path):
            lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return None
            if not _is_still_there(lock, path):
                os.close(lock)
                return None
            try:
                return cls(path, lock, _connect(path))
            except BaseException:
                os.close(lock)
                raise

    def check(self) -> None:
        """See that the file is one of ours, and whole.

        Raises:
            SpoolError: It is not; code `spool_format` where another version wrote it, `spool_empty` where its owner
                died before the first write.
        """
        with _translated(self.path):
            self._run("PRAGMA journal_mode=WAL")
            (found,) = self._one("PRAGMA user_version")
            if found == 0:
                raise SpoolError(f"{self.path.name} was begun and never written", code="spool_empty")
            if found != FORMAT:
                raise SpoolError(f"{self.path.name} has format {found}, not {FORMAT}", code="spool_format")
            (verdict,) = self._one("PRAGMA quick_check(1)")
            if verdict != "ok":
                raise SpoolError(f"{self.path.name} is damaged: {verdict}")

    def owner(self) -> Owner:
        """Return who wrote the file.

        Raises:
            SpoolError: The file does not say.
        """
        with _translated(self.path):
            (about,) = self._one("SELECT about FROM owner")
            return msgspec.json.decode(cast("bytes", about), type=Owner)

    def totals(self) -> Totals:
        """Return what the file holds.

        Raises:
            SpoolError: It cannot be read.
        """
        with _translated(self.path):
            numbers = self._one(
                "SELECT count(*), coalesce(sum(events), 0), coalesce(min(ordinal), 0), coalesce(max(ordinal), 0),"
                " coalesce(min(sealed_ms), 0), coalesce(max(sealed_ms), 0) FROM frames WHERE aside = ''"
            )
            (aside,) = self._one("SELECT count(*) FROM frames WHERE aside <> ''")
        return Totals(*map(int, numbers), aside=int(aside))

    def partitions(self) -> int:
        """Return the number of partitions that its frames need.

        Raises:
            SpoolError: It cannot be read.
        """
        with _translated(self.path):
            (found,) = self._one("SELECT coalesce(max(part), 0) + 1 FROM frames")
        return int(found)

    def write(self, frames: Sequence[StoredFrame], *, trim_to: int, sync: bool) -> None:
        """Write frames and forget those up to `trim_to`, both or neither.

        Args:
            frames: In order.
            trim_to: The ordinal up to which everything has been delivered.
            sync: Return only when it is on the disk, with everything written before.

        Raises:
            SpoolFullError: There is no room; nothing was written.
            SpoolError: The file is broken.
        """
        with _translated(self.path, writing=True):
            self._set_sync("FULL" if sync else "NORMAL")
            try:
                self._run("BEGIN IMMEDIATE")
                self._run("DELETE FROM frames WHERE ordinal <= ? AND aside = ''", (trim_to,))
                self._connection.executemany(
                    "INSERT INTO frames (ordinal, part, first, events, codec, sealed_ms, checksum, body)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    map(_row, frames),
                )
                self._run("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
                raise

    def read(self, producer: str, first: int, most: int, most_bytes: int) -> tuple[list[StoredFrame], list[int]]:
        """Read frames from the ordinal `first` on, as far as they fit; also the ordinals of damaged ones passed over.

        Raises:
            SpoolError: The file is broken.
        """
        found: list[StoredFrame] = []
        damaged: list[int] = []
        size = 0
        with _translated(self.path):
            rows = self._connection.execute(
                "SELECT ordinal, part, first, events, codec, sealed_ms, checksum, body FROM frames"
                " WHERE ordinal >= ? AND aside = '' ORDER BY ordinal LIMIT ?",
                (first, most),
            )
            for ordinal, part, first_seq, events, codec, sealed_ms, checksum, body in rows:
                stored = StoredFrame(
                    ordinal, sealed_ms, SealedFrame(part, producer, first_seq, events, codec, bytes(body))
                )
                if checksum != _checksum(stored):
                    damaged.append(ordinal)
                    continue
                size += len(body)
                if found and size > most_bytes:
                    break
                found.append(stored)
            rows.close()
        return found, damaged

    def set_aside(self, ordinals: Iterable[int], reason: Aside) -> None:
        """Keep frames that are never to be sent.

        Raises:
            SidestreamError: See `write`.
        """
        with _translated(self.path, writing=True):
            self._connection.executemany(
                "UPDATE frames SET aside = ? WHERE ordinal = ?", [(reason, ordinal) for ordinal in ordinals]
            )

    def reasons(self) -> set[str]:
        """Return why frames of it were set aside."""
        with _translated(self.path):
            return {row[0] for row in self._connection.execute("SELECT DISTINCT aside FROM frames WHERE aside <> ''")}

    def say(self, owner: Owner) -> None:
        """Write into the lock what those may know who cannot open the file."""
        text = msgspec.json.encode(owner)
        with contextlib.suppress(OSError):  # on a full disk it stays as it was: it is a courtesy
            os.pwrite(self._lock, text, 0)
            os.ftruncate(self._lock, len(text))

    def close(self) -> None:
        """Leave the file to whoever takes it."""
        self._let_go()
        os.close(self._lock)

    def remove(self) -> None:
        """Delete the file: everything was delivered."""
        self._let_go()
        _remove(self.path)
        os.close(self._lock)

    def rename(self, reason: str) -> Path:
        """Put the file out of the way under a name that says why, and return its new path."""
        self._let_go()
        target = self.path.with_name(f"{self.path.name}.{reason}")
        with _translated(self.path):
            for ending in ("-wal", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{ending}").rename(f"{target}{ending}")
            _remove(self.path)
        os.close(self._lock)
        return target

    def disown(self) -> None:
        """Let go of what a forked child has inherited, without a trace in the file."""
        with contextlib.suppress(OSError):
            os.close(self._lock)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    def _let_go(self) -> None:
        _OPEN.remove(self)
        with _Fork.busy, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _run(self, statement: str, arguments: Sequence[object] = ()) -> None:
        self._connection.execute(statement, arguments).close()

    def _one(self, statement: str) -> tuple[int | str | bytes, ...]:
        row: tuple[int | str | bytes, ...] | None = self._connection.execute(statement).fetchone()
        if row is None:
            raise SpoolError(f"{self.path.name} is damaged: a row is missing")
        return row

    def _set_sync(self, sync: str) -> None:
        if sync != self._sync:
            self._run(f"PRAGMA synchronous={sync}")
            self._sync = sync


def spool_files(folder: Path) -> list[Path]:
    """Return the files of a folder that hold frames to be sent, oldest first."""
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):
        for path in folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def disk_bytes(path: Path) -> int:
    """Return the bytes of a file and its log; 0 where there is none."""
    total = 0
    for ending in ("", "-wal"):
        with contextlib.suppress(OSError):
            total += Path(f"{path}{ending}").stat().st_size
    return total


def last_word(path: Path) -> Owner | None:
    """Return what the lock of a file says, None where it says nothing."""
    try:
        return msgspec.json.decode(_lock_path(path).read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None


def has_owner(path: Path) -> bool:
    """Return whether a living process holds the lock of a file."""
    try:
        lock = os.open(_lock_path(path), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE").close()
    connection.execute("PRAGMA synchronous=FULL").close()
    return connection


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _is_still_there(lock: int, path: Path) -> bool:
    """Return whether a lock just taken is that of a file that still exists: its last owner may have removed both."""
    try:
        same = os.path.samestat(os.fstat(lock), _lock_path(path).stat())
    except FileNotFoundError:
        return False
    if same and not path.exists():
        _lock_path(path).unlink(missing_ok=True)
        return False
    return same


def _remove(path: Path) -> None:
    for ending in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(OSError):
            Path(f"{path}{ending}").unlink()
    with contextlib.suppress(OSError):
        _lock_path(path).unlink()


def _row(stored: StoredFrame) -> tuple[int, int, int, int, str, int, int, bytes]:
    frame = stored.frame
    return (
        stored.ordinal,
        frame.partition,
        frame.first_seq,
        frame.count,
        frame.codec,
        stored.sealed_ms,
        _checksum(stored),
        frame.body,
    )


def _checksum(stored: StoredFrame) -> int:
    frame = stored.frame
    head = f"{stored.ordinal} {frame.partition} {frame.first_seq} {frame.count} {frame.codec} {stored.sealed_ms} "
    return zlib.crc32(frame.body, zlib.crc32(head.encode()))


_FULL: Final = {sqlite3.SQLITE_FULL}
_FULL_TO_WRITE: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
"""A quota or a limit on file sizes reaches SQLite as an I/O error; what it read before is as good as it was."""
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def _translated(path: Path, *, writing: bool = False) -> Generator[None]:
    try:
        with _Fork.busy:
            yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (_FULL_TO_WRITE if writing else _FULL):
            raise SpoolFullError(f"{path.name}: {error}") from error
        raise SpoolError(f"{path.name}: {error}") from error
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise SpoolError(f"{path.name} is damaged: {error}") from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise SpoolFullError(f"{path.name}: {error}") from error
        raise SpoolError(f"{path.name}: {error}") from error


_OPEN: Final[list[SpoolFile]] = []

_FORK_WAIT_S: Final = 0.2
"""How long a fork waits for a write that is under way: usually a millisecond, on a slow disk not for ever."""


class _Fork:
    """Held while SQLite works, and across a fork: its own locks would otherwise be copied as they stand, locked."""

    busy = threading.Lock()
    held: Final = threading.local()


def _before_fork() -> None:
    _Fork.held.yes = _Fork.busy.acquire(timeout=_FORK_WAIT_S)


def _in_parent() -> None:
    if _Fork.held.yes:
        _Fork.busy.release()


def _in_child() -> None:
    """Forget the parent's files: its lock must not outlive it here, and its connections must never be closed here.

    A copied connection believes that it holds SQLite's exclusive lock: closed, even by the end of the interpreter, it
    would delete the log that the parent writes to. So it gets a reference that nobody gives back.
    """
    _Fork.busy = threading.Lock()
    for file in _OPEN:
        file.disown()
    _OPEN.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
