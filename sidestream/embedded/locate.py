"""Where the embedded server's data and socket are, and whether one answers there.

**Keeps:** the command line and the application, in whatever environment each of them runs, find the same socket for
the same data folder: its path depends on the folder, the user and nothing else.
"""

import hashlib
import os
import stat
import sys
from pathlib import Path
from urllib.parse import quote

from sidestream.embedded.errors import DataFolderError
from sidestream.embedded.supervisor import ask

DATA_DIR_VARIABLE = "SIDESTREAM_DATA_DIR"

SOCKET_NAME = "server.sock"

# Source: unix(7), sun_path is 108 bytes with its NUL; 104 on macOS and the BSDs. The smaller one everywhere.
SOCKET_PATH_LIMIT_BYTES = 103


def data_folder(override: str | Path | None = None) -> Path:
    """Return the absolute path of the data folder, without making it.

    The rule is that of platformdirs, written out: a bare application has no platformdirs but must find what the
    command line made.

    Args:
        override: The folder to use; otherwise ``SIDESTREAM_DATA_DIR``, otherwise the user's data folder.

    Raises:
        DataFolderError: The user has no home folder.
    """
    chosen = override or os.environ.get(DATA_DIR_VARIABLE)
    try:
        # Resolved, so that two names of one folder meet at one socket.
        folder = Path(chosen).expanduser() if chosen else _user_data_folder() / "sidestream"
        return folder.resolve()
    except (OSError, RuntimeError) as error:
        raise DataFolderError(f"no data folder can be found ({error}); set {DATA_DIR_VARIABLE}") from error


def socket_path(folder: Path) -> Path:
    """Return where the server of a data folder listens.

    A path too long for the operating system is replaced by one in a runtime folder of the user's own.

    Args:
        folder: A data folder as ``data_folder`` returns it.
    """
    path = folder / SOCKET_NAME
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    # A fixed place: TMPDIR and XDG_RUNTIME_DIR differ between a terminal, cron and a service of the same user.
    return Path(f"/tmp/sidestream-{os.getuid()}-{digest}/{SOCKET_NAME}")  # noqa: S108 (made and checked as private)


def is_private(folder: Path) -> bool:
    """Say whether a folder is a real one, of this user, closed to all others."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077


def unix_url(path: Path) -> str:
    """Return the URL of a unix socket, as Redis clients read it."""
    return f"unix://{quote(os.fsencode(path))}"


def socket_url(data_dir: str | Path | None = None) -> str | None:
    """Return the URL of the embedded server if one answers, else None; never raises, starts or makes anything.

    A server that still loads its data counts as answering: whoever connects retries anyway.

    Args:
        data_dir: The data folder; by default as ``data_folder`` finds it.
    """
    try:
        folder = data_folder(data_dir)
    except DataFolderError:
        return None
    path = socket_path(folder)
    if path.parent != folder and not is_private(path.parent):
        return None  # another user may have put a server of their own there
    reply = ask(path, "PING")
    return unix_url(path) if reply is not None and reply.startswith((b"+PONG", b"-LOADING")) else None


def _user_data_folder() -> Path:
    """Return the folder of the platform for data of this user's applications.

    Source: XDG Base Directory Specification 0.8; a relative XDG_DATA_HOME is to be ignored.
    """
    given = Path(os.environ.get("XDG_DATA_HOME", ""))
    if given.is_absolute():
        return given
    return Path.home() / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")
