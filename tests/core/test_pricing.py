"""What a request costs at given rates: integers, exact, and refused rather than guessed."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.pricing import Card, Cliff, Kind, PriceBook, Priced, PricingError, Rate, Rates, decide, price
from pipeline.events import UsageEvent


def rates_of(**usd_per_million: str) -> Rates:
    """Build rates from dollars a million, by kind."""
    kinds: dict[str, Kind] = {
        "input": "input_tokens",
        "output": "output_tokens",
        "cache_read": "cache_read_tokens",
        "cache_write": "cache_write_tokens",
        "cache_write_1h": "cache_write_1h_tokens",
        "audio": "input_audio_tokens",
        "cache_audio": "cache_audio_read_tokens",
        "output_audio": "output_audio_tokens",
        "reasoning": "reasoning_tokens",
        "requests": "requests",
    }
    return Rates(Card.of({kinds[name]: Rate(Decimal(usd)) for name, usd in usd_per_million.items()}))


def test_input_and_output_have_each_their_rate() -> None:
    """A thousand tokens at $3 and ten at $15 a million cost $0.00315."""
    event = UsageEvent(time_us=0, input_tokens=1000, output_tokens=10)
    assert price(event, rates_of(input="3", output="15")) == 3_150_000


def test_no_tokens_cost_nothing_and_are_priced() -> None:
    """An empty request has a price, and it is 0."""
    assert price(UsageEvent(time_us=0), rates_of(input="3", output="15")) == 0


def test_embeddings_are_priced_by_their_input() -> None:
    """A model that sells only input charges it, whatever the operation is called."""
    event = UsageEvent(time_us=0, operation="embeddings", input_tokens=1_000_000)
    assert price(event, rates_of(input="0.02")) == 20_000_000


def test_cached_tokens_are_charged_once_at_their_own_rate() -> None:
    """Of 100 input tokens 60 are read from the cache and 10 written to it: 30 pay the full rate."""
    event = UsageEvent(time_us=0, input_tokens=100, cache_read_tokens=60, cache_write_tokens=10)
    rates = rates_of(input="10", cache_read="1", cache_write="12.5")
    assert price(event, rates) == 30 * 10_000 + 60 * 1_000 + 10 * 12_500


def test_a_kind_without_a_rate_is_part_of_its_whole() -> None:
    """Where caching has no price, cached tokens cost what input costs."""
    event = UsageEvent(time_us=0, input_tokens=100, cache_read_tokens=60, reasoning_tokens=3, output_tokens=5)
    assert price(event, rates_of(input="10", output="20")) == 100 * 10_000 + 5 * 20_000


def test_one_hour_writes_are_part_of_the_writes() -> None:
    """Of ten tokens written four are kept for an hour: six pay the rate of writing."""
    event = UsageEvent(time_us=0, input_tokens=10, cache_write_tokens=10, cache_write_1h_tokens=4)
    assert price(event, rates_of(input="1", cache_write="2", cache_write_1h="4")) == 6 * 2_000 + 4 * 4_000


def test_audio_that_was_cached_is_taken_off_the_input_once() -> None:
    """Cached audio is part of the cached and of the audio tokens: 100 = 40 plain + 20 cached + 30 audio + 10 both."""
    event = UsageEvent(
        time_us=0, input_tokens=100, cache_read_tokens=30, input_audio_tokens=40, cache_audio_read_tokens=10
    )
    rates = rates_of(input="1", cache_read="0.1", audio="10", cache_audio="2")
    assert price(event, rates) == 40 * 1_000 + 20 * 100 + 30 * 10_000 + 10 * 2_000


def test_reasoning_and_audio_are_parts_of_the_output() -> None:
    """Of nine output tokens two are reasoning and three audio."""
    event = UsageEvent(time_us=0, output_tokens=9, reasoning_tokens=2, output_audio_tokens=3)
    rates = rates_of(output="1", reasoning="3", output_audio="5")
    assert price(event, rates) == 4 * 1_000 + 2 * 3_000 + 3 * 5_000


def test_above_a_cliff_every_token_pays_the_higher_price() -> None:
    """The cliff is passed by one token more, not reached by its own number, and holds for output too."""
    card = Card.of(
        {
            "input_tokens": Rate(Decimal(1), (Cliff(200, Decimal(2)), Cliff(500, Decimal(4)))),
            "output_tokens": Rate(Decimal(10), (Cliff(200, Decimal(15)),)),
        }
    )
    costs = [
        price(UsageEvent(time_us=0, input_tokens=tokens, output_tokens=1), Rates(card))
        for tokens in (200, 201, 500, 501)
    ]
    assert costs == [210_000, 417_000, 1_015_000, 2_019_000]


def test_a_service_tier_has_its_own_card() -> None:
    """A tier with prices of its own pays them; one without pays the standard."""
    flex = Card.of({"input_tokens": Rate(Decimal(1))})
    rates = Rates(Card.of({"input_tokens": Rate(Decimal(2))}), {"flex": flex})
    costs = [price(UsageEvent(time_us=0, input_tokens=1, service_tier=tier), rates) for tier in ("", "flex", "default")]
    assert costs == [2_000, 1_000, 2_000]


def test_a_request_itself_can_have_a_price() -> None:
    """$5 a thousand requests are half a cent each, tokens or none."""
    assert price(UsageEvent(time_us=0), rates_of(input="1", requests="5000")) == 5_000_000


def test_no_rates_at_all_are_free_of_charge() -> None:
    """A model that the catalogue lists without a price costs 0."""
    assert price(UsageEvent(time_us=0, input_tokens=5), Rates(Card.of({}))) == 0


@pytest.mark.parametrize(("tokens", "nano_usd"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_dollar_goes_to_the_even_neighbour(tokens: int, nano_usd: int) -> None:
    """At half a nano-dollar a token the sum is rounded once, half to even."""
    assert price(UsageEvent(time_us=0, input_tokens=tokens), rates_of(input="0.0005")) == nano_usd


@pytest.mark.parametrize(
    "usage",
    [
        UsageEvent(time_us=0, input_tokens=10, cache_read_tokens=11),
        UsageEvent(time_us=0, input_tokens=10, cache_read_tokens=6, cache_write_tokens=5),
        UsageEvent(time_us=0, input_tokens=10, cache_write_tokens=1, cache_write_1h_tokens=2),
        UsageEvent(time_us=0, input_tokens=10, cache_read_tokens=6, input_audio_tokens=5),
        UsageEvent(time_us=0, output_tokens=1, reasoning_tokens=2),
    ],
)
def test_parts_larger_than_their_whole_are_refused(usage: UsageEvent) -> None:
    """A usage that contradicts itself has no price."""
    rates = rates_of(
        input="1", cache_read="1", cache_write="1", cache_write_1h="1", audio="1", cache_audio="1", output="1",
        reasoning="1",
    )  # fmt: skip
    with pytest.raises(PricingError) as refused:
        price(usage, rates)
    assert refused.value.code == "inconsistent_usage"


def test_input_that_leaves_out_the_cached_tokens_is_refused_by_every_model() -> None:
    """Even where caching has no price: such input is too small, and so would be the figure."""
    with pytest.raises(PricingError, match="exceed"):
        price(UsageEvent(time_us=0, input_tokens=1, cache_read_tokens=2), rates_of(input="1"))


def test_a_unit_that_events_do_not_carry_has_no_price() -> None:
    """A model sold by the hour of audio cannot be priced by tokens."""
    with pytest.raises(PricingError) as refused:
        price(UsageEvent(time_us=0, input_tokens=1), Rates(None))
    assert refused.value.code == "unit_not_carried"


def test_a_figure_over_the_limit_is_refused() -> None:
    """What no state can add up is unpriced: 2^40 tokens at $600 a million."""
    with pytest.raises(PricingError) as refused:
        price(UsageEvent(time_us=0, input_tokens=2**40), rates_of(input="600"))
    assert refused.value.code == "over_limit"


def test_the_providers_figure_wins_and_both_are_kept() -> None:
    """The figure that counts, and beside it what each says."""
    assert decide(7, 5) == Priced(7, "provider", 7, 5)
    assert decide(0, None, "unknown_model") == Priced(0, "provider", 0, None, "unknown_model")
    assert decide(None, 5) == Priced(5, "catalogue", None, 5)
    assert decide(None, None, "unknown_model") == Priced(None, "unpriced", None, None, "unknown_model")


def test_the_empty_book_is_named_none() -> None:
    """A recipe can say that no own prices were used."""
    assert PriceBook().hash == "none"


@given(
    usd=st.decimals(min_value=0, max_value=1000, allow_nan=False, allow_infinity=False, places=18),
    tokens=st.integers(min_value=0, max_value=2**33),
)
def test_the_price_is_the_exact_product_rounded_once(usd: Decimal, tokens: int) -> None:
    """No digit of a price is lost on the way: the result is the fraction, rounded half to even."""
    exact = Fraction(usd) * tokens * 1000
    assert price(UsageEvent(time_us=0, input_tokens=tokens), rates_of(input=str(usd))) == round(exact)
