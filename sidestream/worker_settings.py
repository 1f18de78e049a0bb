"""What workers read of `sidestream.toml`: the alert rules, and how late events may come."""

from collections.abc import Mapping
from typing import Final, cast

from consumers.alerts.rules import DEFAULT_RULES, parse_rules
from pipeline.errors import SettingsError
from sidestream.compose import AlertOptions
from sidestream.settings import settings_file

DEFAULT_GRACE_S: Final = 2.0
"""Seconds that a window waits for events that come late."""

MAX_GRACE_S: Final = 3600.0


def load_alert_options(environ: Mapping[str, str]) -> AlertOptions:
    """Read `[[alert]]` and `[worker] grace_s`; the guide's rules where the file has none.

    Raises:
        SettingsError: A rule or the grace is wrong; the message names the file and the place.
    """
    path, tables = settings_file(environ)
    try:
        rules = parse_rules(tables["alert"]) if "alert" in tables else DEFAULT_RULES
        return AlertOptions(rules, _grace_s(tables.get("worker", {})))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _grace_s(table: object) -> float:
    if not isinstance(table, dict):
        raise SettingsError("[worker] is not a table")
    rest = dict(cast("dict[str, object]", table))
    grace_s = rest.pop("grace_s", DEFAULT_GRACE_S)
    if rest:
        raise SettingsError(f"worker.{min(rest)}: there is no such setting; known is grace_s")
    if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= MAX_GRACE_S:
        raise SettingsError(f"worker.grace_s: {grace_s!r} is not a number of seconds from 0 to {MAX_GRACE_S:g}")
    return float(grace_s)
