"""Units: integers everywhere, converted only where a person or a library needs another form."""

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

US_PER_MS = 1_000
US_PER_S = 1_000_000
NANO_PER_USD = 1_000_000_000

_SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


def seconds_to_us(seconds: float) -> int:
    """Convert seconds to whole microseconds, rounded to the nearest."""
    return round(seconds * US_PER_S)


def usd_to_nano(usd: Decimal) -> int:
    """Convert dollars to nano-dollars, half to even: the one rounding money meets here."""
    return int((usd * NANO_PER_USD).to_integral_value(rounding=ROUND_HALF_EVEN))


def nano_to_usd(nano_usd: int) -> Decimal:
    """Convert nano-dollars to dollars, exactly."""
    return Decimal(nano_usd) / NANO_PER_USD


def parse_duration_s(text: str) -> int:
    """Return the seconds of a duration as people write it: a whole number and s, m, h or d ("10s", "5m", "24h", "7d").

    Raises:
        ValueError: The text is none; the message quotes it.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration: write a whole number and s, m, h or d, such as 10s, 5m, 24h or 7d")
    return int(found[1]) * _SECONDS_OF[found[2]]


def parse_instant_s(text: str) -> int:
    """Return an instant of ISO 8601, a day or a day and a time, in seconds since 1970; without a zone it is UTC.

    Raises:
        ValueError: The text is none; the message quotes it.
    """
    try:
        found = datetime.fromisoformat(text)
        return max(0, int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no instant: write 2026-11-26 or 2026-11-26T14:30, with Z or +01:00") from None


def format_duration_s(seconds: int) -> str:
    """Return seconds as `parse_duration_s` reads them, in the largest unit that divides them."""
    for unit, size in reversed(_SECONDS_OF.items()):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
