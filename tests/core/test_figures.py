"""Figures: what cells say in words, without a server."""

from itertools import pairwise

from consumers.histogram import bucket_of
from consumers.state import OTHER_CELL, Cell, Measures
from consumers.views.figures import Timing, cover_names, figures_of, groups_of, known_cost, span, usd
from consumers.windows import DAY, DAY_S, HOUR_S, MARGINAL_HOUR

NOON = 20_000 * DAY_S + 12 * HOUR_S


def cell(agent: str = "writer", *, model: str = "gpt-4o", state: str = "draft", status: str = "ok") -> Cell:
    """Return a cell of one service."""
    return ("deckster", "1", "test", "", agent, model, state, status)


def timed(measure: str, *times_us: int) -> Measures:
    """Return a sum with its histogram, as `metrics` stores them."""
    measures = {measure: sum(times_us)}
    for time_us in times_us:
        bucket = f"{measure}.{bucket_of(time_us)}"
        measures[bucket] = measures.get(bucket, 0) + 1
    return measures


def test_nothing_has_no_ratio_no_mean_and_costs_nothing() -> None:
    """A ratio of nothing is unknown, not 0; the cost of no request is 0."""
    figures = figures_of({}, {})
    assert figures.request_error_ratio is None
    assert figures.run_error_ratio is None
    assert figures.run_time == Timing()
    assert figures.run_time.mean_us is None
    assert figures.known_cost_nano_usd == 0


def test_failed_requests_are_held_against_all_requests() -> None:
    """Cancelled and interrupted ones stand below the line, never above it."""
    cells = {cell(status=status): {"rq": n} for status, n in (("ok", 5), ("error", 2), ("cancelled", 2))}
    figures = figures_of({**cells, cell(status="interrupted"): {"rq": 1}}, {})
    assert figures.requests == 10
    assert figures.requests_by_status == {"cancelled": 2, "error": 2, "interrupted": 1, "ok": 5}
    assert figures.request_error_ratio == 0.2


def test_a_run_that_was_saved_by_a_retry_did_not_fail() -> None:
    """Its request failed; the run ended well: each rate has its own line."""
    of_metrics = {cell(status="error"): {"rq": 1}, cell(): {"rq": 1}, cell(model=""): {"ru": 1}}
    figures = figures_of(of_metrics, {})
    assert figures.request_error_ratio == 0.5
    assert figures.run_error_ratio == 0


def test_what_a_cap_hid_stands_on_neither_side_of_a_ratio() -> None:
    """Its end is unknown, and it is counted all the same."""
    figures = figures_of({cell(status="error"): {"rq": 1}, cell(): {"rq": 3}, OTHER_CELL: {"rq": 96}}, {})
    assert figures.requests == 100
    assert figures.request_error_ratio == 0.25


def test_tokens_are_input_and_output_once_whatever_their_parts() -> None:
    """Cached tokens are in the input, reasoning is in the output."""
    figures = figures_of({cell(): {"rq": 1, "ti": 100, "to": 50, "tcr": 80, "trs": 20}}, {})
    assert figures.total_tokens == 150
    assert figures.token_parts == {"cache_read": 80, "reasoning": 20}


def test_an_unknown_price_is_never_0() -> None:
    """With one known price there is a sum, with what is not in it beside it; with none there is no sum."""
    unknown = {cell(model="mystery"): {"un": 2, "ut": 70}}
    figures = figures_of({}, unknown)
    assert figures.known_cost_nano_usd is None
    assert (figures.unpriced_requests, figures.unpriced_tokens) == (2, 70)
    assert figures_of({}, {**unknown, cell(): {"c": 5, "cn": 1}}).known_cost_nano_usd == 5
    assert known_cost(0, 1, 0) == 0


def test_response_time_is_the_mean_and_the_95th_percentile_of_runs() -> None:
    """The mean is exact; the percentile is within 4.4 %."""
    slow, fast = timed("ud", 30_000_000), timed("ud", *([1_000_000] * 19))
    figures = figures_of({cell(model=""): {"ru": 19, **fast}, cell("other", model=""): {"ru": 1, **slow}}, {})
    assert figures.run_time.count == 20
    assert figures.run_time.mean_us == (19 * 1_000_000 + 30_000_000) // 20
    assert figures.run_time.p95_us is not None
    assert abs(figures.run_time.p95_us - 1_000_000) < 44_000


def test_groups_add_up_and_the_dearest_stands_first() -> None:
    """Both handlers' cells meet under one name; what a cap hid stands last."""
    of_metrics = {
        cell("cheap"): {"rq": 9, "ti": 900},
        cell("dear"): {"rq": 1, "ti": 1},
        cell("dear", status="error"): {"rq": 1},
        OTHER_CELL: {"rq": 5},
    }
    of_cost = {cell("cheap"): {"c": 1, "cn": 9}, cell("dear"): {"c": 500, "cn": 1}, OTHER_CELL: {"c": 10**9, "cn": 5}}
    groups = groups_of(of_metrics, of_cost, "agent")
    assert [group.name for group in groups] == ["dear", "cheap", "__other__"]
    assert groups[0].figures.requests == 2
    assert sum(group.figures.cost_nano_usd for group in groups) == figures_of(of_metrics, of_cost).cost_nano_usd


def test_a_name_that_nothing_of_its_dimension_happened_to_has_no_group() -> None:
    """Transitions have no agent and no model, runs have no model: none of them makes a row of its own."""
    of_metrics = {cell(): {"rq": 1}, cell("", model="", state="review"): {"tr": 1}, cell(model=""): {"ru": 1}}
    assert [group.name for group in groups_of(of_metrics, {}, "agent")] == ["writer"]
    assert [group.name for group in groups_of(of_metrics, {}, "model")] == ["gpt-4o"]
    assert {group.name for group in groups_of(of_metrics, {}, "state")} == {"draft", "review"}


def test_dollars_are_exact_to_the_nano_dollar() -> None:
    """No float stands between the integer and the text."""
    assert usd(0) == "0.000000000"
    assert usd(1) == "0.000000001"
    assert usd(9_007_199_254_740_993) == "9007199.254740993"


def test_names_are_covered_by_whole_hours_without_a_gap() -> None:
    """A range within two days is covered by hours, and by a day where the whole of it was asked for."""
    windows = list(cover_names(NOON + 90, NOON + HOUR_S + 1, NOON + 2 * HOUR_S))
    assert windows == [(MARGINAL_HOUR, NOON), (MARGINAL_HOUR, NOON + HOUR_S)]
    day = NOON - 12 * HOUR_S
    assert list(cover_names(day, day + DAY_S, NOON)) == [(DAY, day)]


def test_names_of_long_ago_are_covered_by_days() -> None:
    """Hours are kept for two days only; behind the days come hours again, each instant once."""
    windows = list(cover_names(NOON - 5 * DAY_S, NOON, NOON))
    assert span(windows) == (NOON - 5 * DAY_S - 12 * HOUR_S, NOON)
    for (resolution, start_s), (_, next_s) in pairwise(windows):
        assert start_s + resolution.width_s == next_s
