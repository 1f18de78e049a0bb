"""What one request costs, in integers, from rates that somebody else looked up.

Keeps:
- The same event and the same rates give the same integer, on any machine and at any time: no clock, no float, no
  context of `decimal`; one rounding, half to even, at the end (as `pipeline.units.usd_to_nano`).
- A request is priced alone: cliffs hang on its own input tokens, so pricing a sum would be wrong.
- A figure is exact or it is refused (`PricingError`); nothing is priced at 0 for want of knowledge.

Vocabulary: a *rate* is the price of one kind of token, its *cliffs* included; a *card* is all rates that hold together;
the *rates* of a model are its standard card and one for each service tier with prices of its own. `input_tokens` and
`output_tokens` are wholes, the other kinds parts of them; what remains of a whole after its priced parts is charged at
the whole's rate.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter, mul
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from pipeline.errors import PermanentError
from pipeline.events import UsageEvent
from pipeline.limits import MAX_NANO_USD

TokenKind: TypeAlias = Literal[
    "cache_write_1h_tokens",
    "cache_audio_read_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "input_audio_tokens",
    "input_tokens",
    "reasoning_tokens",
    "output_audio_tokens",
    "output_tokens",
]
"""The kinds a `UsageEvent` counts, by the names of its fields."""

Kind: TypeAlias = TokenKind | Literal["requests"]
"""What a rate is for; `requests` is the request itself, of which there is one."""

Source: TypeAlias = Literal["provider", "catalogue", "unpriced"]
Reason: TypeAlias = Literal["", "unknown_model", "inconsistent_usage", "unit_not_carried", "over_limit", "no_tokens"]
"""Why we have no figure of our own; empty when we have one."""

_PARTS: Final[dict[TokenKind, tuple[TokenKind, ...]]] = {
    "cache_write_1h_tokens": (),
    "cache_audio_read_tokens": (),
    "cache_read_tokens": ("cache_audio_read_tokens",),
    "cache_write_tokens": ("cache_write_1h_tokens",),
    "input_audio_tokens": ("cache_audio_read_tokens",),
    "input_tokens": (
        "cache_write_1h_tokens",
        "cache_audio_read_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "input_audio_tokens",
    ),
    "reasoning_tokens": (),
    "output_audio_tokens": (),
    "output_tokens": ("reasoning_tokens", "output_audio_tokens"),
}
"""All parts of each kind, at any depth; a part stands before its whole."""

_MIN_DIGITS: Final = 3
"""Decimal digits of a rate that nano-dollars hold by themselves: $0.001 a million tokens is one nano-dollar a token."""


class PricingError(PermanentError):
    """A request cannot be priced; the caller counts it as unpriced, with `code` as the reason."""

    code: Reason  # pyright: ignore[reportIncompatibleVariableOverride] # a closed set of the tree's free words

    def __init__(self, message: str, *, code: Reason) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Cliff:
    """The price that holds for *all* tokens of a request whose input is larger than `above_tokens`."""

    above_tokens: int
    usd_per_million: Decimal


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of a million of one kind, and its cliffs in ascending order."""

    usd_per_million: Decimal
    cliffs: tuple[Cliff, ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        """Return the price, in dollars a million, for a request with this much input."""
        reached = [cliff.usd_per_million for cliff in self.cliffs if input_tokens > cliff.above_tokens]
        return reached[-1] if reached else self.usd_per_million

    def prices(self) -> tuple[Decimal, ...]:
        """Return every price this rate can take."""
        return (self.usd_per_million, *(cliff.usd_per_million for cliff in self.cliffs))


@dataclass(frozen=True, slots=True)
class _Band:
    """The rates between two cliffs as one linear form: a weight for each count, and what the request itself costs."""

    weights: tuple[int, ...]
    fixed: int


@dataclass(frozen=True, slots=True)
class Card:
    """Rates that hold together, compiled so that a request costs a few multiplications. Build it with `Card.of`.

    `remainders` are the forms over `kinds` that must not be negative: what is left of a whole after its parts.
    `units_per_nano_usd` is a power of ten: how far the weights are scaled up so that they are integers. `counts_of`
    returns an event's counts by `kinds`.
    """

    kinds: tuple[TokenKind, ...]
    remainders: tuple[tuple[int, ...], ...]
    cliffs: tuple[int, ...]
    bands: tuple[_Band, ...]
    units_per_nano_usd: int
    counts_of: Callable[[UsageEvent], tuple[int, ...]] = field(compare=False, repr=False)

    @classmethod
    def of(cls, rates: Mapping[Kind, Rate]) -> "Card":
        """Compile rates; a kind without a rate is charged as part of its whole, and free when it has none.

        Args:
            rates: By kind. A finite, non-negative price each. None at all means free of charge.
        """
        kinds: tuple[TokenKind, ...] = tuple(kind for kind in _PARTS if kind in rates)
        remainders = _remainders(kinds)
        digits = max((_digits(price) for rate in rates.values() for price in rate.prices()), default=0)
        scale = 10 ** max(digits, _MIN_DIGITS)
        cliffs = sorted({cliff.above_tokens for rate in rates.values() for cliff in rate.cliffs})
        return cls(
            kinds=kinds,
            remainders=tuple(form for form in remainders if min(form) < 0),
            cliffs=tuple(cliffs),
            bands=tuple(_band(kinds, remainders, rates, scale, tokens) for tokens in _samples(cliffs)),
            units_per_nano_usd=scale // 10**_MIN_DIGITS,
            counts_of=_reader(kinds),
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """The prices of one model in one period. A card of None is priced by something no event carries (hours, pages)."""

    standard: Card | None
    service_tiers: Mapping[str, Card | None] = field(default_factory=dict[str, Card | None])

    def card(self, service_tier: str) -> Card | None:
        """Return the card of a service tier; a tier without prices of its own has the standard one."""
        return self.service_tiers.get(service_tier, self.standard)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The user's own prices and discounts; this one is empty. `hash` names it in the recipe of a state."""

    hash: str = "none"


class Priced(Struct, frozen=True, gc=False):
    """What a request costs, and who says so.

    `nano_usd` is the figure to count: the provider's own if there is one, else ours; None is unpriced, which is not 0.
    Both figures are kept beside it. `reason` says why ours is missing.
    """

    nano_usd: int | None
    source: Source
    provider_nano_usd: int | None = None
    catalogue_nano_usd: int | None = None
    reason: Reason = ""


def price(event: UsageEvent, rates: Rates) -> int:
    """Return what one request costs at these rates, in nano-dollars.

    Raises:
        PricingError: `inconsistent_usage`, parts exceed their whole; `unit_not_carried`, the model is not priced by
            anything an event counts; `over_limit`, the figure is larger than any real one.
    """
    card = rates.card(event.service_tier)
    if card is None:
        raise PricingError("The model is priced by a unit that events do not carry", code="unit_not_carried")
    counts = _counts(event, card)
    band = card.bands[bisect_left(card.cliffs, event.input_tokens)]
    units = band.fixed + sum(map(mul, band.weights, counts))
    nano_usd = _divide_half_even(units, card.units_per_nano_usd)
    if nano_usd > MAX_NANO_USD:
        raise PricingError("The price of one request is over the limit", code="over_limit")
    return nano_usd


def decide(provider_nano_usd: int | None, catalogue_nano_usd: int | None, reason: Reason = "") -> Priced:
    """Choose the figure that counts: the provider's, else ours, else none; `reason` says why ours is missing."""
    if provider_nano_usd is not None:
        return Priced(provider_nano_usd, "provider", provider_nano_usd, catalogue_nano_usd, reason)
    if catalogue_nano_usd is not None:
        return Priced(catalogue_nano_usd, "catalogue", None, catalogue_nano_usd)
    return Priced(None, "unpriced", reason=reason)


def _counts(event: UsageEvent, card: Card) -> tuple[int, ...]:
    """Return the event's counts by the card's kinds, checked against each other."""
    counts = card.counts_of(event)
    # Where caching has no price of its own the remainders cannot see that `input_tokens` leaves out the cached ones.
    consistent = event.cache_read_tokens + event.cache_write_tokens <= event.input_tokens
    for form in card.remainders:
        if sum(map(mul, form, counts)) < 0:
            consistent = False
    if not consistent:
        raise PricingError("Parts of the tokens exceed their whole", code="inconsistent_usage")
    return counts


def _reader(kinds: tuple[TokenKind, ...]) -> Callable[[UsageEvent], tuple[int, ...]]:
    """Return what reads these counts off an event; of two and more that is a function in C."""
    if len(kinds) > 1:
        return attrgetter(*kinds)
    return lambda event: tuple(getattr(event, kind) for kind in kinds)


def _remainders(kinds: tuple[TokenKind, ...]) -> list[tuple[int, ...]]:
    """Return, for each kind, the linear form over all kinds' counts that gives what its priced parts leave of it.

    Overlapping parts (audio and cached) are taken off once: the part they share is a kind of its own.
    """
    forms: dict[TokenKind, tuple[int, ...]] = {}
    for kind in kinds:
        parts = [forms[part] for part in _PARTS[kind] if part in forms]
        forms[kind] = tuple(
            int(other == kind) - sum(part[column] for part in parts) for column, other in enumerate(kinds)
        )
    return list(forms.values())


def _band(
    kinds: tuple[TokenKind, ...],
    remainders: list[tuple[int, ...]],
    rates: Mapping[Kind, Rate],
    scale: int,
    input_tokens: int,
) -> _Band:
    """Turn "each remainder times its rate" into one weight for each count; both are linear."""
    by_kind = [_scaled(rates[kind].at(input_tokens), scale) for kind in kinds]
    weights = (sum(map(mul, by_kind, column)) for column in zip(*remainders, strict=True))
    request = rates.get("requests")
    return _Band(tuple(weights), 0 if request is None else _scaled(request.at(input_tokens), scale))


def _samples(cliffs: list[int]) -> tuple[int, ...]:
    """Return one number of input tokens in each band: none is above a cliff at 0, and the first above each."""
    return (0, *(cliff + 1 for cliff in cliffs))


def _digits(usd: Decimal) -> int:
    """Return how many digits a price has behind the point."""
    exponent = usd.as_tuple().exponent
    assert isinstance(exponent, int), "a price is a finite number"
    return max(-exponent, 0)


def _scaled(usd: Decimal, scale: int) -> int:
    """Return `usd` times `scale` as the integer it is; through a fraction, for no context rounds that."""
    numerator, denominator = usd.as_integer_ratio()
    return numerator * scale // denominator


def _divide_half_even(dividend: int, divisor: int) -> int:
    quotient, rest = divmod(dividend, divisor)
    twice = 2 * rest
    return quotient + (twice > divisor or (twice == divisor and quotient % 2 == 1))
