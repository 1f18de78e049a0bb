"""Whether the figures can be trusted, in a word and in sentences: how fresh, how complete, what is missing."""

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from consumers.views.completeness import Completeness, HandlerAccount
from pipeline.units import US_PER_MS
from sidestream.wording.human import counted, duration, harmless, instant

Verdict: TypeAlias = Literal["complete", "behind", "incomplete", "unknown", "stale"]

BEHIND_MS: Final = 15_000
"""Lag of what is counted that is worth a word: a worker commits within a second."""

_MS: Final = 1_000


class Trust(Struct, frozen=True):
    """The verdict in a word and a sentence, and what there is besides: what is missing, what is still to come."""

    verdict: Verdict
    sentence: str
    as_of_ms: int | None
    missing: list[str]
    pending: list[str]
    late_ms: int | None = None
    """How old `as_of_ms` was at the look."""
    priced_ratio: float | None = None
    """The part (0-1) of requests whose price is known; None of none, and where nobody asked."""


def judged(found: Completeness, from_s: int, now_s: int, *, is_stale: bool = False, letters: str = "") -> Trust:
    """Return how far figures can be trusted.

    Args:
        found: What is known of what they miss.
        from_s: When the range begins that they are of, in seconds since 1970.
        now_s: The broker's time when they were read.
        is_stale: Whether they could not be read anew.
        letters: Where dead letters can be looked at, as the end of a sentence.
    """
    missing = list(_missing(found, from_s, letters or "see `sidestream dlq ls`"))
    verdict, sentence = _verdict(found, missing, from_s, now_s, is_stale=is_stale)
    late_ms = None if found.as_of_ms is None else max(0, now_s * _MS - found.as_of_ms)
    return Trust(verdict, sentence, found.as_of_ms, missing, list(_pending(found)), late_ms)


def _verdict(
    found: Completeness, missing: list[str], from_s: int, now_s: int, *, is_stale: bool
) -> tuple[Verdict, str]:
    if is_stale:
        return "stale", f"Redis does not answer; this was read at {instant(now_s)} UTC"
    if found.as_of_ms is None:
        return "unknown", "Up to when everything is counted is unknown: a handler has not run everywhere"
    late_ms = now_s * _MS - found.as_of_ms
    if late_ms > BEHIND_MS:
        return "behind", f"Counting is {duration(late_ms * US_PER_MS)} behind"
    if missing or not found.complete(from_s):
        return "incomplete", "Something is missing from these figures"
    return "complete", "Nothing is known to be missing"


def _pending(found: Completeness) -> Iterator[str]:
    for handler in found.handlers:
        if handler.outstanding:
            least = "more than " if handler.outstanding_at_least else ""
            yield f"{handler.handler} has {least}{counted(handler.outstanding, 'event')} still to count."
    if found.waiting:
        yield f"{counted(found.waiting, 'event')} are still with the applications."


def _missing(found: Completeness, from_s: int, letters: str) -> Iterator[str]:
    for handler in found.handlers:
        yield from _missing_in(handler, from_s, letters)
    yield from _refused("shed by the applications, whose buffers were full", found.losses.shed)
    yield from _refused("refused as invalid by the applications", found.losses.invalid)
    if found.losses.lost:
        least = "At least " if found.losses.lost_at_least else ""
        yield f"{least}{counted(found.losses.lost, 'event')} lost by Redis in these hours."
    if found.at_risk:
        yield f"Up to {counted(found.at_risk, 'event')} went with applications that have gone."


def _refused(how: str, losses: Mapping[str, int]) -> Iterator[str]:
    if losses:
        which = ", ".join(f"{harmless(name)} {number:,}" for name, number in losses.items())
        yield f"{counted(sum(losses.values()), 'event')} {how}, in these hours: {which}."


def _missing_in(handler: HandlerAccount, from_s: int, letters: str) -> Iterator[str]:
    name = handler.handler
    if not handler.declared:
        yield f"{name} has never run: its figures are unknown. Start a worker that has it."
    elif not handler.everywhere:
        yield f"{name} runs in {handler.declared} of {handler.partitions} partitions only."
    if handler.since_ms > from_s * _MS:
        yield f"{name} is complete since {instant(handler.since_ms / _MS)} UTC: earlier events were no longer kept."
    if handler.dead_letters:
        yield f"{counted(handler.dead_letters, 'dead letter')} of {name}: {letters}."
    if handler.skipped:
        yield f"{counted(handler.skipped, 'event')} skipped by {name}."
