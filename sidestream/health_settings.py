"""Whether and where a worker tells its health: options over the environment over `[worker]` over defaults.

Apart from the other settings of workers: what asks for the health loads no handler and no price, for it is started
every few seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from consumers.runtime.health import STUCK_AFTER_S
from pipeline.errors import SettingsError
from pipeline.units import parse_duration_s
from sidestream.settings import HEALTH_VARIABLES, settings_file

LOOPBACK: Final = "127.0.0.1"
MAX_PORT: Final = 65_535

_OF_KUBERNETES: Final = ("tcp://", "udp://")
"""What Kubernetes sets SIDESTREAM_HEALTH_PORT to where there is a service "sidestream-health"."""

_LEAST_STUCK_AFTER_S: Final = 10
"""An idle read takes half a second, an answer up to five: less would call a worker stuck that only waits for Redis."""


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """`port` is None where the endpoint is off; `stuck_after_s` is how long a unit may stand still."""

    port: int | None = None
    host: str = LOOPBACK
    stuck_after_s: float = STUCK_AFTER_S


def load_health_settings(environ: Mapping[str, str], given: Mapping[str, object] | None = None) -> HealthSettings:
    """Read the settings of the health endpoint.

    Args:
        environ: The environment.
        given: Options of the command that are not None, by name.

    Raises:
        SettingsError: One is wrong; the message names it and its place.
    """
    found: dict[str, tuple[str, object]] = {}
    path, tables = settings_file(environ)
    table = tables.get("worker", {})
    if isinstance(table, dict):
        content = cast("dict[str, object]", table)
        found |= {name: (f"{path}: worker.{name}", content[name]) for name in HEALTH_VARIABLES if name in content}
    for name, variable in HEALTH_VARIABLES.items():
        if environ.get(variable) and not environ[variable].startswith(_OF_KUBERNETES):
            found[name] = variable, environ[variable]
    for name, value in (given or {}).items():
        found[name] = f"--{name.replace('_', '-')}", value
    port = _port(*found["health_port"]) if "health_port" in found else None
    host = _host(*found["health_host"]) if "health_host" in found else LOOPBACK
    return HealthSettings(
        port, host, _stuck_after_s(*found["stuck_after"]) if "stuck_after" in found else STUCK_AFTER_S
    )


def _port(place: str, value: object) -> int | None:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdecimal() or int(text) > MAX_PORT:
        raise SettingsError(f"{place}: {value!r} is no port: use a number from 1 to {MAX_PORT}, or 0 for none")
    return int(text) or None


def _host(place: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
        raise SettingsError(f"{place}: {value!r} is no address to listen on, such as {LOOPBACK} or 0.0.0.0")
    return value


def _stuck_after_s(place: str, value: object) -> float:
    try:
        seconds = parse_duration_s(value) if isinstance(value, str) else -1
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from None
    if seconds < _LEAST_STUCK_AFTER_S:
        raise SettingsError(f"{place}: {value!r}: write a text such as 60s or 5m, at least {_LEAST_STUCK_AFTER_S}s")
    return float(seconds)
