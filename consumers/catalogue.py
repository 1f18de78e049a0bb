"""The door to genai-prices: which rates hold for a provider's model at an instant.

Keeps:
- The library is asked once for each model and price period; what a request costs is then reckoned by `pricing`.
- Names come from users: those found and those not found are remembered up to a bound, in memory of our own. The
  library's own memory of names grows for ever, so each look-up gets a fresh one and throws it away.
- Only the prices shipped with the installed version count, never those somebody fetched or set in this process:
  `version` in a recipe must say everything.
- Unknown is None, never 0.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from functools import cache, lru_cache
from threading import Lock
from typing import Final, cast

import genai_prices
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import (
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from consumers.pricing import Card, Cliff, Kind, PriceBook, Priced, PricingError, Rate, Rates, decide, price
from pipeline.events import UsageEvent
from pipeline.limits import MAX_TOKENS

MAX_NAMES: Final = 4096
"""(provider, model) pairs remembered, and as many unknown ones: above any application's use, some megabytes at most."""

_DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_KINDS: Final[dict[str, Kind]] = {
    "input_mtok": "input_tokens",
    "output_mtok": "output_tokens",
    "cache_read_mtok": "cache_read_tokens",
    "cache_write_mtok": "cache_write_tokens",
    "cache_write_1h_mtok": "cache_write_1h_tokens",
    "input_audio_mtok": "input_audio_tokens",
    "cache_audio_read_mtok": "cache_audio_read_tokens",
    "output_audio_mtok": "output_audio_tokens",
    "output_reasoning_mtok": "reasoning_tokens",
    "requests_kcount": "requests",
}
"""genai-prices' price keys of what an event carries. Images, searches and the like are not in it: none are counted."""

_OVERLAPS: Final = frozenset({"cache_audio_write_mtok", "cache_audio_write_1h_mtok", "output_audio_reasoning_mtok"})
"""Prices of what two kinds of an event share and no field of it tells; no model of 0.2.3 has one."""

_TIER_KEYS: Final = ("service_tier", "processing", "speed")
"""The keys under which genai-prices files what an event calls its service tier ("flex", "batch", "fast")."""


@dataclass(frozen=True, slots=True)
class CatalogueStatistics:
    """What a catalogue holds in memory: names found, names not found, models behind the names found."""

    known_names: int
    unknown_names: int
    models: int


class Catalogue:
    """The shipped price list. Any thread may use it.

    `max_names` bounds what is remembered of names found, and again of names not found.
    """

    version: Final = f"genai-prices {genai_prices.__version__}"

    def __init__(self, *, max_names: int = MAX_NAMES) -> None:
        self._max_names = max_names
        self._find = lru_cache(maxsize=max_names)(self._look_up)
        self._unknown: dict[tuple[str, str], None] = {}  # in the order of arrival: the oldest goes first
        self._models: dict[tuple[int, int], _Model] = {}  # no more than genai-prices has; many names lead to one
        self._lock = Lock()

    def rates(self, provider: str, model: str, time_us: int) -> Rates | None:
        """Return the rates of a model at an instant, None when the catalogue does not know it.

        Args:
            provider: As events name it. Empty: found from the model's name alone. One that the catalogue does not
                know makes the model unknown: somebody else's price is not this one's.
            model: As asked for or as it answered; dated variants are found too.
            time_us: Microseconds since 1970, of the request.
        """
        try:
            found = self._find(provider, model)
        except LookupError:
            return None
        return found.rates(time_us)

    def statistics(self) -> CatalogueStatistics:
        """Return what is held in memory."""
        return CatalogueStatistics(self._find.cache_info().currsize, len(self._unknown), len(self._models))

    def _look_up(self, provider: str, model: str) -> "_Model":
        """Find a model by name; only what is found is cached around this.

        Raises:
            LookupError: The catalogue does not know the name.
        """
        key = (provider, model)
        if key in self._unknown:
            raise LookupError(model)
        try:
            found = DataSnapshot(providers, from_auto_update=False).find_provider_model(
                model, None, provider or None, None
            )
        except LookupError:
            self._remember_unknown(key)
            raise
        return self._models.setdefault((id(found[0]), id(found[1])), _Model(*found))

    def _remember_unknown(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._unknown[key] = None
            if len(self._unknown) > self._max_names:
                del self._unknown[next(iter(self._unknown))]


class Pricer:
    """Prices requests, one by one, by the provider's figure, the book or the catalogue."""

    def __init__(self, catalogue: Catalogue, book: PriceBook) -> None:
        self.catalogue = catalogue
        self.book = book

    def price(self, event: UsageEvent) -> Priced:
        """Price one request; never raises. What cannot be priced says why."""
        rates = self._rates(event)
        if rates is None:
            return decide(event.cost_nano_usd, None, "unknown_model")
        try:
            nano_usd = price(event, rates)
        except PricingError as error:
            return decide(event.cost_nano_usd, None, error.code)
        if not (nano_usd or event.input_tokens or event.output_tokens or event.status == "error"):
            # An answer without tokens is one whose tokens nobody told: a failed request alone costs nothing.
            return decide(event.cost_nano_usd, None, "no_tokens")
        return decide(event.cost_nano_usd, nano_usd)

    def reckon(self, event: UsageEvent) -> int:
        """Return what the tokens of a request cost by the catalogue, in nano-dollars.

        Raises:
            PricingError: See `pricing.price`; `unknown_model` when neither name is known.
        """
        rates = self._rates(event)
        if rates is None:
            raise PricingError("The catalogue does not know the model", code="unknown_model")
        return price(event, rates)

    def _rates(self, event: UsageEvent) -> Rates | None:
        """Find the rates of the model that answered, else of the one asked for."""
        find = self.catalogue.rates
        rates = find(event.provider, event.response_model, event.time_us) if event.response_model else None
        if rates is None and event.model and event.model != event.response_model:
            rates = find(event.provider, event.model, event.time_us)
        return rates


def estimate_usd(model: str, input_tokens: int, output_tokens: int) -> float:
    """Return what a request would cost now, in dollars; `math.nan` when that is not known, never 0.0 for it.

    Args:
        model: Its name, dated or not; the provider is found from it. No string: the answer is nan.
        input_tokens: Of the whole input. Negative, too many or no integer: likewise.
        output_tokens: Likewise, of the output.
    """
    if not (_is_name(model) and _is_count(input_tokens) and _is_count(output_tokens)):
        return math.nan
    now_us = time.time_ns() // 1000
    event = UsageEvent(time_us=now_us, model=model, input_tokens=input_tokens, output_tokens=output_tokens)
    try:
        return _shared_pricer().reckon(event) / 1e9
    except PricingError:
        return math.nan


@cache
def _shared_pricer() -> Pricer:
    return Pricer(Catalogue(), PriceBook())


def _is_name(model: object) -> bool:
    return isinstance(model, str)


def _is_count(tokens: object) -> bool:
    return isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MAX_TOKENS


class _Model:
    """One model as one provider sells it: its rates in every period between two changes of price.

    The library alone decides what holds when; here is only known at which instants its answer may change.
    """

    def __init__(self, provider: Provider, model: ModelInfo) -> None:
        self._provider = provider
        self._model = model
        constraints = [dated.constraint for dated in _dated(model)]
        self._starts_us = _ascending(
            (c.start_date.toordinal() - date(1970, 1, 1).toordinal()) * _DAY_US
            for c in constraints
            if isinstance(c, StartDateConstraint)
        )
        self._times_us = _ascending(
            _utc_us(clock)
            for c in constraints
            if isinstance(c, TimeOfDateConstraint)
            for clock in (c.start_time, c.end_time)
        )
        self._rates: dict[tuple[int, int], Rates] = {}

    def rates(self, time_us: int) -> Rates:
        """Return the rates of the period that holds `time_us`."""
        period = (bisect_right(self._starts_us, time_us), bisect_right(self._times_us, time_us % _DAY_US))
        rates = self._rates.get(period)
        if rates is None:
            rates = self._rates[period] = self._rates_at(self._first_instant(period))
        return rates

    def _first_instant(self, period: tuple[int, int]) -> datetime:
        """Return an instant of the period that depends on nothing else, so that every event of it gets one answer."""
        start, clock = period
        start_us = self._starts_us[start - 1] if start else 0
        clock_us = self._times_us[clock - 1] if clock else 0
        return _EPOCH + timedelta(microseconds=start_us + clock_us)

    def _rates_at(self, instant: datetime) -> Rates:
        tiers = {
            word
            for variant in self._model.price_variants or ()
            for key, word in variant.when.items()
            if key in _TIER_KEYS
        }
        return Rates(
            standard=self._card(instant, None),
            service_tiers={tier: self._card(instant, dict.fromkeys(_TIER_KEYS, tier)) for tier in sorted(tiers)},
        )

    def _card(self, instant: datetime, context: Mapping[str, str] | None) -> Card | None:
        """Ask the library which prices hold, by pricing nothing with them."""
        answer = self._model.calc_price(
            genai_prices.Usage(), self._provider, genai_request_timestamp=instant, price_context=context
        )
        return _card(answer.model_price)


def _dated(model: ModelInfo) -> Iterator[ConditionalPrice | PriceVariant]:
    """Iterate over everything of a model that may hold at some times only."""
    if isinstance(model.prices, list):
        yield from model.prices
    yield from model.price_variants or ()


def _card(prices: ModelPrice) -> Card | None:
    """Translate a price list; None when an event carries nothing it is priced by. An empty list is free of charge."""
    listed = {
        key: value
        for key, value in cast("dict[str, Decimal | TieredPrices | None]", vars(prices)).items()
        if value is not None
    }
    rates: dict[Kind, Rate] = {_KINDS[key]: _rate(key, value) for key, value in listed.items() if key in _KINDS}
    if (listed and not rates) or not _OVERLAPS.isdisjoint(listed):
        return None
    return Card.of(rates)


def _rate(key: str, value: Decimal | TieredPrices) -> Rate:
    thousands = 1000 if key == "requests_kcount" else 1  # requests are sold by the thousand, tokens by the million
    if isinstance(value, TieredPrices):
        cliffs = tuple(Cliff(tier.start, tier.price * thousands) for tier in value.tiers)
        return Rate(value.base * thousands, cliffs)
    return Rate(value * thousands)


def _utc_us(clock: time_of_day) -> int:
    """Return a time of day as microseconds after midnight UTC; without a zone it is UTC, as genai-prices has it."""
    zoned = clock if clock.tzinfo is not None else clock.replace(tzinfo=UTC)
    return (datetime.combine(date(1970, 1, 1), zoned) - _EPOCH) // _MICROSECOND % _DAY_US


def _ascending(instants_us: Iterator[int]) -> tuple[int, ...]:
    return tuple(sorted(set(instants_us)))
