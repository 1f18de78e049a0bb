"""What can go wrong with the embedded server.

::

    EmbeddedError                 embedded
    ├── ServerNotFoundError       server_not_found     no binary for this platform, or not a server at all
    ├── ServerTooOldError         server_too_old       older than Redis 7.0 or Valkey 7.2
    ├── DataFolderError           data_folder          the folder cannot be made, written or trusted
    │   └── LockUnsupportedError  lock_unsupported     its filesystem has no flock
    ├── ServerStartError          server_start         the server ended before it answered; its last words are included
    └── ServerTimeoutError        server_timeout       nothing answered in the time given
"""

from typing import ClassVar


class EmbeddedError(Exception):
    """The embedded server cannot be used; the sentence says why and what to do."""

    code: ClassVar[str] = "embedded"


class ServerNotFoundError(EmbeddedError):
    """There is no server binary to start."""

    code: ClassVar[str] = "server_not_found"


class ServerTooOldError(EmbeddedError):
    """The chosen server lacks what the scripts and streams need."""

    code: ClassVar[str] = "server_too_old"


class DataFolderError(EmbeddedError):
    """The data folder cannot be made, written or trusted."""

    code: ClassVar[str] = "data_folder"


class LockUnsupportedError(DataFolderError):
    """The data folder lies on a filesystem without flock, so sharing one server safely is not possible."""

    code: ClassVar[str] = "lock_unsupported"


class ServerStartError(EmbeddedError):
    """The server ended, or refused to start, before it answered."""

    code: ClassVar[str] = "server_start"


class ServerTimeoutError(EmbeddedError):
    """No server answered in the time given."""

    code: ClassVar[str] = "server_timeout"
