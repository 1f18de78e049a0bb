"""Numbers, money, time and names as people read them in a terminal.

Keeps: names come from outside; what is in them is shown as text, never as markup, colour or a terminal's command.
"""

from datetime import UTC, datetime
from typing import Final

from rich.text import Text

from consumers.state import OTHER
from pipeline.units import NANO_PER_USD, US_PER_MS, US_PER_S

NOTHING: Final = "–"  # noqa: RUF001 - an en dash is what a table shows for "nothing here"

_THOUSAND: Final = 1_000
_KIBI: Final = 1_024
_A_MINUTE: Final = 60
_TENTH_OF_A_CENT: Final = 0.001
_CENT: Final = 0.01
_TENTH: Final = 0.1


def amount(number: int) -> str:
    """Return a count in three digits or so: 950, 1.2k, 34.5k, 678k, 9.1M."""
    value, units, unit = float(number), iter("kMGT"), ""
    while round(abs(value), 0 if unit else None) >= _THOUSAND and unit != "T":
        value, unit = value / _THOUSAND, next(units)
    if not unit:
        return str(number)
    return f"{value:.1f}{unit}" if round(value, 1) < 100 else f"{value:.0f}{unit}"  # noqa: PLR2004 - three digits


def dollars(nano_usd: int) -> str:
    """Return money in dollars: $0.00123, $0.0123, $12.34, $1,234; a little is "<$0.0001", and only nothing is $0."""
    usd = nano_usd / NANO_PER_USD
    if not nano_usd:
        return "$0"
    if usd < _CENT * _CENT:
        return "<$0.0001"
    if usd < _CENT:
        # Three digits of it, where it has so many.
        text = f"${usd:.{5 if round(usd, 6) >= _TENTH_OF_A_CENT else 6}f}"
        return text[:7] + text[7:].rstrip("0")
    if round(usd, 4) < 1:
        return f"${usd:.4f}"
    return f"${usd:.2f}" if round(usd, 2) < _THOUSAND else f"${usd:,.0f}"


def duration(time_us: int | None) -> str:
    """Return a duration: 950 us, 320 ms, 1.3 s, 2 m 05 s, 3 h 20 m."""
    if time_us is None:
        return NOTHING
    if time_us < US_PER_MS:
        return f"{time_us} us"
    if round(time_us / US_PER_MS) < _THOUSAND:
        return f"{time_us / US_PER_MS:.0f} ms"
    if round(time_us / US_PER_S, 1) < _A_MINUTE:
        return f"{time_us / US_PER_S:.1f} s"
    minutes, seconds = divmod(round(time_us / US_PER_S), _A_MINUTE)
    hours, rest = divmod(minutes, _A_MINUTE)
    return f"{hours} h {rest:02d} m" if hours else f"{minutes} m {seconds:02d} s"


def per_second(number: float) -> str:
    """Return a rate: 0/s, <0.1/s, 0.4/s, 12.3/s, 950/s, 1.2k/s; only nothing is 0."""
    if not number:
        return "0/s"
    if number < _TENTH:
        return "<0.1/s"
    return f"{number:.1f}/s" if round(number, 1) < 100 else f"{amount(round(number))}/s"  # noqa: PLR2004 - three digits


def size(size_bytes: int) -> str:
    """Return bytes: 950 B, 12.3 KiB, 4.5 MiB, 1.2 GiB."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if round(value, 1) < _KIBI:
            break
        value, unit = value / _KIBI, larger
    return f"{value:,.1f} {unit}" if unit != "B" else f"{size_bytes} B"


def percent(ratio: float | None) -> str:
    """Return a ratio (0-1) in percent: 4.2 %; only nothing is 0 %."""
    if ratio is None:
        return NOTHING
    if 0 < ratio < _TENTH_OF_A_CENT:
        return "<0.1 %"
    return f"{ratio * 100:.1f} %" if ratio % 1 else f"{ratio * 100:.0f} %"


def shown(name: str) -> Text:
    """Return a name from outside as harmless text of one line; none, and what a cap hid, are said in words."""
    if name == OTHER:
        return Text("other (over the cap)", style="italic", no_wrap=True, overflow="ellipsis")
    if not name:
        return Text("(none)", style="dim")
    return Text(harmless(name), no_wrap=True, overflow="ellipsis")


def harmless(text: str) -> str:
    """Return text from outside without what a terminal would obey: controls, line breaks, changes of direction."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def instant(time_s: float) -> str:
    """Return an instant (seconds since 1970) in UTC; seconds only where there are some."""
    at = datetime.fromtimestamp(int(time_s), UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S" if at.second else "%Y-%m-%d %H:%M")


def clock(time_s: float) -> str:
    """Return the time of day of an instant (seconds since 1970), in UTC."""
    return f"{datetime.fromtimestamp(int(time_s), UTC):%H:%M:%S}"


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun: 1 event, 2,000 events."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
