"""Where spans go and which: the guide's variables for Logfire, the standard ones for any other OTLP backend.

Source: region and base url from the token as in logfire 5.2 `_internal/config.py:get_base_url_from_token`; the `OTEL_`
variables as in https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from pipeline.errors import SettingsError
from pipeline.units import US_PER_S

LOGFIRE_MAX_AGE_US = 24 * 3600 * US_PER_S
"""Logfire drops what began longer ago. Source: https://logfire.pydantic.dev/docs/ (limits)."""

LOGFIRE_MAX_AHEAD_US = 3600 * US_PER_S
"""Logfire drops what lies further in the future. Source: as above."""

_REGIONS = {
    "us": "https://logfire-us.pydantic.dev",
    "eu": "https://logfire-eu.pydantic.dev",
    "stagingus": "https://logfire-us.pydantic.info",
    "stagingeu": "https://logfire-eu.pydantic.info",
}
_TOKEN_REGION = re.compile(r"pylf_v[0-9]+_(?P<region>[a-z]+)_")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What the export sink needs to know.

    Args:
        endpoint: Base url; `/v1/traces` is added.
        token: Sent as the header Authorization as it is, without "Bearer": Logfire's way. Empty sends none.
        headers: More headers.
        sample_rate: Part of the traces whose spans are sent, 0 to 1; errors and slow operations are always sent.
        timeout_s: Seconds to wait for one answer.
        slow_us: An operation or request that took longer is always sent.
        max_age_us: Spans that began longer ago are not sent; None sends all.
        max_ahead_us: Spans that end further in the future are not sent; None sends all.

    Raises:
        SettingsError: A value is out of its range.
    """

    endpoint: str
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    sample_rate: float = 1.0
    timeout_s: float = 10.0
    slow_us: int = 30 * US_PER_S
    max_age_us: int | None = None
    max_ahead_us: int | None = None

    def __post_init__(self) -> None:
        _check_url("endpoint", self.endpoint)
        _check_secret("token", self.token)
        _check_rate("sample_rate", self.sample_rate)
        if not self.timeout_s > 0:
            raise SettingsError(f"timeout_s is {self.timeout_s}: use seconds above 0")

    @property
    def loopback(self) -> bool:
        """Whether the far side is on this machine: no proxy of the environment may stand between."""
        host = urlsplit(self.endpoint).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


def from_environ(env: Mapping[str, str]) -> ExportSettings | None:
    """Read the settings, or None when nothing is to be exported (`off_reason` says why).

    A Logfire token wins over an OTLP endpoint; `LOGFIRE_SEND_TO_LOGFIRE=false` leaves the endpoint, as in the SDK.

    Raises:
        SettingsError: A value is wrong; the message names its variable and shows no secret.
    """
    rate = _rate(env)
    if _sends_to_logfire(env) and (token := env.get("LOGFIRE_TOKEN", "").strip()):
        return _logfire(env, token, rate)
    if endpoint := env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip():
        return _otlp(env, endpoint, rate)
    return None


def off_reason(env: Mapping[str, str]) -> str:
    """Say in one sentence why `from_environ` gives nothing, and what would change that; empty if it gives something."""
    if from_environ(env) is not None:
        return ""
    if env.get("LOGFIRE_TOKEN", "").strip():
        return "LOGFIRE_SEND_TO_LOGFIRE is false and OTEL_EXPORTER_OTLP_ENDPOINT is not set"
    return "neither LOGFIRE_TOKEN nor OTEL_EXPORTER_OTLP_ENDPOINT is set"


def _logfire(env: Mapping[str, str], token: str, rate: float) -> ExportSettings:
    _check_secret("LOGFIRE_TOKEN", token)
    base = env.get("LOGFIRE_BASE_URL", "").strip()
    if base:
        _check_url("LOGFIRE_BASE_URL", base)
    return ExportSettings(
        endpoint=base or _base_url_of(token),
        token=token,
        sample_rate=rate,
        max_age_us=LOGFIRE_MAX_AGE_US,
        max_ahead_us=LOGFIRE_MAX_AHEAD_US,
    )


def _otlp(env: Mapping[str, str], endpoint: str, rate: float) -> ExportSettings:
    _check_url("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    protocol = env.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or "http/protobuf"
    if protocol != "http/protobuf":
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: only http/protobuf is spoken here")
    headers = _headers("OTEL_EXPORTER_OTLP_HEADERS", env.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
    return ExportSettings(endpoint=endpoint, headers=headers, sample_rate=rate)


def _base_url_of(token: str) -> str:
    # A token from before regions, or of a region not known here, belongs to the US, as in Logfire's SDK.
    match = _TOKEN_REGION.match(token)
    return _REGIONS.get(match["region"] if match else "us", _REGIONS["us"])


def _sends_to_logfire(env: Mapping[str, str]) -> bool:
    text = env.get("LOGFIRE_SEND_TO_LOGFIRE", "").strip().lower()
    if text in {"", "1", "true", "t", "if-token-present"}:
        return True
    if text in {"0", "false", "f"}:
        return False
    raise SettingsError(f"LOGFIRE_SEND_TO_LOGFIRE is {text!r}: use true, false or if-token-present")


def _rate(env: Mapping[str, str]) -> float:
    text = env.get("LOGFIRE_TRACE_SAMPLE_RATE", "").strip()
    if not text:
        return 1.0
    try:
        rate = float(text)
    except ValueError:
        raise SettingsError(f"LOGFIRE_TRACE_SAMPLE_RATE is {text!r}: use a number from 0 to 1") from None
    _check_rate("LOGFIRE_TRACE_SAMPLE_RATE", rate)
    return rate


def _headers(name: str, text: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = pair.partition("=")
        key, value = key.strip(), unquote(value.strip())
        if not sign or not _HEADER_NAME.fullmatch(key) or not _HEADER_VALUE.fullmatch(value):
            raise SettingsError(f"{name} is not a list of key=value, separated by commas, values url-encoded")
        headers[key] = value
    return headers


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise SettingsError(f"{name} is {rate}: use a number from 0 to 1")


def _check_secret(name: str, secret: str) -> None:
    if not re.fullmatch(r"[\x21-\x2b\x2d-\x7e]*", secret):
        raise SettingsError(f"{name} holds a blank, a comma or a character outside ASCII: use exactly one token")


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
        parts = urlsplit("")
    if not valid:
        raise SettingsError(f"{name} is not a url such as https://collector.example:4318")
    if parts.query or parts.fragment:
        raise SettingsError(f"{name} must be a base url, without query or fragment: /v1/traces is added to it")
