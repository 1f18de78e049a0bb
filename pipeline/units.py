"""Units: integers everywhere, converted only where a person or a library needs another form."""

from decimal import ROUND_HALF_EVEN, Decimal

US_PER_MS = 1_000
US_PER_S = 1_000_000
NANO_PER_USD = 1_000_000_000


def seconds_to_us(seconds: float) -> int:
    """Convert seconds to whole microseconds, rounded to the nearest."""
    return round(seconds * US_PER_S)


def usd_to_nano(usd: Decimal) -> int:
    """Convert dollars to nano-dollars, half to even: the one rounding money meets here."""
    return int((usd * NANO_PER_USD).to_integral_value(rounding=ROUND_HALF_EVEN))


def nano_to_usd(nano_usd: int) -> Decimal:
    """Convert nano-dollars to dollars, exactly."""
    return Decimal(nano_usd) / NANO_PER_USD
