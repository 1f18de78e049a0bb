"""Where the archive is and how it is cut: the environment over `[archive]` over defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from consumers.archive.archive import SEGMENT_AGE_S, SEGMENT_BYTES
from pipeline.errors import SettingsError
from pipeline.units import parse_duration_s
from sidestream.settings import ARCHIVE_VARIABLES, settings_file

KEEP: Final = "400d"
"""How long segments are kept: a year, and a month to look at it."""


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """`url` is empty where there is no archive; `keep_s` seconds are the retention of segments."""

    url: str = ""
    segment_bytes: int = SEGMENT_BYTES
    segment_age_s: int = int(SEGMENT_AGE_S)
    keep_s: int = parse_duration_s(KEEP)


def load_archive_settings(environ: Mapping[str, str]) -> ArchiveSettings:
    """Read the archive's settings.

    Raises:
        SettingsError: One is wrong; the message names it and its place.
    """
    path, tables = settings_file(environ)
    table = tables.get("archive", {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: [archive] is not a table")
    content = cast("dict[str, object]", table)
    if unknown := content.keys() - ARCHIVE_VARIABLES.keys():
        known = ", ".join(sorted(ARCHIVE_VARIABLES))
        raise SettingsError(f"{path}: archive.{min(unknown)}: there is no such setting; known are {known}")
    found = {name: (f"{path}: archive.{name}", value) for name, value in content.items()}
    found |= {
        name: (variable, environ[variable]) for name, variable in ARCHIVE_VARIABLES.items() if environ.get(variable)
    }
    default = ArchiveSettings()
    return ArchiveSettings(
        url=_url(*found["url"]) if "url" in found else default.url,
        segment_bytes=_bytes(*found["segment_bytes"]) if "segment_bytes" in found else default.segment_bytes,
        segment_age_s=_duration_s(*found["segment_age"]) if "segment_age" in found else default.segment_age_s,
        keep_s=_duration_s(*found["keep"]) if "keep" in found else default.keep_s,
    )


def _url(place: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{place}: {value!r} is no url: write file:///folder, or s3://bucket/prefix")
    if "://" in value:
        return value.strip()
    path = Path(value.strip())
    if not path.is_absolute():
        raise SettingsError(f"{place}: {value!r} is neither a url nor an absolute path")
    return path.as_uri()


def _bytes(place: str, value: object) -> int:
    try:
        found = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else -1
    except ValueError:
        found = -1
    if not 1 << 10 <= found <= 1 << 30:
        raise SettingsError(f"{place}: {value!r} is no number of bytes from 1024 to 2^30")
    return found


def _duration_s(place: str, value: object) -> int:
    try:
        found = parse_duration_s(value) if isinstance(value, str) else 0
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from None
    if found < 1:
        raise SettingsError(f"{place}: {value!r} is no duration above 0s: write a text such as 30s, 5m or 400d")
    return found
