"""The door to genai-prices: every shipped model agrees with the library, and names never fill the memory."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import (
    ClauseAnd,
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    MatchLogic,
    ModelInfo,
    Provider,
    StartDateConstraint,
    TimeOfDateConstraint,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consumers.catalogue import Catalogue, Pricer, estimate_usd
from consumers.pricing import PriceBook, Priced, PricingError, price
from pipeline.events import Status, UsageEvent
from pipeline.units import usd_to_nano

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
BEFORE: Final = datetime(2025, 6, 1, 2, tzinfo=UTC)
AFTER: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
NANO: Final = 1_000_000_000

CATALOGUE: Final = Catalogue()
PRICER: Final = Pricer(CATALOGUE, PriceBook())

PLAIN: Final = UsageEvent(time_us=0, input_tokens=1234, output_tokens=567)
CACHED: Final = UsageEvent(
    time_us=0,
    input_tokens=90_001,
    output_tokens=333,
    cache_read_tokens=70_007,
    cache_write_tokens=11_111,
    cache_write_1h_tokens=7,
    reasoning_tokens=99,
)
AUDIO: Final = UsageEvent(
    time_us=0,
    input_tokens=5003,
    output_tokens=701,
    cache_read_tokens=1009,
    input_audio_tokens=2003,
    cache_audio_read_tokens=503,
    output_audio_tokens=301,
)
SHAPES: Final = (
    UsageEvent(time_us=0),
    PLAIN,
    CACHED,
    AUDIO,
    *(replace(CACHED, input_tokens=tokens) for tokens in (100_000, 200_000, 200_001, 272_001, 600_000)),
)


def to_us(instant: datetime) -> int:
    """Return an instant as events carry it."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def library_price(
    event: UsageEvent, provider: Provider, model: ModelInfo, instant: datetime, context: dict[str, str] | None = None
) -> int:
    """Return what genai-prices charges, in nano-dollars.

    Raises:
        ValueError: The usage contradicts itself.
    """
    usage = genai_prices.Usage(
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cache_read_tokens=event.cache_read_tokens,
        cache_write_tokens=event.cache_write_tokens,
        cache_write_1h_tokens=event.cache_write_1h_tokens,
        output_reasoning_tokens=event.reasoning_tokens,
        input_audio_tokens=event.input_audio_tokens,
        cache_audio_read_tokens=event.cache_audio_read_tokens,
        output_audio_tokens=event.output_audio_tokens,
    )
    answer = model.calc_price(usage, provider, genai_request_timestamp=instant, price_context=context)
    return usd_to_nano(answer.total_price)


def our_price(event: UsageEvent, provider: Provider, model: ModelInfo, instant: datetime) -> int | None:
    """Return what we charge, found by name as for any event; None when the model is sold by a unit no event carries.

    Raises:
        PricingError: The usage contradicts itself.
    """
    rates = CATALOGUE.rates(provider.id, name_of(provider.id, model.id), to_us(instant))
    assert rates is not None
    try:
        return price(event, rates)
    except PricingError as error:
        if error.code == "unit_not_carried":
            return None
        raise


def assert_agreed(
    event: UsageEvent, provider: Provider, model: ModelInfo, instant: datetime, context: dict[str, str] | None = None
) -> None:
    """Assert that we charge what the library does, and nothing only where a model is sold by no unit of an event.

    Raises:
        PricingError: The usage contradicts itself.
    """
    ours = our_price(event, provider, model, instant)
    theirs = library_price(event, provider, model, instant, context) if sold_by_tokens(model) else None
    assert ours == theirs, (provider.id, model.id, instant, event)


@cache
def name_of(provider_id: str, model_id: str) -> str:
    """Return a name by which the library finds just this model; some ids are no names of their own."""
    for provider in providers:
        for model in provider.models:
            if (provider.id, model.id) == (provider_id, model_id):
                return next(name for name in names_of(model) if finds(name, provider, model))
    raise LookupError(model_id)


def names_of(model: ModelInfo) -> Iterator[str]:
    """Iterate over what may be a name of a model."""
    yield model.id
    yield model.id.replace("regional.", "us.", 1)
    yield from literals(model.match)


def literals(match: MatchLogic) -> Iterator[str]:
    """Iterate over the strings that a model's rule of names begins or ends at."""
    match match:
        case ClauseEquals():
            yield match.equals
        case ClauseStartsWith():
            yield match.starts_with
        case ClauseOr():
            for clause in match.or_:
                yield from literals(clause)
        case ClauseAnd():
            for clause in match.and_:
                yield from literals(clause)
        case _:
            pass


def finds(name: str, provider: Provider, model: ModelInfo) -> bool:
    """Return whether the library takes `name` for this very model."""
    try:
        found = DataSnapshot(providers, from_auto_update=False).find_provider_model(name, None, provider.id, None)
    except LookupError:
        return False
    return found[0] is provider and found[1] is model


def sold_by_tokens(model: ModelInfo) -> bool:
    """Return whether a model is free, or has a price for tokens or requests."""
    keys = vars(model.get_prices(AFTER))
    return not keys or any(key.endswith("_mtok") or key == "requests_kcount" for key in keys)


def changes_of(model: ModelInfo) -> set[datetime]:
    """Return the instants at which a model's prices change, the daily ones on one day of 2026."""
    dated = [*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ())]
    changes: set[datetime] = set()
    for constraint in (each.constraint for each in dated):
        match constraint:
            case StartDateConstraint():
                changes.add(EPOCH + (constraint.start_date - EPOCH.date()))
            case TimeOfDateConstraint():
                for clock in (constraint.start_time, constraint.end_time):
                    changes.add(datetime.combine(AFTER.date(), clock).astimezone(UTC))
            case None:
                pass
    return changes


def contexts_of(model: ModelInfo) -> list[dict[str, str]]:
    """Return the ways of processing, one word each, that have prices of their own."""
    pairs = {pair for variant in model.price_variants or () for pair in variant.when.items()}
    return [{key: word} for key, word in sorted(pairs) if key in {"service_tier", "processing", "speed"}]


@pytest.mark.parametrize("provider", providers, ids=lambda provider: provider.id)
def test_every_model_costs_what_the_library_says(provider: Provider) -> None:
    """To the nano-dollar, at two instants, for plain, cached and audio usage, below and above the cliffs."""
    for model in provider.models:
        for instant in (BEFORE, AFTER):
            for shape in SHAPES:
                assert_agreed(shape, provider, model, instant)


DATED: Final = [(provider, model) for provider in providers for model in provider.models if changes_of(model)]
TIERED: Final = [(provider, model) for provider in providers for model in provider.models if contexts_of(model)]


def test_every_change_of_price_is_seen_to_the_microsecond() -> None:
    """One microsecond before and at each change, by date or by time of day, we agree with the library."""
    microsecond = timedelta(microseconds=1)
    for provider, model in DATED:
        for change in changes_of(model):
            for instant in (change - microsecond, change, change + DAY - microsecond, change + DAY):
                assert_agreed(PLAIN, provider, model, instant)


def test_every_service_tier_costs_what_the_library_says() -> None:
    """Flex, priority, batch and fast have their own prices, from their own dates."""
    for provider, model in TIERED:
        for context in contexts_of(model):
            (tier,) = context.values()
            for instant in (BEFORE, AFTER):
                for shape in (PLAIN, replace(CACHED, input_tokens=300_000)):
                    assert_agreed(replace(shape, service_tier=tier), provider, model, instant, context)


@settings(deadline=None)
@given(
    sold=st.sampled_from([(provider, model) for provider in providers for model in provider.models]),
    counts=st.lists(st.integers(min_value=0, max_value=400_000), min_size=9, max_size=9),
    day=st.integers(min_value=18_000, max_value=21_500),
    second=st.integers(min_value=0, max_value=86_399),
)
def test_any_usage_agrees_or_is_refused(
    sold: tuple[Provider, ModelInfo], counts: list[int], day: int, second: int
) -> None:
    """Whatever the counts: where the library has a price we have the same, where it refuses we do."""
    event = UsageEvent(
        time_us=0,
        input_tokens=counts[0] * 2,
        output_tokens=counts[1],
        cache_read_tokens=counts[2],
        cache_write_tokens=counts[3],
        cache_write_1h_tokens=counts[4],
        reasoning_tokens=counts[5] // 2,
        input_audio_tokens=counts[6],
        cache_audio_read_tokens=counts[7],
        output_audio_tokens=counts[8] // 2,
    )
    provider, model = sold
    instant = EPOCH + timedelta(days=day, seconds=second)
    try:
        assert_agreed(event, provider, model, instant)
    except PricingError as error:
        assert error.code == "inconsistent_usage"  # noqa: PT017 - either outcome is right, for some usage
        if event.cache_read_tokens + event.cache_write_tokens <= event.input_tokens:
            with pytest.raises(ValueError, match="Invalid usage data"):
                library_price(event, provider, model, instant)


def test_o3_costs_less_from_the_day_it_did() -> None:
    """A million in and out cost $50 until 9 June 2025 and $10 from the 10th: each request at its own time."""
    event = UsageEvent(time_us=0, provider="openai", model="o3", input_tokens=10**6, output_tokens=10**6)
    change = to_us(datetime(2025, 6, 10, tzinfo=UTC))
    assert PRICER.price(replace(event, time_us=change - 1)).nano_usd == 50 * NANO
    assert PRICER.price(replace(event, time_us=change)).nano_usd == 10 * NANO


def test_the_answering_model_is_priced_before_the_one_asked_for() -> None:
    """An alias may be served by another model; where the answer's name is unknown the asked one counts."""
    event = UsageEvent(
        time_us=to_us(AFTER), provider="openai", model="gpt-4", response_model="gpt-4o-2024-08-06", input_tokens=10**6
    )
    assert PRICER.price(event).nano_usd == 2_500_000_000
    assert PRICER.price(replace(event, response_model="deployment-7")).nano_usd == 30 * NANO


def test_without_a_provider_the_name_decides() -> None:
    """The guide's calls name no provider."""
    event = UsageEvent(time_us=to_us(AFTER), model="claude-3-sonnet-20240229", output_tokens=10**6)
    assert PRICER.price(event) == Priced(15 * NANO, "catalogue", None, 15 * NANO)


def test_an_unknown_provider_is_not_given_somebody_elses_price() -> None:
    """A known name at an unknown provider may cost anything."""
    event = UsageEvent(time_us=to_us(AFTER), provider="my-own-gateway", model="gpt-4o", input_tokens=5)
    assert PRICER.price(event) == Priced(None, "unpriced", reason="unknown_model")


def test_an_unknown_model_is_unpriced_and_not_free() -> None:
    """Also one without any name; and the provider's figure still counts."""
    unknown = UsageEvent(time_us=to_us(AFTER), provider="openai", model="gpt-unheard-of", input_tokens=5)
    assert PRICER.price(unknown) == Priced(None, "unpriced", reason="unknown_model")
    assert PRICER.price(UsageEvent(time_us=0)) == Priced(None, "unpriced", reason="unknown_model")
    assert PRICER.price(replace(unknown, cost_nano_usd=9)) == Priced(9, "provider", 9, None, "unknown_model")


def test_the_providers_figure_wins_over_the_catalogues() -> None:
    """Both are kept."""
    event = UsageEvent(time_us=to_us(AFTER), model="gpt-4o", input_tokens=2, cost_nano_usd=4999)
    assert PRICER.price(event) == Priced(4999, "provider", 4999, 5000)


def test_a_contradiction_is_unpriced_with_its_reason() -> None:
    """The pricer never raises."""
    event = UsageEvent(time_us=to_us(AFTER), model="gpt-4o", input_tokens=2, cache_read_tokens=3)
    assert PRICER.price(event) == Priced(None, "unpriced", reason="inconsistent_usage")


def test_a_model_sold_by_the_hour_is_unpriced() -> None:
    """Whisper is sold by audio, which no event counts: not $0, as the library has it for tokens."""
    event = UsageEvent(time_us=to_us(AFTER), provider="openai", model="whisper-1", input_tokens=100)
    assert PRICER.price(event) == Priced(None, "unpriced", reason="unit_not_carried")


def test_an_embedding_is_priced() -> None:
    """Input alone has a price there."""
    event = UsageEvent(
        time_us=to_us(AFTER),
        operation="embeddings",
        provider="openai",
        model="text-embedding-3-small",
        input_tokens=10**6,
    )
    assert PRICER.price(event).nano_usd == 20_000_000


def test_names_do_not_fill_the_memory() -> None:
    """Known and unknown names are remembered up to a bound; the library's own memory stays as it was."""
    catalogue = Catalogue(max_names=8)
    library = vars(get_snapshot())
    before = {name: len(library[name]) for name in ("_lookup_cache", "_provider_cache", "_provider_misses")}
    for number in range(100):
        assert catalogue.rates("", f"nobody-knows-{number}", 0) is None
        assert catalogue.rates(f"nobody-{number}", "gpt-4o", 0) is None
        assert catalogue.rates("", f"claude-3-sonnet-{number}", 0) is not None
    held = catalogue.statistics()
    assert (held.known_names, held.unknown_names, held.models) == (8, 8, 1)
    assert {name: len(library[name]) for name in before} == before


def test_an_unknown_name_that_was_forgotten_is_still_unknown() -> None:
    """The bound costs a look-up, never an answer."""
    catalogue = Catalogue(max_names=1)
    names = ["nobody-knows", "gpt-4o", "nobody-cares", "gpt-4", "nobody-knows", "gpt-4o"]
    answers = [catalogue.rates("", name, 0) is not None for name in names]
    assert answers == [False, True, False, True, False, True]


def test_the_version_names_the_package_and_its_release() -> None:
    """A recipe says with which prices a state was computed."""
    assert Catalogue.version == f"genai-prices {genai_prices.__version__}"


def test_rates_are_the_same_whatever_was_asked_before() -> None:
    """Two catalogues asked in opposite order answer alike: a price depends on the event alone."""
    instants = [to_us(BEFORE) + hours * 3_600_000_000 for hours in range(48)]
    names = ["deepseek-chat", "o3", "gemini-2.5-pro"]
    questions = [("", name, instant) for name in names for instant in instants]
    one, other = Catalogue(), Catalogue()
    forward = [one.rates(*question) for question in questions]
    backward = [other.rates(*question) for question in reversed(questions)]
    assert forward == backward[::-1]


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("gpt-4", 90),
        ("gpt-4-0613", 90),
        ("gpt-4-turbo", 40),
        ("gpt-4-turbo-2024-04-09", 40),
        ("gpt-3.5-turbo", 2),
        ("gemini-2.0-flash", 0.5),
        ("gemini-2.0-flash-001", 0.5),
        ("claude-3-sonnet", 18),
        ("claude-3-sonnet-20240229", 18),
        ("gpt-4o", 12.5),
        ("gpt-4o-2024-08-06", 12.5),
        ("gpt-4o-mini", 0.75),
    ],
)
def test_the_guides_names_have_their_own_price(model: str, usd: float) -> None:
    """A million in and out, today: gpt-4o is not priced as gpt-4, and dates do not matter."""
    assert estimate_usd(model, 10**6, 10**6) == usd


@pytest.mark.parametrize(
    ("model", "input_tokens", "output_tokens"),
    [("nobody-knows", 1, 1), ("", 1, 1), ("whisper-1", 1, 1), ("gpt-4", -1, 1), ("gpt-4", 1, 2**41)],
)
def test_an_estimate_that_is_not_known_is_nan(model: str, input_tokens: int, output_tokens: int) -> None:
    """Never 0.0, which would read as free."""
    assert math.isnan(estimate_usd(model, input_tokens, output_tokens))


@pytest.mark.parametrize("tokens", [1.5, "7", None, True, math.nan])
def test_tokens_that_are_no_integer_have_no_estimate(tokens: object) -> None:
    """The guide's function is called with whatever an application has at hand."""
    assert math.isnan(estimate_usd("gpt-4", tokens, 1))  # pyright: ignore[reportArgumentType] # on purpose
    assert math.isnan(estimate_usd("gpt-4", 1, tokens))  # pyright: ignore[reportArgumentType] # on purpose


def test_a_model_that_is_no_name_has_no_estimate() -> None:
    """An application may not have a model at hand."""
    assert math.isnan(estimate_usd(None, 1, 1))  # pyright: ignore[reportArgumentType] # on purpose


def test_an_estimate_of_nothing_is_zero() -> None:
    """A known model without tokens costs 0.0, and that is an answer."""
    assert estimate_usd("gpt-4", 0, 0) == 0.0


@pytest.mark.parametrize(
    ("status", "reason"), [("ok", "no_tokens"), ("interrupted", "no_tokens"), ("cancelled", "no_tokens"), ("error", "")]
)
def test_a_request_without_tokens_is_free_only_where_it_failed(status: Status, reason: str) -> None:
    """Nobody has told what an answer without tokens cost: it is unpriced, and never $0."""
    pricer = Pricer(Catalogue(), PriceBook())
    priced = pricer.price(UsageEvent(1_790_000_000_000_000, model="gpt-4o", provider="openai", status=status))
    assert (priced.reason, priced.nano_usd) == (reason, None if reason else 0)
