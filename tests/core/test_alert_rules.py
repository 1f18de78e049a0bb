"""Alert rules: what is refused, and how a rule moves from state to state with the watermark."""

import msgspec
import pytest
from msgspec.structs import replace

from consumers.alerts.evaluate import HELD_BACK_S, Facts, RuleState, Transition, ended, evaluate, windows_of
from consumers.alerts.facts import slow_facts, token_facts
from consumers.alerts.rules import DEFAULT_RULES, Rule, Where, parse_rules
from consumers.measures import INPUT, OUTPUT
from consumers.reader import Operation
from consumers.state import CELL_DIMENSIONS, OTHER_CELL, Cell
from consumers.windows import DAY, HOUR, MINUTE, TEN_SECONDS
from pipeline.errors import SettingsError
from pipeline.units import format_duration_s, parse_duration_s

NOON = 1_790_000_000 - 1_790_000_000 % 86_400 + 43_200
RULE = Rule(name="many tokens", kind="tokens", threshold=100, window_s=60)
PATIENT = replace(RULE, for_s=20)


def cell_with(**dimensions: str) -> Cell:
    """Return a cell with some dimensions set."""
    return msgspec.convert([dimensions.get(name, "") for name in CELL_DIMENSIONS], Cell)


def walk(rule: Rule, *levels: tuple[int, int]) -> list[tuple[str, int]]:
    """Return what is told, and when, for (watermark, value) pairs in turn."""
    state: RuleState | None = None
    told: list[tuple[str, int]] = []
    for watermark_s, value in levels:
        state, transition = evaluate(rule, Facts(value), state, watermark_s)
        if transition:
            told.append((transition.to, transition.watermark_s))
    return told


def after(rule: Rule, *levels: tuple[int, int]) -> RuleState:
    """Return the state that (watermark, value) pairs lead to."""
    state: RuleState | None = None
    for watermark_s, value in levels:
        state, _ = evaluate(rule, Facts(value), state, watermark_s)
    assert state is not None
    return state


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("10s", 10), ("5m", 300), ("24h", 86_400), ("7d", 604_800), ("90m", 5_400)]
)
def test_durations_are_written_as_people_write_them(text: str, seconds: int) -> None:
    """A whole number and a unit; what is written out reads back as the same."""
    assert parse_duration_s(text) == seconds
    assert parse_duration_s(format_duration_s(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "1.5h", "-5m", "5 m", "5M", "1w", "5m ", "\u0661m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The message quotes the text and says how to write it."""
    with pytest.raises(ValueError, match="is no duration: write a whole number and s, m, h or d"):
        parse_duration_s(text)


def test_a_rule_is_read_with_its_defaults() -> None:
    """Name, kind and threshold are enough; the rest is the guide's window and an immediate warning."""
    assert parse_rules([{"name": "t", "kind": "tokens", "threshold": 5}]) == (
        Rule(name="t", kind="tokens", threshold=5, window_s=300, for_s=0, severity="warning"),
    )


def test_a_rule_is_read_whole() -> None:
    """Every key has its place; a slow operation's threshold is a duration or a number of seconds."""
    table: dict[str, object] = {
        "name": "slow writer",
        "kind": "slow_operation",
        "threshold": "30s",
        "window": "10s",
        "for": "1m",
        "severity": "critical",
        "summary": "Look at the writer.",
        "where": {"agent": "Writer"},
    }
    rule, faster = parse_rules([table, {**table, "name": "faster", "threshold": 1.5}])
    assert rule == Rule(
        name="slow writer",
        kind="slow_operation",
        threshold=30_000_000,
        window_s=10,
        for_s=60,
        severity="critical",
        summary="Look at the writer.",
        where=Where(agent="Writer"),
    )
    assert faster.threshold == 1_500_000


GOOD: dict[str, object] = {"name": "a", "kind": "tokens", "threshold": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": "15s"}, "[[alert]] 1 'a': window: '15s' is not made of whole windows"),
        ({"window": "61m"}, None),
        ({"window": "3610s"}, "[[alert]] 1 'a': window: '3610s' is not made of whole windows"),
        ({"window": "25h"}, None),
        ({"window": "1501m"}, "[[alert]] 1 'a': window: '1501m' is not made of whole windows"),
        ({"window": "0s"}, "[[alert]] 1 'a': window: '0s' is out of its limits"),
        ({"window": "31d"}, "[[alert]] 1 'a': window: '31d' is out of its limits"),
        ({"window": 300}, "[[alert]] 1 'a': window: 300 is no duration"),
        ({"for": "soon"}, "[[alert]] 1 'a': for: 'soon' is no duration"),
        ({"threshold": -1}, "[[alert]] 1 'a': threshold: -1 is no number of tokens"),
        ({"threshold": True}, "[[alert]] 1 'a': threshold: True is no number of tokens"),
        ({"threshold": "30s"}, "[[alert]] 1 'a': threshold: '30s' is no number of tokens"),
        ({"threshold": None}, "[[alert]] 1 'a': threshold: it is missing"),
        ({"kind": "slow_operation", "threshold": float("nan")}, "[[alert]] 1 'a': threshold: nan is no duration"),
        ({"kind": "error_rate"}, "[[alert]] 1 'a': kind: unknown kind 'error_rate': use one of tokens, slow_operation"),
        ({"severity": "red"}, "[[alert]] 1 'a': severity: unknown severity 'red'"),
        ({"summary": 1}, "[[alert]] 1 'a': summary: 1 is no text"),
        ({"treshold": 1}, "[[alert]] 1 'a': treshold: unknown key"),
        ({"where": "x"}, "[[alert]] 1 'a': where: write a table"),
        ({"where": {"agnet": "x"}}, "[[alert]] 1 'a': where.agnet: unknown key of a rule of kind tokens"),
        ({"where": {"agent": ""}}, "[[alert]] 1 'a': where.agent: '' is no name"),
        (
            {"kind": "slow_operation", "where": {"model": "x"}},
            "[[alert]] 1 'a': where.model: unknown key of a rule of kind slow_operation: use agent",
        ),
        ({"name": "\n"}, "[[alert]] 1 '\\n': name: use 1-100 letters"),
        ({"name": None}, "[[alert]] 1: name: it is missing"),
    ],
)
def test_a_wrong_rule_is_refused_by_its_place(change: dict[str, object], message: str | None) -> None:
    """The error names the table, the rule, the key and what is wrong with it."""
    table = [{**GOOD, **change}]
    if message is None:
        assert parse_rules(table)
        return
    with pytest.raises(SettingsError) as refused:
        parse_rules(table)
    assert str(refused.value).startswith(message)


def test_two_rules_of_one_name_are_refused() -> None:
    """A name is a rule's identity in the state."""
    with pytest.raises(SettingsError, match=r"\[\[alert\]\] 2 'a': name: another rule has it already"):
        parse_rules([GOOD, GOOD])


@pytest.mark.parametrize("table", [GOOD, "alert", [1]])
def test_what_is_no_list_of_tables_is_refused(table: object) -> None:
    """`[alert]` instead of `[[alert]]` is said to be that."""
    with pytest.raises(SettingsError, match="table"):
        parse_rules(table)


def test_the_guides_rules_are_the_defaults() -> None:
    """More than 10,000 tokens in 5 minutes, any operation above 30 seconds."""
    tokens, slow = DEFAULT_RULES
    assert (tokens.kind, tokens.threshold, tokens.window_s) == ("tokens", 10_000, 300)
    assert (slow.kind, slow.threshold, slow.window_s) == ("slow_operation", 30_000_000, 300)


def test_a_rule_is_the_same_while_it_measures_the_same() -> None:
    """Words about a rule may change under an incident; what it measures may not."""
    assert replace(RULE, summary="x", severity="critical").hash() == RULE.hash()
    others = [replace(RULE, threshold=1), replace(RULE, window_s=10), PATIENT, replace(RULE, where=Where(agent="a"))]
    assert len({rule.hash() for rule in [RULE, *others]}) == 5


@pytest.mark.parametrize(("ahead_s", "end_s"), [(0, 0), (1, 0), (9, 0), (10, 10), (19, 10)])
def test_only_full_windows_are_looked_at(ahead_s: int, end_s: int) -> None:
    """A window counts from the instant at which the watermark reaches its end, not before."""
    windows = windows_of(replace(RULE, window_s=20), NOON + ahead_s, NOON + ahead_s)
    assert windows == [(TEN_SECONDS, NOON + end_s - 20), (TEN_SECONDS, NOON + end_s - 10)]


def test_a_long_window_is_made_of_the_widest_windows_that_fit() -> None:
    """The rule's window is covered exactly, without gap or overlap."""
    day_and_hour = replace(RULE, window_s=90_000)
    assert windows_of(day_and_hour, NOON - 43_200 + 3_600, NOON) == [
        (DAY, NOON - 43_200 - 86_400),
        (HOUR, NOON - 43_200),
    ]
    five_minutes = replace(RULE, window_s=300)
    windows = windows_of(five_minutes, NOON + 10, NOON + 10)
    assert windows == [
        *((TEN_SECONDS, NOON - 290 + 10 * n) for n in range(5)),
        *((MINUTE, NOON - 240 + 60 * n) for n in range(4)),
        (TEN_SECONDS, NOON),
    ]


@pytest.mark.parametrize(("window_s", "step_s"), [(10, 10), (3_600, 10), (3_660, 60), (86_400, 60), (90_000, 3_600)])
def test_a_longer_window_moves_in_longer_steps(window_s: int, step_s: int) -> None:
    """Its first window is then still kept when a worker is behind."""
    assert replace(RULE, window_s=window_s).step_s == step_s


def test_a_rule_fires_above_its_threshold_and_not_at_it() -> None:
    """`>` as the guide writes it; it is told once, and once more when it is over."""
    assert walk(RULE, (NOON, 100), (NOON + 10, 101), (NOON + 20, 500), (NOON + 30, 100), (NOON + 40, 0)) == [
        ("firing", NOON + 10),
        ("resolved", NOON + 30),
    ]


def test_a_rule_fires_again_as_another_incident() -> None:
    """An incident's id names the rule, what it measured and the watermark at which it fired."""
    first = after(RULE, (NOON, 101))
    second = after(RULE, (NOON, 101), (NOON + 10, 0), (NOON + 20, 101))
    assert first.incident == f"many tokens:{RULE.hash()[:8]}:{NOON}"
    assert second.incident == f"many tokens:{RULE.hash()[:8]}:{NOON + 20}"


def test_a_patient_rule_waits_above_the_threshold() -> None:
    """It is pending for `for`, counted in watermark time, and starts over when the value falls."""
    assert after(PATIENT, (NOON, 101)).status == "pending"
    assert walk(PATIENT, (NOON, 101), (NOON + 10, 101), (NOON + 20, 101)) == [("firing", NOON + 20)]
    assert walk(PATIENT, (NOON, 101), (NOON + 10, 1), (NOON + 20, 101), (NOON + 30, 101)) == []


def test_late_events_fire_within_the_same_watermark() -> None:
    """The level is looked at again although no window was added."""
    assert walk(RULE, (NOON, 5), (NOON, 101), (NOON, 200)) == [("firing", NOON)]


def test_the_state_keeps_value_threshold_and_since() -> None:
    """What `alerts ls` shows needs no rules file."""
    state = after(RULE, (NOON, 101), (NOON + 10, 300))
    assert (state.status, state.value, state.threshold, state.unit) == ("firing", 300, 100, "tokens")
    assert (state.since_s, state.watermark_s, state.window_s) == (NOON, NOON + 10, 60)


def test_a_changed_rule_ends_its_incident_and_starts_inactive() -> None:
    """The incident that the old rule opened does not stay open."""
    firing = after(RULE, (NOON, 101))
    changed = replace(RULE, threshold=400)
    state, told = evaluate(changed, Facts(500), firing, NOON + 10)
    assert (state.status, state.rule, state.threshold) == ("inactive", changed.hash(), 400)
    assert told is not None
    assert (told.to, told.reason, told.incident, told.threshold) == ("resolved", "rule changed", firing.incident, 100)
    assert evaluate(changed, Facts(500), state, NOON + 10)[0].status == "firing"


def test_a_removed_rule_ends_its_incident_only_if_it_has_one() -> None:
    """A rule that was not firing goes without a word."""
    told = ended("many tokens", after(RULE, (NOON, 101)), "rule removed")
    assert isinstance(told, Transition)
    assert (told.to, told.reason) == ("resolved", "rule removed")
    assert ended("many tokens", after(PATIENT, (NOON, 101)), "rule removed") is None


def test_a_watermark_that_goes_back_a_little_is_waited_for() -> None:
    """An incident is not resolved by looking at older windows again."""
    firing = after(RULE, (NOON, 101))
    assert evaluate(RULE, Facts(0), firing, NOON - HELD_BACK_S) == (firing, None)


def test_a_watermark_that_goes_back_far_is_the_new_time() -> None:
    """A clock that was wrong by hours does not blind the rule for hours."""
    ahead = after(PATIENT, (NOON, 0))
    assert walk(RULE, (NOON, 101), (NOON - 3_600, 0)) == [("firing", NOON), ("resolved", NOON - 3_600)]
    pending, _ = evaluate(PATIENT, Facts(101), ahead, NOON - 3_600)
    assert (pending.status, pending.since_s) == ("pending", NOON - 3_600)
    assert evaluate(PATIENT, Facts(101), pending, NOON - 3_580)[0].status == "firing"


def test_tokens_are_input_and_output_of_the_cells_looked_at() -> None:
    """Filters combine; what is over the cap has no dimension and matches none."""
    cells = {
        cell_with(agent="Writer", state="drafting"): {INPUT: 100, OUTPUT: 10, "rq": 1},
        cell_with(agent="Writer", state="review"): {INPUT: 1_000},
        cell_with(agent="Critic", state="review"): {OUTPUT: 10_000, "ti.5": 7},
        OTHER_CELL: {INPUT: 100_000},
    }
    assert token_facts(RULE, [cells, cells]).value == 222_220
    assert token_facts(replace(RULE, where=Where(agent="Writer")), [cells]).value == 1_110
    assert token_facts(replace(RULE, where=Where(agent="Writer", state="review")), [cells]).value == 1_000
    assert token_facts(replace(RULE, where=Where(model="gpt-5")), [cells]) == Facts(0)
    assert token_facts(replace(RULE, where=Where(state="review")), [cells]).detail == (
        "most by agent 'Critic': 10,000 tokens"
    )


def test_the_slowest_operation_is_named() -> None:
    """A person who is woken learns which one it was."""
    slow = Operation("tool", "search", "Critic", "id-1", "s-1", "ok", 40_000_000)
    slower = Operation("run", "Writer", "Writer", "", "", "error", 50_000_000)
    rule = replace(RULE, kind="slow_operation", threshold=30_000_000)
    assert slow_facts(rule, [slower, slow]) == Facts(50_000_000, "run 'Writer', agent Writer, status error")
    narrowed = replace(rule, where=Where(agent="Critic"))
    assert slow_facts(narrowed, [slower, slow]) == Facts(
        40_000_000, "tool 'search', agent Critic, session s-1, id id-1, status ok"
    )
    assert slow_facts(rule, []) == Facts(0)
