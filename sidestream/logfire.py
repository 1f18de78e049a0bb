"""Logfire, as the guide configures it: the one place that knows its SDK.

Spans and metrics of what goes through Sidestream are exported by the workers; this sets the SDK up for what the
application itself logs. It never raises: an application runs without its telemetry.
"""

import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.log import say

LOG: Final = logging.getLogger("sidestream")

_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class LogfireSettings:
    """The guide's variables."""

    token: str
    environment: str
    console: bool
    send: bool
    sample_rate: float
    version: str


def read_logfire_settings(environ: Mapping[str, str]) -> LogfireSettings:
    """Read the guide's variables.

    Raises:
        ValueError: One is wrong; the message names it.
    """
    return LogfireSettings(
        token=environ.get("LOGFIRE_TOKEN", "").strip(),
        environment=environ.get("LOGFIRE_ENVIRONMENT") or "development",
        console=_boolean(environ, "LOGFIRE_CONSOLE", default=False),
        send=_boolean(environ, "LOGFIRE_SEND_TO_LOGFIRE", default=True),
        sample_rate=_ratio(environ, "LOGFIRE_TRACE_SAMPLE_RATE"),
        version=environ.get("APP_VERSION") or "dev",
    )


def _boolean(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if text and text not in _YES | _NO:
        raise ValueError(f"{name}: {text!r} is not valid: use true or false")
    return text in _YES if text else default


def _ratio(environ: Mapping[str, str], name: str) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return 1.0
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"{name}: {text!r} is not valid: use a number from 0 to 1")
    return ratio


def set_up_logfire(service: str) -> bool:
    """Configure the SDK from the environment, where it is installed; return whether Logfire gets anything at all."""
    try:
        settings = read_logfire_settings(os.environ)
    except ValueError as error:
        say(LOG, logging.WARNING, "Logfire is not configured: a setting is wrong", error=error)
        return False
    if not settings.token:
        LOG.warning("LOGFIRE_TOKEN is not set: nothing goes to Logfire, everything else goes on")
        return False
    if importlib.util.find_spec("logfire") is None:
        return True  # the workers export; the SDK is only for what the application logs by itself
    try:
        _configure_sdk(settings, service)
    except Exception as error:  # noqa: BLE001 - whatever the SDK refuses, the application starts
        say(LOG, logging.WARNING, "Logfire's SDK refused its configuration", error=error)
        return False
    return True


def _configure_sdk(settings: LogfireSettings, service: str) -> None:
    import logfire  # noqa: PLC0415 - takes up to seconds, and is an extra

    logfire.configure(
        token=settings.token,
        environment=settings.environment,
        console=logfire.ConsoleOptions() if settings.console else False,
        send_to_logfire=settings.send,
        service_name=service or None,
        service_version=settings.version,
        sampling=logfire.SamplingOptions(head=settings.sample_rate),
    )
