"""The last lines of what is printed: up to when everything is counted, and what is known to be missing."""

from collections.abc import Iterator

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from consumers.views.completeness import Completeness, HandlerAccount
from sidestream.wording.human import counted, instant, shown


def foot_of(found: Completeness, from_s: int) -> RenderableType:
    """Return what is known of the completeness of figures from `from_s` (seconds since 1970) on."""
    missing = [Text(f"! {line}", style="yellow") for line in _missing(found, from_s)]
    pending = _pending(found)
    if found.as_of_ms is None:
        line = Text("It is unknown up to when everything is counted.", style="yellow")
    else:
        line = Text(f"Counted: everything that arrived before {instant(found.as_of_ms / 1_000)} UTC")
        line.append(f" ({pending})." if pending else ".")
    if not missing and found.as_of_ms is not None:
        line.append(" Nothing is known to be missing.", style="green")
    return Lines(line, *missing)


def _pending(found: Completeness) -> str:
    parts = [
        f"{handler.handler} is {'more than ' if handler.outstanding_at_least else ''}"
        f"{counted(handler.outstanding, 'event')} behind"
        for handler in found.handlers
        if handler.outstanding
    ]
    if found.waiting:
        parts.append(f"{counted(found.waiting, 'event')} still with the applications")
    return "; ".join(parts)


def _missing(found: Completeness, from_s: int) -> Iterator[str]:
    for handler in found.handlers:
        yield from _missing_in(handler, from_s)
    for way, losses in (("shed by", found.losses.shed), ("refused as invalid by", found.losses.invalid)):
        if losses:
            which = ", ".join(f"{shown(name).plain} {number:,}" for name, number in losses.items())
            yield f"{counted(sum(losses.values()), 'event')} {way} the applications in these hours: {which}."
    if found.losses.lost:
        least = "At least " if found.losses.lost_at_least else ""
        yield f"{least}{counted(found.losses.lost, 'event')} lost by Redis in these hours."
    if found.at_risk:
        yield f"Up to {counted(found.at_risk, 'event')} went with applications that have gone: see `sidestream status`."


def _missing_in(handler: HandlerAccount, from_s: int) -> Iterator[str]:
    name = handler.handler
    if not handler.declared:
        yield f"{name} has never run: its figures are unknown. Start a worker that has it."
    elif not handler.everywhere:
        yield f"{name} runs in {handler.declared} of {handler.partitions} partitions only."
    if handler.since_ms > from_s * 1_000:
        since = instant(handler.since_ms / 1_000)
        yield f"{name} is complete since {since} UTC: when it began, what came before was no longer kept."
    if handler.dead_letters:
        yield f"{counted(handler.dead_letters, 'dead letter')} of {name}: see `sidestream dlq ls`."
    if handler.skipped:
        yield f"{counted(handler.skipped, 'event')} skipped by {name}."
