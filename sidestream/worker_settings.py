"""What workers read of `sidestream.toml` and the environment: alert rules, how late events may come, what is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from consumers.alerts.rules import DEFAULT_RULES, parse_rules
from consumers.runtime.housekeeping import HousekeepingSettings
from pipeline.errors import SettingsError
from pipeline.units import parse_duration_s
from sidestream.compose import AlertOptions
from sidestream.settings import HEALTH_VARIABLES, WORKER_VARIABLES, settings_file

DEFAULT_GRACE_S: Final = 2.0
"""Seconds that a window waits for events that come late."""

MAX_GRACE_S: Final = 3600.0

_DURATIONS: Final = frozenset({"retention", "sink_age", "archive_age"})
"""Written as text, such as 24h; the settings have them in seconds."""


def load_alert_options(environ: Mapping[str, str]) -> AlertOptions:
    """Read `[[alert]]` and `[worker] grace_s`; the guide's rules where the file has none.

    Raises:
        SettingsError: A rule or the grace is wrong; the message names the file and the place.
    """
    path, tables = settings_file(environ)
    try:
        rules = parse_rules(tables["alert"]) if "alert" in tables else DEFAULT_RULES
        return AlertOptions(rules, _grace_s(_worker_table(tables)))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def load_housekeeping_settings(environ: Mapping[str, str]) -> HousekeepingSettings:
    """Read what is kept for how long: the environment over `[worker]` over defaults.

    Raises:
        SettingsError: One is wrong; the message names it and its place.
    """
    path, tables = settings_file(environ)
    try:
        table = _worker_table(tables)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    values: dict[str, int] = {}
    places: dict[str, str] = {}
    for name, variable in WORKER_VARIABLES.items():
        found = _given(path, table, environ, name, variable)
        if found is not None:
            place, value = found
            field = f"{name}_s" if name in _DURATIONS else name
            places[field], values[field] = place, _read(name, place, value)
    try:
        return HousekeepingSettings(**values)
    except SettingsError as error:
        place = places[str(error).split(" ", 1)[0]]
        raise SettingsError(f"{place}: {error}") from None


def _given(
    path: Path, table: Mapping[str, object], environ: Mapping[str, str], name: str, variable: str
) -> tuple[str, object] | None:
    """Return where a setting stands, and what it says; an empty variable says nothing."""
    if environ.get(variable):
        return variable, environ[variable]
    return (f"{path}: worker.{name}", table[name]) if name in table else None


def _read(name: str, place: str, value: object) -> int:
    try:
        if name in _DURATIONS:
            if not isinstance(value, str):
                raise SettingsError(f"{place}: {value!r} is no duration: write a text such as 30m, 24h or 7d")
            return parse_duration_s(value)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise SettingsError(f"{place}: {value!r} is no whole number of bytes")
        return int(value)
    except ValueError as error:
        reason = str(error) if name in _DURATIONS else f"{value!r} is no whole number of bytes"
        raise SettingsError(f"{place}: {reason}") from None


def _worker_table(tables: Mapping[str, object]) -> Mapping[str, object]:
    table = tables.get("worker", {})
    if not isinstance(table, dict):
        raise SettingsError("[worker] is not a table")
    rest = cast("dict[str, object]", table)
    known = {"grace_s", *WORKER_VARIABLES, *HEALTH_VARIABLES}
    if unknown := rest.keys() - known:
        raise SettingsError(f"worker.{min(unknown)}: there is no such setting; known are {', '.join(sorted(known))}")
    return rest


def _grace_s(table: Mapping[str, object]) -> float:
    grace_s = table.get("grace_s", DEFAULT_GRACE_S)
    if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= MAX_GRACE_S:
        raise SettingsError(f"worker.grace_s: {grace_s!r} is not a number of seconds from 0 to {MAX_GRACE_S:g}")
    return float(grace_s)
