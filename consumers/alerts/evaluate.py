"""Evaluates a rule: from the level of its value and the state it was in, the state it is in now, and what to tell.

Keeps:
- Level-triggered: nothing hangs on the event that crossed the line. A missed evaluation delays, and loses nothing.
- Time is the watermark, never a clock, so `for` and every incident's id are the same whichever worker evaluates.

    inactive ──above──► pending ──above for `for`──► firing ──not above──► inactive (told as resolved)
        ▲                  │
        └────not above─────┘          a rule without `for` goes from inactive to firing at once
"""

from typing import Final, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from consumers.alerts.rules import Rule, Severity, Unit, Where
from consumers.windows import Resolution, cover

Status: TypeAlias = Literal["inactive", "pending", "firing"]

STATE_VERSION: Final = 1
"""The layout of a stored row; a worker leaves rows of a later one alone."""

HELD_BACK_S: Final = 300
"""A watermark that goes back by no more than this (a clock was set, a replica took over) is waited for: looking at
older windows again would resolve an incident that is not over. One that goes back further is the new time."""


class Facts(Struct, frozen=True):
    """A rule's value over its window, in its unit, and what a person would want to know of it."""

    value: int
    detail: str = ""


class RuleState(Struct, frozen=True, kw_only=True):
    """Where a rule stands; one stored row. Times are watermarks, in seconds since 1970.

    `rule` is the hash of the rule it belongs to, `since_s` when `status` began, `watermark_s` up to where it was
    evaluated, `incident` the last one's id, `detail` what its value is made of now. The rest is the rule's as it was
    then, for readers that have no rules file; None of it in a row of before it was stored.
    """

    rule: str
    status: Status = "inactive"
    since_s: int = 0
    watermark_s: int = 0
    value: int = 0
    threshold: int = 0
    unit: Unit = "tokens"
    window_s: int = 0
    severity: Severity = "warning"
    incident: str = ""
    where: Where | None = None
    for_s: int | None = None
    detail: str = ""
    v: int = STATE_VERSION


class Transition(Struct, frozen=True, kw_only=True):
    """An incident's beginning (`firing`) or end (`resolved`), as it is stored and told."""

    rule: str
    to: Literal["firing", "resolved"]
    incident: str
    reason: str
    value: int
    threshold: int
    unit: Unit
    window_s: int
    watermark_s: int
    severity: Severity
    summary: str = ""
    detail: str = ""


def windows_of(rule: Rule, watermark_s: int, now_s: int) -> list[tuple[Resolution, int]]:
    """Return the windows of the state that make up the rule's own: all full at the watermark, none left out.

    Args:
        rule: What is evaluated.
        watermark_s: Up to where the handlers it reads have committed everything.
        now_s: The broker's time, for what is still kept.
    """
    end_s = rule.end_s(watermark_s)
    return list(cover(end_s - rule.window_s, end_s, now_s))


def evaluate(
    rule: Rule, facts: Facts, state: RuleState | None, watermark_s: int
) -> tuple[RuleState, Transition | None]:
    """Return the state that follows, and the transition to be told if there is one.

    Args:
        rule: What is evaluated.
        facts: Its value over `windows_of(rule, watermark_s, ...)`.
        state: Where it stood; None where nothing is stored.
        watermark_s: Up to where the handlers it reads have committed everything (seconds since 1970).
    """
    end_s = rule.end_s(watermark_s)
    if state is None:
        state = _fresh(rule, end_s)
    elif state.rule != rule.hash():
        # The new rule begins inactive; whether it fires at once is the next evaluation's question.
        return _fresh(rule, end_s), ended(rule.name, state, "rule changed")
    if 0 < state.watermark_s - end_s <= HELD_BACK_S:
        return state, None
    above = facts.value > rule.threshold
    status = _next_status(rule, state, above=above, end_s=end_s)
    after = replace(
        state,
        status=status,
        since_s=min(state.since_s, end_s) if status == state.status else end_s,
        watermark_s=end_s,
        value=facts.value,
        severity=rule.severity,
        where=rule.where,
        for_s=rule.for_s,
        detail=facts.detail,
    )
    if status == "firing" and state.status != "firing":
        after = replace(after, incident=f"{rule.name}:{state.rule[:8]}:{end_s}")
        return after, _transition(rule.name, after, "firing", "above the threshold", rule.summary, facts.detail)
    if status != "firing" and state.status == "firing":
        reason = "no longer above the threshold"
        return after, _transition(rule.name, after, "resolved", reason, rule.summary, facts.detail)
    return after, None


def ended(name: str, state: RuleState, reason: str) -> Transition | None:
    """Return the end of a rule's incident that no value brought about; None if it was not firing."""
    return _transition(name, state, "resolved", reason) if state.status == "firing" else None


def _fresh(rule: Rule, end_s: int) -> RuleState:
    return RuleState(
        rule=rule.hash(),
        since_s=end_s,
        watermark_s=end_s,
        threshold=rule.threshold,
        unit=rule.unit,
        window_s=rule.window_s,
        severity=rule.severity,
        where=rule.where,
        for_s=rule.for_s,
    )


def _next_status(rule: Rule, state: RuleState, *, above: bool, end_s: int) -> Status:
    if not above:
        return "inactive"
    if state.status == "firing":
        return "firing"
    above_since_s = min(state.since_s, end_s) if state.status == "pending" else end_s
    return "firing" if end_s - above_since_s >= rule.for_s else "pending"


def _transition(  # noqa: PLR0913, PLR0917 - one sentence: what, from which state, to what, why, and two texts
    name: str, state: RuleState, to: Literal["firing", "resolved"], reason: str, summary: str = "", detail: str = ""
) -> Transition:
    return Transition(
        rule=name,
        to=to,
        incident=state.incident,
        reason=reason,
        value=state.value,
        threshold=state.threshold,
        unit=state.unit,
        window_s=state.window_s,
        watermark_s=state.watermark_s,
        severity=state.severity,
        summary=summary,
        detail=detail,
    )
