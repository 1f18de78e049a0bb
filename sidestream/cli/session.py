"""What every command shares: its options, a client of the right server, and what an error means for its exit code.

Exit codes: 0 fine, 1 a finding (something is wrong with the data), 2 used wrongly, 3 Redis cannot be used, 4 what a
command prints cannot be written. Whoever stops reading (`| head`) has enough: that is fine.
"""

import asyncio
import io
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Final, NoReturn, TextIO, TypeAlias, cast

import anyio
import typer
from dotenv import dotenv_values
from rich.console import Console

from consumers.runtime.unit import OlderRecipeError
from consumers.versions import VersionsError
from pipeline.connection import AsyncServer, RedisSettings, ServerFacts, redact_url, server_facts
from pipeline.errors import RefusedError, SettingsError, SidestreamError, UnknownOutcomeError, UnreachableError
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from sidestream.embedded import EmbeddedError, EmbeddedServer, hold
from sidestream.settings import DATA_DIR_VARIABLE, SERVER_VARIABLE, load_settings

EXIT_FINDING: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_OUTPUT: Final = 4
EXIT_INTERRUPTED: Final = 130
"""As shells have it for Ctrl-C."""

Namespace: TypeAlias = Annotated[
    str | None, typer.Option("--namespace", help="Which namespace; default SIDESTREAM_NAMESPACE, else 'sidestream'.")
]
RedisUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--redis-url", help="Where Redis is; default SIDESTREAM_REDIS_URL, else the embedded server."),
]
HealthPort: TypeAlias = Annotated[
    int | None,
    typer.Option("--health-port", help="The port where a worker tells its health; default SIDESTREAM_HEALTH_PORT."),
]
HealthHost: TypeAlias = Annotated[
    str | None,
    typer.Option("--health-host", help="The address there; default SIDESTREAM_HEALTH_HOST, else 127.0.0.1."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command works: what its options say, None where they say nothing."""

    namespace: str | None = None
    redis_url: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """An open, fit server and the namespace to work in."""

    server: AsyncServer
    keys: Keys
    partitions: int
    facts: ServerFacts
    url: str
    revive: Callable[[], None] | None = None
    """Brings the embedded server back, where this is one."""

    @property
    def shown_url(self) -> str:
        """The server's address without its password."""
        return redact_url(self.url)


def environment() -> dict[str, str]:
    """Return the environment over the `.env` file of the working folder, which only the command line reads."""
    try:
        from_file = {name: value for name, value in dotenv_values(Path(".env")).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f".env: cannot be read: {error}") from error
    return {**from_file, **os.environ}


@asynccontextmanager
async def open_session(place: Place, environ: Mapping[str, str] | None = None) -> AsyncGenerator[Session]:
    """Open the server that the options, the settings or the embedded default name, and see that it is fit.

    Raises:
        SidestreamError: A setting is wrong; Redis is away, refuses us, or is unfit.
        EmbeddedError: No server was named and none could be started.
    """
    given = {"namespace": place.namespace, "redis_url": place.redis_url}
    variables = environ or environment()
    settings = load_settings(
        {name: value for name, value in given.items() if value is not None}, variables, place="--{}"
    )
    async with AsyncExitStack() as stack:
        embedded = None if settings.redis_url else stack.enter_context(_embedded(variables))
        url = embedded.url if embedded else settings.redis_url or ""
        server = AsyncServer(RedisSettings(url))
        stack.push_async_callback(server.aclose)
        facts = await _facts(server, url)
        if problems := facts.problems():
            raise RefusedError(f"the server at {redact_url(url)} cannot be used: {'; '.join(problems)}")
        keys = Keys(settings.publish.namespace)
        yield Session(server, keys, await read_partitions(server, keys), facts, url, embedded and embedded.ensure)


async def _facts(server: AsyncServer, url: str) -> ServerFacts:
    try:
        return server_facts(await server.call("INFO"))
    except SidestreamError as error:
        raise type(error)(f"{redact_url(url)}: {error}") from error


def _embedded(variables: Mapping[str, str]) -> EmbeddedServer:
    return hold(variables.get(DATA_DIR_VARIABLE) or None, variables.get(SERVER_VARIABLE) or None)


def run_async(command: Callable[[], Awaitable[int]]) -> None:
    """Run a command's coroutine and exit with its code; say an error in one line on standard error."""
    try:
        code = anyio.run(command)
        sys.stdout.flush()
    except BrokenPipeError:
        _write_nowhere()
        raise typer.Exit(0) from None
    except SettingsError as error:
        fail(str(error), EXIT_USAGE)
    except (OlderRecipeError, VersionsError) as error:
        fail(str(error), EXIT_FINDING)
    except (UnreachableError, UnknownOutcomeError, RefusedError) as error:
        fail(f"{error}\nCheck --redis-url or SIDESTREAM_REDIS_URL, and that server.", EXIT_UNREACHABLE)
    except (SidestreamError, EmbeddedError) as error:
        fail(str(error), EXIT_UNREACHABLE)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except OSError as error:
        _write_nowhere()
        fail(f"{error.filename or 'the output'} cannot be written: {error.strerror or error}", EXIT_OUTPUT)
    else:
        raise typer.Exit(code)


def _write_nowhere() -> None:
    """Let what Python would still write to standard output as it ends go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_until_interrupted(command: Callable[[], Awaitable[int]]) -> None:
    """Run a command that may take for ever; Ctrl-C ends it wherever it is.

    The asyncio client (redis-py 8.1) can take a single cancellation for a time-out of its own; a scope's is repeated.
    """

    async def interruptible() -> int:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, scope.cancel)
            return await command()
        return EXIT_INTERRUPTED

    run_async(interruptible)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong, and exit.

    Raises:
        Exit: Always.
    """
    sys.stderr.write(f"sidestream: {message}\n")
    raise typer.Exit(code)


def console() -> Console:
    """Return a console for standard output: colours and the terminal's width where there is one, else 120 columns."""
    terminal = sys.stdout.isatty()
    known = terminal or "COLUMNS" in os.environ
    file = sys.stdout if terminal else cast("IO[str]", _Unpadded(sys.stdout))
    return _Console(file=file, soft_wrap=False, highlight=False, width=None if known else 120)


class _Console(Console):
    """A console that leaves it to the command what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        """Raise it again: rich would end the program with 1, which is a finding here."""
        raise BrokenPipeError


class _Unpadded(io.TextIOBase):
    """Text for a file or another program: without the blanks that fill a line up to the terminal's width."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - an attribute in the typeshed
        """Say how text is written, as rich asks."""
        return self._file.encoding

    def write(self, text: str, /) -> int:
        """Write whole lines, as rich does."""
        self._file.write(_PADDING.sub("\n", text))
        return len(text)

    def flush(self) -> None:
        """Pass on what is written."""
        self._file.flush()


_PADDING: Final = re.compile(r"[ \t]+\n")


def print_json(document: bytes) -> None:
    """Print one JSON document."""
    sys.stdout.write(document.decode() + "\n")
