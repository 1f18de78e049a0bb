"""What `sidestream replay` prints: plans, progress, status and differences, for people."""

import sys
import time
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from consumers.replay.changes import ALL, Change, Changes
from consumers.replay.diff import Diff
from consumers.replay.plan import Plan
from consumers.replay.progress import FOLLOWS_MS, ReplayProgress, Shelf
from consumers.replay.running import Told
from consumers.versions import Replay, Versions
from pipeline.units import US_PER_S
from sidestream.wording.human import NOTHING, counted, dollars, duration, harmless, instant, size

_LINE_EVERY_S: Final = 5.0


class ProgressLines:
    """Shows how a replay goes: one line that changes on a terminal, a line every few seconds elsewhere."""

    def __init__(self, out: Console, shelves: Sequence[Shelf], *, quiet: bool) -> None:
        self._out = out
        self._shelves = shelves
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
        self._told_s = 0.0
        self._mean = 0.0
        self.live = Live(console=out, refresh_per_second=2, transient=True, auto_refresh=False)

    def tell(self, told: Told) -> None:
        """Say how far it is."""
        self._mean = told.rate if not self._mean else 0.8 * self._mean + 0.2 * told.rate
        if self._quiet:
            return
        text = self._text(told)
        if self._terminal:
            self.live.update(Text(text), refresh=True)
        elif time.monotonic() - self._told_s >= _LINE_EVERY_S:
            self._told_s = time.monotonic()
            self._out.print(text, markup=False)

    def _text(self, told: Told) -> str:
        left = events_left(told.progress, self._shelves)
        parts = [f"version {told.replay.number}: {told.progress.taken:,} events", f"{self._mean:,.0f} a second here"]
        if told.progress.follows:
            parts.append("follows the stream")
        else:
            about = f"some {left:,} left"
            parts.append(f"{about}, {duration(int(left / self._mean * US_PER_S))}" if self._mean > 1 else about)
        return "; ".join([*parts, *([f"slowed: {told.why}"] if told.why else [])])


def events_left(progress: ReplayProgress, shelves: Sequence[Shelf]) -> int:
    """Return about how many events, summed over handlers, a replay has still to take."""
    archived = sum(
        shelf.ahead(unit.cursor_id, unit.join)
        for unit in progress.units
        for shelf in shelves
        if shelf.partition == unit.partition and unit.join
    )
    return archived + sum(unit.outstanding for unit in progress.units)


def print_run(out: Console, replay: Replay, progress: ReplayProgress, *, alive: bool) -> None:
    """Print how a run has ended; `alive`: there are workers."""
    if replay.progress == "building":
        out.print(f"Left version {replay.number}; `sidestream replay run` goes on with it.")
        return
    on = "Workers with its recipe carry it on." if alive else "No worker is alive: start one, or carry it by --follow."
    out.print(f"Version {replay.number} has caught up: {progress.taken:,} events. {on}")
    if progress.lacks:
        out.print(
            f"It lacks {progress.lacks:,} events that were trimmed and are in no archive, or in a damaged part of it.",
            style="yellow",
        )
    out.print("Compare with `sidestream replay diff`, then `sidestream replay swap`.")


def print_plan(out: Console, plan: Plan, begun: Replay | None = None) -> None:
    """Print what a replay would do; `begun` is being built already."""
    out.print(f"Version {plan.number}, of {', '.join(plan.handlers)}, {plan.days}", style="bold", markup=False)
    for handler, recipe in plan.recipes.items():
        out.print(f"  recipe   {handler}: {harmless(recipe)}", markup=False, soft_wrap=True)
    segments = sum(one.segments for one in plan.partitions)
    archived = sum(one.archived_events for one in plan.partitions)
    stream = sum(one.stream_events for one in plan.partitions)
    entries = sum(one.stream_entries for one in plan.partitions)
    least = "at least " if any(one.stream_events_at_least for one in plan.partitions) else ""
    if plan.archive:
        of_size = size(sum(one.segment_bytes for one in plan.partitions))
        out.print(
            f"  archive  {archived:,} events in {counted(segments, 'segment')}, {of_size}; {plan.archive}", markup=False
        )
    else:
        out.print("  archive  none: it begins with the stream")
    out.print(f"  stream   {least}{stream:,} events in {counted(entries, 'entry', 'entries')}")
    first = min((one.first_ms for one in plan.partitions if one.first_ms is not None), default=None)
    if first is not None:
        out.print(f"  since    {instant(first / 1_000)} UTC, when the first entry was appended")
    out.print(f"  takes    about {duration(int(plan.seconds * US_PER_S))} of one process, less of several")
    state = f"about {size(plan.state_bytes)} beside what there is" if plan.state_bytes else "unknown: there is no state"
    out.print(f"  memory   {state}; the stream is held until it has caught up")
    if plan.missing:
        out.print(f"  missing  {plan.missing:,} events were trimmed, and are in no archive", style="yellow")
    for one in plan.partitions:
        for name, why in one.damaged_segments.items():
            out.print(f"  damaged  partition {one.partition}, {name}: {why}", style="yellow", markup=False)
    if plan.foreign_partitions:
        numbers = ", ".join(map(str, plan.foreign_partitions))
        out.print(f"  missing  partitions {numbers} are in the archive, and not in this namespace", style="yellow")
    if begun is None:
        out.print("Nothing has been changed; `sidestream replay run` with the same options does it.")
    else:
        out.print(
            f"Version {begun.number} is being built: `sidestream replay run` goes on with that, or drop it first."
        )


_PROGRESS: Final = {"building": "is being built", "ready": "has caught up", "swapped": "answers"}


def print_status(
    out: Console, versions: Versions, rows: Sequence[tuple[Replay, ReplayProgress]], ahead: Sequence[int]
) -> None:
    """Print which version answers for what, and how far replays are; `ahead` are the events that each has to take."""
    bases = ", ".join(f"version {number} of {handler}" for handler, number in sorted(versions.bases.items()))
    out.print(
        f"The base is {bases or 'version 1'}{', else version 1' if bases else ''}; it answers where no replay does."
    )
    if not rows:
        out.print("There is no replay.")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("VERSION", "HANDLERS", "DAYS", "STATE", "EVENTS", "LEFT", "BEHIND", "DEAD LETTERS", "LACKS", "BEGAN"):
        right = name in {"VERSION", "EVENTS", "LEFT", "BEHIND", "DEAD LETTERS", "LACKS"}
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    for (one, progress), left in zip(rows, ahead, strict=True):
        table.add_row(
            str(one.number),
            ", ".join(one.handlers),
            str(one.days),
            _PROGRESS[one.progress],
            f"{progress.taken:,}",
            f"{left:,}" if left else NOTHING,
            _behind(progress),
            f"{progress.dead_letters:,}",
            f"{progress.lacks + progress.passed:,}",
            instant(one.began_ms / 1_000),
        )
    out.print(table)


def _behind(progress: ReplayProgress) -> str:
    if any(unit.join for unit in progress.units):
        return "in the archive"
    return duration(progress.behind_ms * 1_000) if progress.behind_ms > FOLLOWS_MS else NOTHING


def print_changes(out: Console, replay: Replay, found: Changes, causes: Sequence[str], most: int) -> None:
    """Print what a swap would change, up to `most` lines, and where it may come from."""
    if not found.days:
        out.print(f"Nothing to compare: neither has anything of {replay.days}.")
        return
    for line in causes:
        out.print(f"Cause: {line}", markup=False)
    if found.incomplete:
        out.print(f"Cause: version {replay.number} begins later: {_listed(found.incomplete)} it has not wholly.")
    if found.capped:
        out.print(f"Cause: over the cap of cells on {_listed(found.capped)}: names may differ there.")
    if not found.changes:
        out.print(f"Nothing would change: {counted(found.days, 'day')} compared.", style="green")
        return
    shown = sorted(found.changes, key=lambda one: (one.day, one.handler, one.dimension != ALL))[:most]
    swapped = replay.progress == "swapped"
    out.print(_changes_table(shown, ("BEFORE", "ANSWERS") if swapped else ("NOW", "REPLAYED")))
    if len(found.changes) > len(shown):
        out.print(f"... and {len(found.changes) - len(shown):,} more (--most, --json)")


def _changes_table(shown: Sequence[Change], columns: tuple[str, str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("DAY", "HANDLER", "OF", "MEASURE", *columns, "CHANGE"):
        table.add_column(name, overflow="fold", justify="right" if name in {*columns, "CHANGE"} else "left")
    for one in shown:
        part = f"{(one.replayed - one.live) / one.live:+.1%}" if one.live else "new"
        of = Text(harmless(f"{one.dimension} {one.name or 'none'}") if one.dimension else "all")
        measure = one.measure.removesuffix("_nano_usd").removesuffix("_us").replace("_", " ")
        table.add_row(one.day, one.handler, of, measure, *(_number(one, n) for n in (one.live, one.replayed)), part)
    return table


def _number(change: Change, number: int) -> str:
    if change.measure.endswith("_nano_usd"):
        return dollars(number)
    return duration(number) if change.measure.endswith("_us") else f"{number:,}"


def _listed(days: Sequence[str]) -> str:
    return ", ".join(days) if len(days) <= _FEW else f"{days[0]} to {days[-1]} ({len(days)} days)"


_FEW: Final = 3


def print_bits(out: Console, result: Diff, most: int) -> None:
    """Print whether two versions are equal bit by bit, and up to `most` fields that are not."""
    for line in result.apart:
        out.print(f"Not comparable: {line}. Let the workers finish, then try again.", markup=False)
    for line in result.causes:
        out.print(f"Cause: {line}", markup=False)
    for found in result.differences[:most]:
        where = f"{found.handler}, partition {found.partition}, {found.window}"
        what = harmless(f"{found.field}: now {found.live}, replayed {found.replayed}")
        out.print(f"Differs: {where}: {what}", markup=False)
    if len(result.differences) > most:
        out.print(f"... and {len(result.differences) - most:,} more (--most, --json)")
    if result.windows == 0:
        out.print("Nothing to compare.")
    elif result.equal:
        out.print(f"Equal, bit by bit: {result.windows:,} windows, {result.fields:,} fields.")
    else:
        out.print(
            f"Not equal: {len(result.differences):,} of {result.fields:,} fields in {result.windows:,} windows differ."
        )
