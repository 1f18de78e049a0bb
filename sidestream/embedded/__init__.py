"""A real server on a unix socket for machines that have no Redis, shared by all commands of one user.

The command line holds a share of it (``hold``); the application only looks whether one answers (``socket_url``) and
never starts one. Everything here needs the standard library alone, so looking costs an application nothing it lacks.
"""

from sidestream.embedded.binary import ServerBinary, locate_server
from sidestream.embedded.errors import (
    DataFolderError,
    EmbeddedError,
    LockUnsupportedError,
    ServerNotFoundError,
    ServerStartError,
    ServerTimeoutError,
    ServerTooOldError,
)
from sidestream.embedded.locate import data_folder, socket_url
from sidestream.embedded.server import EmbeddedServer, hold
from sidestream.embedded.supervisor import tie_to_parent

__all__ = [
    "DataFolderError",
    "EmbeddedError",
    "EmbeddedServer",
    "LockUnsupportedError",
    "ServerBinary",
    "ServerNotFoundError",
    "ServerStartError",
    "ServerTimeoutError",
    "ServerTooOldError",
    "data_folder",
    "hold",
    "locate_server",
    "socket_url",
    "tie_to_parent",
]
