"""One session as a person reads it in a terminal.

Keeps: names come from users: what is in them is shown as text, never as markup, colour or a terminal's command.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from consumers.views.inflight import InFlight
from consumers.views.live import LiveSession
from consumers.views.timeline import OneSession
from pipeline.units import US_PER_MS, US_PER_S
from sidestream.cli.tables import UNKNOWN, WIDE, Cell, money, new_table, one_line, spaced, titled
from sidestream.wording.human import amount, clock, counted, duration, harmless, instant
from sidestream.wording.timeline_rows import StayRow, TimelineRow, stays_of, timeline_of

_STYLES: Final = {"stuck": "bold red", "long": "bold yellow", "active": "green"}
_WORDS: Final = {"quiet": "abandoned"}
_TONES: Final = {"bad": "red", "warn": "yellow"}


def session_text(
    look: OneSession, row: LiveSession | None, open_now: Sequence[InFlight], *, width: int, most: int
) -> RenderableType:
    """Return what is known of a session.

    Args:
        look: The session.
        row: Where it stands; None where nothing tells of it.
        open_now: What it has begun and not ended.
        width: Columns of the terminal.
        most: How many events are listed.
    """
    return Lines(*spaced(_parts(look, row, open_now, width, most)))


def _parts(
    look: OneSession, row: LiveSession | None, open_now: Sequence[InFlight], width: int, most: int
) -> Iterator[RenderableType]:
    yield _head(look, row)
    stays = stays_of(look, ended=row is not None and row.standing == "ended")
    if stays:
        yield _stays(stays)
    rows = timeline_of(look, open_now, most=most)
    if rows:
        days = len({instant(one.at_us / US_PER_S)[:10] for one in rows if one.at_us}) > 1
        yield _timeline(rows, width, days=days)
    yield _foot(look, max(0, len(look.events) - most) + look.left_out, told=bool(rows))


def _head(look: OneSession, row: LiveSession | None) -> RenderableType:
    first = Text.assemble(("Sidestream session", "bold"), f"  {harmless(look.session)}")
    if row is None:
        return Lines(first.append("  "), Text("Nothing that is open and nothing on the stream tells of it.", "yellow"))
    word = _WORDS.get(row.standing, row.standing)
    first.append("  ").append(word, _STYLES.get(row.standing, "dim"))
    if row.seen.state is not None:
        since = f" for {duration(row.in_state_us)}" if row.in_state_us is not None and row.standing != "ended" else ""
        first.append(f" in {harmless(row.seen.state) or '(none)'}{since}")
    return Lines(first, *_about(look, row), _sums(row))


def _about(look: OneSession, row: LiveSession) -> Iterator[Text]:
    resource = look.resource
    who = " ".join(filter(None, (row.seen.service, resource.version)))
    where = f", {resource.environment}" if resource.environment else ""
    heard = f"open for {duration(row.open_ms * US_PER_MS)}" if row.open_ms else f"silent for {duration(row.quiet_us)}"
    first, last = (instant(at_us / US_PER_S) for at_us in (row.seen.first_us, row.seen.last_us))
    yield one_line((harmless(f"{who}{where}; "), "dim"), (f"{first} to {last} UTC, {heard}", "dim"))


def _sums(row: LiveSession) -> Text:
    if row.total_tokens is None:
        return Text("Nothing of it has been counted in the last two days.", "dim")
    cost = UNKNOWN if row.cost_nano_usd is None else money(row.cost_nano_usd, row.unpriced_requests)
    line = Text.assemble((str(cost), "bold green"), f"  {amount(row.total_tokens)} tokens")
    if row.errors:
        line.append(f"  {counted(row.errors, 'error')}", "red")
        if row.seen.last_error:
            line.append(f", the last {harmless(row.seen.last_error)}")
    return line.append("  counted, in whole hours", "dim")


def _stays(rows: Sequence[StayRow]) -> RenderableType:
    table = new_table("STATE", "=FROM", "#STAYED")
    for row in rows:
        since = "before what was read" if row.from_us is None else instant(row.from_us / US_PER_S)
        took: Cell = Text(f"{row.took}, goes on", "bold") if row.going_on else row.took
        table.add_row(harmless(row.state) or "(none)", since, took)
    return titled("States", table, "  the newest first, UTC")


def _timeline(rows: Sequence[TimelineRow], width: int, *, days: bool) -> RenderableType:
    # Where there is little room an error's words are worth more than the agent, whom the run beside it names.
    agent = ["AGENT"] if width >= WIDE else []
    heads = ("=TIME", "=EVENT", "WHAT", *agent, "#IN", "#OUT", "#TOOK", "ENDED")
    table = new_table(*heads, leave=("AGENT", "IN", "OUT", "TOOK"))
    for row in rows:
        style = _TONES.get(row.tone, "bold" if row.kind == "transition" else "")
        time = "now" if not row.at_us else instant(row.at_us / US_PER_S) if days else clock(row.at_us / US_PER_S)
        table.add_row(
            time,
            row.kind,
            Text(row.what, no_wrap=True, overflow="ellipsis"),
            *([harmless(row.agent)] if agent else []),
            row.input,
            row.output,
            row.took,
            Text(row.ended, no_wrap=True, overflow="ellipsis"),
            style=style,
        )
    return titled("What happened", table, "  the newest first, UTC; times are of the end")


def _foot(look: OneSession, earlier: int, *, told: bool) -> RenderableType:
    more = f"{counted(earlier, 'earlier event')} not shown: --most. " if earlier and told else ""
    since = "The stream is empty."
    if look.since_ms is not None:
        whole = "all that it holds" if look.whole else "the newest of it"
        since = f"Read was what has arrived since {instant(look.since_ms / 1_000)} UTC, {whole}."
    elsewhere = "" if told else " What the stream no longer holds may lie in the archive: `sidestream archive export`."
    return Text(f"{more}{since}{elsewhere}", "dim")
