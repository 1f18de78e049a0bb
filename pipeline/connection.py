"""The door to Redis: commands go out once, replies come back raw, vendor errors become ours.

Keeps:
- A command is sent at most once. redis-py would send it up to eleven times (one `xadd()` can leave
  two entries), so its retries are never reached: connections are driven directly.
- Nothing sent and then unanswered is called a failure: it is an `UnknownOutcomeError`.
- Replies are RESP2 as the server wrote them: bytes, int, None and lists.
"""

import contextlib

# The client library (redis-py 8.1), and the socket module, would import these at the first connection, on whichever
# thread that is: a child forked in that moment could never connect, for it would find half of a module.
import encodings.idna  # noqa: F401  # pyright: ignore[reportUnusedImport]
import re
import secrets  # noqa: F401  # pyright: ignore[reportUnusedImport]
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

import hiredis
import redis
import redis.asyncio
from redis import exceptions as vendor
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.errors import (
    CapacityError,
    RefusedError,
    ScriptMissingError,
    SettingsError,
    SidestreamError,
    UnavailableError,
    UnknownOutcomeError,
    UnreachableError,
)

Arg: TypeAlias = str | bytes | int
Command: TypeAlias = Sequence[Arg]
Reply: TypeAlias = Any
"""What the server answered: bytes, int, None or a list of these; its callers parse it on the spot."""

_URL_OPTIONS = frozenset({"db", "username", "password"})
_SECRETS = re.compile(r"(?<=://)([^:/@]*):.*@|(?<=[?&]password=)[^&]*")

MIN_REDIS = (7, 0)
MIN_VALKEY = (7, 2)

_UNAVAILABLE = (
    "LOADING",
    "MISCONF",
    "READONLY",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MASTERDOWN",
    "NOREPLICAS",
    "BUSY",
    "UNBLOCKED",
    "MOVED",
    "ASK",
)
_UNAVAILABLE_TYPES = (
    vendor.BusyLoadingError,
    vendor.ReadOnlyError,
    vendor.TryAgainError,
    vendor.ClusterDownError,
    vendor.AskError,
)


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Where Redis is, and how long to wait for it (seconds)."""

    url: str = field(default="redis://127.0.0.1:6379/0", repr=False)
    connect_timeout_s: float = 2.0
    answer_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
        except ValueError as error:
            raise SettingsError(f"redis url {redact_url(self.url)!r}: {error}") from error
        scheme = parts.scheme
        if scheme == "redis+cluster":
            raise SettingsError("redis url: redis+cluster:// is not supported yet; give the address of one server")
        if scheme not in {"redis", "rediss", "unix"}:
            raise SettingsError(f"redis url {redact_url(self.url)!r}: use redis://, rediss:// or unix://")
        if scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+", parts.path):
            raise SettingsError(f"redis url {redact_url(self.url)!r}: {parts.path!r} is no number of a database")
        for name, _ in parse_qsl(parts.query, keep_blank_values=True):
            # redis-py lets the query override what this module relies on: protocol, time-outs, decoding, retries.
            if name not in _URL_OPTIONS and not name.startswith("ssl_"):
                raise SettingsError(f"redis url {redact_url(self.url)!r}: option {name!r} cannot be set there")

    def pool_options(self) -> dict[str, Any]:
        """Return what both kinds of pool are opened with."""
        return {
            "socket_connect_timeout": self.connect_timeout_s,
            "socket_timeout": self.answer_timeout_s,
            "protocol": 2,
            "health_check_interval": 0,
            "max_connections": 10_000,
        }


def redact_url(url: str) -> str:
    """Return `url` without its password."""
    return _SECRETS.sub(lambda found: "***" if found[1] is None else f"{found[1]}:***@", url)


class RunnableScript(Protocol):
    """What a connection needs to know of a script (`pipeline.scripting.Script`)."""

    @property
    def sha(self) -> str: ...  # noqa: D102 - a protocol's attribute
    @property
    def text(self) -> str: ...  # noqa: D102 - a protocol's attribute


def _evalsha(script: RunnableScript, keys: Sequence[str], args: Sequence[Arg]) -> list[Arg]:
    return ["EVALSHA", script.sha, len(keys), *keys, *args]


def _eval(script: RunnableScript, keys: Sequence[str], args: Sequence[Arg]) -> list[Arg]:
    return ["EVAL", script.text, len(keys), *keys, *args]


class Server:
    """A synchronous client, for one thread at a time (the publisher owns one)."""

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self._pool = cast("Any", _open_pool(redis.ConnectionPool, settings, retry=Retry(NoBackoff(), 0)))

    def call(self, *command: Arg) -> Reply:
        """Send one command and return its reply.

        Raises:
            SidestreamError: See `pipeline.errors`; translated from whatever the client or the server said.
        """
        return _raised(self.batch([command])[0])

    def run(self, script: RunnableScript, keys: Sequence[str], args: Sequence[Arg]) -> Reply:
        """Run a script by its hash, by its text where the server does not know it.

        Raises:
            SidestreamError: See `call`.
        """
        try:
            return self.call(*_evalsha(script, keys, args))
        except ScriptMissingError:
            return self.call(*_eval(script, keys, args))

    def batch(self, commands: Sequence[Command]) -> list[Reply | SidestreamError]:
        """Send commands in one write and return a reply or an error for each.

        Raises:
            UnreachableError: There is no connection; nothing was sent.
            UnknownOutcomeError: The connection was lost, or no answer came in time.
            RefusedError: The server does not let us in.
        """
        with _translated(sent=False):
            connection = self._pool.get_connection()
        try:
            with _translated(sent=True), _closing_on_error(connection):
                connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                replies = [self._read(connection) for _ in commands]
            if _has_moved(replies):
                connection.disconnect()
            return replies
        finally:
            self._pool.release(connection)

    @staticmethod
    def _read(connection: Any) -> Reply | SidestreamError:
        try:
            return connection.read_response()
        except vendor.ResponseError as error:
            return translate(error, sent=True)

    def close(self) -> None:
        """Close every connection; a later call opens a new one."""
        self._pool.disconnect()


class AsyncServer:
    """An asynchronous client, for any number of tasks of one event loop."""

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self._pool = cast("Any", _open_pool(redis.asyncio.ConnectionPool, settings, retry=AsyncRetry(NoBackoff(), 0)))

    async def call(self, *command: Arg) -> Reply:
        """Send one command and return its reply; see `Server.call`.

        Raises:
            SidestreamError: See `Server.call`.
        """
        return _raised((await self.batch([command]))[0])

    async def run(self, script: RunnableScript, keys: Sequence[str], args: Sequence[Arg]) -> Reply:
        """Run a script; see `Server.run`.

        Raises:
            SidestreamError: See `Server.call`.
        """
        try:
            return await self.call(*_evalsha(script, keys, args))
        except ScriptMissingError:
            return await self.call(*_eval(script, keys, args))

    async def batch(self, commands: Sequence[Command]) -> list[Reply | SidestreamError]:
        """Send commands in one write and return a reply or an error for each; see `Server.batch`.

        Raises:
            SidestreamError: See `Server.batch`.
        """
        with _translated(sent=False):
            connection = await self._pool.get_connection()
        whole = False
        try:
            with _translated(sent=True):
                # redis-py packs in Python for asyncio: a commit of ten thousand arguments takes it twice as long.
                packed = [_pack(tuple(command)) for command in commands]
                await connection.send_packed_command(packed, check_health=False)
                replies = [await self._read(connection) for _ in commands]
            whole = not _has_moved(replies)
            return replies
        finally:
            if not whole:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one write and return their replies.

        Raises:
            SidestreamError: The first error among the answers; see `Server.call`.
        """
        return [_raised(reply) for reply in await self.batch(commands)] if commands else []

    @staticmethod
    async def _read(connection: Any) -> Reply | SidestreamError:
        try:
            return await connection.read_response()
        except vendor.ResponseError as error:
            return translate(error, sent=True)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.disconnect()


_pack = cast("Callable[[tuple[Arg, ...]], bytes]", hiredis.pack_command)


def _open_pool(kind: Any, settings: RedisSettings, *, retry: object) -> object:
    try:
        return kind.from_url(settings.url, retry=retry, **settings.pool_options())
    except ValueError as error:
        raise SettingsError(f"redis url {redact_url(settings.url)!r}: {error}") from error


def _has_moved(replies: Sequence[Reply | SidestreamError]) -> bool:
    # A demoted primary answers READONLY for ever: only a new connection finds who is primary behind the address now.
    return any(isinstance(reply, UnavailableError) for reply in replies)


def _raised(reply: Reply | SidestreamError) -> Reply:
    if isinstance(reply, SidestreamError):
        raise reply
    return reply


@contextlib.contextmanager
def _translated(*, sent: bool) -> Generator[None]:
    try:
        yield
    except (vendor.RedisError, OSError) as error:
        raise translate(error, sent=sent) from error


@contextlib.contextmanager
def _closing_on_error(connection: Any) -> Generator[None]:
    # A reply that was not read would answer the next command.
    try:
        yield
    except BaseException:
        connection.disconnect()
        raise


def translate(error: Exception, *, sent: bool) -> SidestreamError:
    """Return our error for a vendor's; `sent` says whether the command may have reached the server."""
    if type(error) is vendor.ConnectionError and isinstance(error.__cause__, vendor.RedisError):
        # The asyncio client (redis-py 8.1) says "no connection" of what the server answered to its greeting: NOAUTH,
        # WRONGPASS, LOADING.
        error = error.__cause__
    text = str(error)
    match error:
        case vendor.NoScriptError():
            return ScriptMissingError(text)
        case vendor.OutOfMemoryError():
            return CapacityError(f"Redis is full: {text}")
        case (
            vendor.AuthenticationError() | vendor.NoPermissionError() | vendor.AuthorizationError() | vendor.DataError()
        ):
            return RefusedError(f"Redis refuses this client or this command: {text}")
        case vendor.ResponseError() | vendor.BusyLoadingError():
            return _translate_answer(error, text)
        case _ if sent:
            return UnknownOutcomeError(f"no answer from Redis: {text or type(error).__name__}")
        case _:
            return UnreachableError(f"no connection to Redis: {text or type(error).__name__}")


def _translate_answer(error: Exception, text: str) -> SidestreamError:
    if isinstance(error, _UNAVAILABLE_TYPES) or text.partition(" ")[0] in _UNAVAILABLE:
        return UnavailableError(f"Redis is not ready: {text}")
    if text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        return RefusedError(f"Redis refuses this client: {text}")
    if "OOM command not allowed" in text:
        return CapacityError(f"Redis is full: {text}")
    return RefusedError(text)


def parse_info(reply: bytes) -> dict[str, str]:
    """Parse the text of INFO into its fields."""
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What INFO says of the server that matters here."""

    product: str
    version: str
    eviction: str
    aof: bool

    def problems(self) -> list[str]:
        """Return what makes this server unfit, each with what to do; empty when it is fit."""
        found: list[str] = []
        least = MIN_VALKEY if self.product == "valkey" else MIN_REDIS
        if _version(self.version) < least:
            wanted = ".".join(map(str, least))
            found.append(f"{self.product} {self.version} is too old: Sidestream needs {self.product} {wanted} or later")
        if self.eviction != "noeviction":
            found.append(
                f"maxmemory-policy is {self.eviction}: the server would delete windows behind our back; "
                "set maxmemory-policy noeviction"
            )
        return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def server_facts(info: bytes) -> ServerFacts:
    """Read the server's facts from the text of INFO."""
    fields = parse_info(info)
    product = "valkey" if fields.get("server_name") == "valkey" else "redis"
    version = fields.get("valkey_version") if product == "valkey" else fields.get("redis_version")
    return ServerFacts(
        product,
        version or "0",
        fields.get("maxmemory_policy", "noeviction"),
        fields.get("aof_enabled", "0") == "1",
    )
