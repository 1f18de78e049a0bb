"""`--since`, or `--from` and `--until`: the time that a command is about, and how it is said.

Keeps: a time that is wrong is refused in a sentence that names the option; nothing else is ever shown instead.
"""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

import typer

from consumers.views.report import Range
from consumers.windows import DAY, DAY_S
from pipeline.errors import SettingsError
from pipeline.units import parse_duration_s, parse_instant_s
from sidestream.wording.human import clock, instant

USUAL: Final = "24h"

Since: TypeAlias = Annotated[
    str | None,
    typer.Option(help="How far back: 30m, 24h, 7d, today, yesterday (from its 00:00 UTC).", show_default=USUAL),
]
From: TypeAlias = Annotated[
    str | None,
    typer.Option("--from", help="When it begins: 2026-11-26, 2026-11-26T14:30; UTC unless it has a zone (+01:00)."),
]
Until: TypeAlias = Annotated[str | None, typer.Option("--until", help="When it ends, likewise; else it is up to now.")]

_DAYS_BACK: Final = {"today": 0, "yesterday": 1}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options ask for, before anybody knows what time it is: seconds since 1970."""

    back_s: int = 0
    """Up to now, so many seconds; 0: not so."""
    days_back: int = 0
    """Up to now, from the beginning of the day so many days ago, where neither of the others says more."""
    from_s: int | None = None
    until_s: int | None = None
    """None: up to now."""

    def at(self, now_s: int) -> tuple[int, int | None]:
        """Return from when to when (exclusive; None: up to now).

        Args:
            now_s: The broker's time.

        Raises:
            SettingsError: It has not begun, or nothing of it is kept any more.
        """
        if self.from_s is None:
            return now_s - self.back_s if self.back_s else DAY.start_of(now_s) - self.days_back * DAY_S, None
        if self.from_s > now_s:
            raise SettingsError(f"--from: {instant(self.from_s)} UTC is yet to come; it is {instant(now_s)} UTC")
        until_s = self.until_s if self.until_s is not None and self.until_s <= now_s else None
        if until_s is not None and until_s <= DAY.start_of(now_s - DAY.kept_s):
            raise SettingsError(f"--until: nothing of before {instant(until_s)} UTC is kept any more")
        return self.from_s, until_s


def parse_range(since: str | None, first: str | None = None, last: str | None = None) -> Asked:
    """Return what `--since`, `--from` and `--until` say.

    Raises:
        SettingsError: One is none, the end is not after the beginning, or they say it twice.
    """
    if first is None and last is None:
        return _since(USUAL if since is None else since)
    if since is not None:
        raise SettingsError(f"--since and {'--until' if first is None else '--from'}: say it by one of them")
    if first is None:
        raise SettingsError("--until: say --from as well")
    from_s, until_s = _instant_s(first, "--from"), None if last is None else _instant_s(last, "--until")
    if until_s is not None and until_s <= from_s:
        raise SettingsError(f"--until: {last} is not after --from {first}")
    return Asked(from_s=from_s, until_s=until_s)


def _since(text: str) -> Asked:
    if text in _DAYS_BACK:
        return Asked(days_back=_DAYS_BACK[text])
    try:
        back_s = parse_duration_s(text)
    except ValueError as error:
        raise SettingsError(f"--since: {error}; or today, yesterday") from None
    if not back_s:
        raise SettingsError("--since: '0' covers no time; use 1m or more")
    return Asked(back_s=back_s)


def _instant_s(text: str, option: str) -> int:
    try:
        return parse_instant_s(text)
    except ValueError as error:
        raise SettingsError(f"{option}: {error}") from None


def said_range(covered: Range, now_s: int) -> str:
    """Return a range in words; the windows of one that goes up to now end a little later, which nobody means."""
    if covered.until_s <= now_s:
        return f"{instant(covered.from_s)} to {instant(covered.until_s)} UTC"
    return f"{instant(covered.from_s)} to now ({clock(now_s)} UTC)"
