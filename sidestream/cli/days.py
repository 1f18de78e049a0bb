"""`--from` and `--to`: the days of event time that a command is about."""

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import typer

from consumers.versions import Days
from consumers.windows import DAY
from pipeline.errors import SettingsError

FirstDay: TypeAlias = Annotated[
    str | None, typer.Option("--from", help="First day of event time (UTC), as 2026-11-01.")
]
LastDay: TypeAlias = Annotated[str | None, typer.Option("--to", help="Last day of event time (UTC); it is among them.")]


def parse_days(first: str | None, last: str | None) -> Days:
    """Return the days of both options; what is not given is an open end.

    Raises:
        SettingsError: One is no day, or the last is before the first.
    """
    from_s = _day(first, "--from") if first else 0
    until_s = _day(last, "--to") + DAY.width_s if last else 0
    if until_s and from_s >= until_s:
        raise SettingsError(f"--to {last} is before --from {first}")
    return Days(from_s, until_s)


def _day(text: str, option: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise SettingsError(f"{option} {text!r}: a day is written like 2026-11-01") from None
