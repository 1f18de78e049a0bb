"""The state of the pipeline as a person reads it in a terminal: the verdict first, then who, what, and where it waits.

Keeps:
- Names come from users: what is in them is shown as text, never as markup, colour or a terminal's command.
- What asks for somebody stands below the verdict; a partition has a row of its own where it is one of them.
- An unknown figure is "unknown", and a sum that cannot be checked a dash; neither is ever 0 or ok.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from consumers.alerts.store import AlertRow
from consumers.views.accounting import STOOD_STILL_MS, UnitAccount
from consumers.views.inflight import InFlight
from consumers.views.status import Memory, Stalled, Status, WorkerPresence
from pipeline.connection import ServerFacts
from pipeline.keys import DEFAULT_NAMESPACE
from pipeline.units import US_PER_MS
from sidestream.cli.alerts import fires_line, rules_table
from sidestream.cli.look.producer_rows import ProducerRow, captures, lives, may_go, producer_rows
from sidestream.cli.look.status_verdict import (
    REPLAY,
    Standing,
    Word,
    asides,
    broken_sums,
    by_handler,
    going_on,
    is_late,
)
from sidestream.cli.tables import INDENT, MEDIUM, UNKNOWN, WIDE, Cell, new_table, spaced, titled
from sidestream.wording.human import NOTHING, counted, duration, harmless, instant, percent, shown, size

_MOST_ROWS: Final = 20
"""Rows of a list; `--json` has all."""

_UUID_CHARS: Final = 36
"""A session's name is kept whole up to here, but on the narrowest terminals."""

_NAME_CHARS: Final = 24
"""Of the name of a service or a worker, before a column goes."""

_MS: Final = 1_000

_STYLES: Final[dict[Word, str]] = {
    "ok": "bold green",
    "empty": "bold yellow",
    "at_risk": "bold yellow",
    "behind": "bold yellow",
    "stuck": "bold red",
    "no_worker": "bold red",
    "broken": "bold red",
}


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that is shown: what was read, where, and how it stands."""

    status: Status
    alerts: Sequence[AlertRow]
    standing: Standing
    facts: ServerFacts
    url: str
    namespace: str
    others: Sequence[str] = ()
    """Other namespaces of this Redis, where this one is empty."""


def status_text(look: Look, width: int, *, all_partitions: bool = False) -> RenderableType:
    """Return the state of the pipeline.

    Args:
        look: What was read.
        width: Columns of the terminal; 60 are enough, more show more.
        all_partitions: Whether every partition has a row, and its cursor.
    """
    view = _View(look, width, all_partitions)
    parts = (
        Lines(*view.head()),
        view.redis(),
        view.producers(),
        view.workers(),
        view.handlers(),
        view.cursors(),
        view.open_for_long(),
        view.alerts(),
    )
    return Lines(*spaced(part for part in parts if part is not None))


@dataclass(frozen=True, slots=True)
class _View:
    """Draws one look."""

    look: Look
    width: int
    all_partitions: bool

    def head(self) -> Iterator[RenderableType]:
        """Give what this is, of when, the verdict, and a line for all that asks for somebody."""
        standing, found = self.look.standing, self.look.status
        line = Text.assemble(("Sidestream status", "bold"), f"  {instant(found.as_of_ms / _MS)} UTC")
        if self.look.namespace != DEFAULT_NAMESPACE:
            line.append(f", {self.look.namespace}", "dim")
        word = standing.verdict.replace("_", " ")
        verdict = Text.assemble((word, _STYLES[standing.verdict]), f": {harmless(standing.sentence)}")
        fits = line.cell_len + 2 + verdict.cell_len <= self.width
        yield Text.assemble(line, "  " if fits else "\n", verdict)
        if standing.advice:
            yield _said(standing.advice, _STYLES[standing.verdict])
        yield from (_said(text, "bold red") for text in broken_sums(found))
        yield from (_said(text, "yellow") for text in asides(found, standing.verdict))
        yield from (_said(text, "yellow") for text in going_on(found, self.look.alerts))
        if standing.verdict == "empty":
            yield from _first_steps(self.look)

    def redis(self) -> RenderableType:
        """Return which server it is, how full, and what a crash of it would take."""
        facts, memory = self.look.facts, self.look.status.memory
        limit = f" of {size(memory.limit)} ({percent(memory.used / memory.limit)})" if memory.limit else ", no limit"
        hourly = round(memory.bytes_per_hour or 0)
        grows = f", {size(hourly)} more an hour" if hourly > 0 else ""
        line = Text.assemble(("Redis", "bold"), f"  {facts.product} {facts.version} at {harmless(self.look.url)}; ")
        line.append(f"{size(memory.used)}{limit}{grows}", _memory_style(memory)).append("; ")
        if facts.aof:
            return line.append("AOF on")
        return line.append("AOF off: what was appended is lost when it crashes", "yellow")

    def producers(self) -> RenderableType:
        """Return one row for each producer that lives or died, and one a service for those that said goodbye."""
        found = self.look.status.producers
        if not found:
            return _without("Producers", "none yet: an application publishes after configure()")
        rows = sorted(producer_rows(found), key=lambda row: -row.worry)
        risk = ["#AT RISK"] if any(row.at_risk for row in rows) else []
        heads = ["SERVICE", "INSTANCE", "=LIFE", "#OFFERED", *(["#APPENDED"] if self.width >= WIDE else []), "#WAITING"]
        table = new_table(
            *heads,
            "#SHED",
            "#INVALID",
            "#LOST",
            *risk,
            leave=may_go(rows, "INSTANCE", "OFFERED"),
            least_name=_NAME_CHARS,
        )
        sums = [ProducerRow("all", "", "", found)] if len(rows) > 1 else []
        for row in [*rows[:_MOST_ROWS], *sums]:
            table.add_row(*row.cells(wide=self.width >= WIDE, risk=bool(risk)), style=row.style)
        notes = [_more(len(rows))]
        below = [_below(text, "yellow") for text in captures(found)]
        return Lines(titled(_title("Producers", lives(found)), table, notes=notes), *below)

    def workers(self) -> RenderableType:
        """Return who is alive to count, and what of what they hold does not move."""
        found = self.look.status.workers
        if not found:
            return _without("Workers", "none is alive: start one with `sidestream worker`")
        wide = self.width >= WIDE
        heads = ["WORKER", "VERSION", "#EVENTS", *(["#UNITS", "#STALE"] if wide else []), "HANDLERS"]
        table = new_table(*heads, leave=("STALE", "UNITS", "VERSION"), least_name=_NAME_CHARS)
        for worker in found[:_MOST_ROWS]:
            more = [f"{worker.units:,}", f"{worker.stale:,}"] if wide else []
            events = f"{worker.events:,}"
            table.add_row(shown(worker.name), shown(worker.version), events, *more, shown(worker.handlers))
        number = f"{len(found):,} alive"
        return Lines(titled(_title("Workers", number), table, notes=[_more(len(found))]), *_troubles(found))

    def handlers(self) -> RenderableType:
        """Return each handler over its partitions, and those partitions that ask for somebody, or all."""
        found = self.look.status
        if not found.accounts:
            return _without("Handlers", "none is declared yet: a worker declares them")
        handlers = by_handler(found.accounts)
        table = new_table(
            "=HANDLER", "#COUNTED", "#OUTSTANDING", "#LAG", "#DEAD", "#SKIPPED", "=BALANCE",
            leave=("SKIPPED", "LAG", "COUNTED"),
        )  # fmt: skip
        listed = 0
        for name, units in handlers.items():
            table.add_row(self._id(name), *_unit_cells(units))
            for unit in units if self.all_partitions else filter(_asks, units):
                listed += 1
                table.add_row(f"  partition {unit.partition}", *_unit_cells([unit]), style="" if _asks(unit) else "dim")
        which = "" if self.all_partitions else "; --partitions lists them"
        if listed and not self.all_partitions:
            which = "; listed are those to look at, by --partitions all"
        about = f"in {counted(found.partitions, 'partition')}{' each' if found.partitions > 1 else ''}{which}"
        notes = [harmless(note) for note in (*_fewer(handlers, found.partitions), *_replays(handlers))]
        still = [_below(_standing_still(stalled), "bold red") for stalled in found.stalled]
        return Lines(titled("Handlers", table, f"  {about}", notes), *still)

    def cursors(self) -> RenderableType | None:
        """Return where every partition of every handler stands, where that is asked for."""
        if not self.all_partitions or not self.look.status.accounts:
            return None
        heads = ("=HANDLER", "#PARTITION", "=CURSOR", "#FOREIGN", "=LAST COMMIT")
        table = new_table(*heads, leave=("LAST COMMIT",))
        for name, units in by_handler(self.look.status.accounts).items():
            for unit in units:
                place = unit.cursor_id + (f" event {unit.cursor_index}" if unit.cursor_index else "")
                foreign = f"{unit.foreign + unit.outstanding_foreign:,}"
                last = instant(unit.at_ms / _MS) if unit.at_ms else NOTHING
                table.add_row(self._id(name), str(unit.partition), place, foreign, last)
        return titled("Cursors", table, "  the entry that each has taken last")

    def open_for_long(self) -> RenderableType | None:
        """Return operations that have begun and of whose end nobody has heard, the surest and oldest first."""
        rows = self.look.status.in_flight
        if not rows:
            return None
        wide = self.width >= WIDE
        unknown = any(row.state == "unknown" for row in rows)
        heads = ["WHAT", "AGENT", "=SESSION", "#OPEN FOR", "=IS", *(["=SEEN"] if unknown else [])]
        more = ["SERVICE", "=OPERATION"] if wide else []
        table = new_table(*heads, *more, leave=("SERVICE", "OPERATION", "AGENT", "SEEN"))
        for row in rows[:_MOST_ROWS]:
            table.add_row(*self._open(row, wide=wide, unknown=unknown), style="" if row.state == "open" else "dim")
        why = "Unknown: its producer died with it, or is cut off from Redis." if unknown else ""
        return titled("Open for long", table, notes=[_more(len(rows)), why])

    def _open(self, row: InFlight, *, wide: bool, unknown: bool) -> Sequence[Cell]:
        operation, is_open = row.operation, row.state == "open"
        seen = "" if is_open else f"{duration(row.seen_ms * US_PER_MS)} ago"
        return [
            shown(f"{operation.kind} {operation.model or operation.name}".strip()),
            shown(operation.agent),
            self._id(operation.session),
            duration(row.open_ms * US_PER_MS),
            Text(row.state, style="yellow" if is_open else ""),
            *([seen] if unknown else []),
            *([shown(row.service), self._id(operation.operation_id)] if wide else []),
        ]

    def _id(self, name: str) -> Text:
        """Return an id whole, but for one that would leave no room for anything else."""
        text = shown(name)
        most = self.width // 3
        text.truncate(max(_UUID_CHARS, most) if self.width >= MEDIUM else most, overflow="ellipsis")
        return text

    def alerts(self) -> RenderableType:
        """Return where every rule stands, those that fire first."""
        rows = self.look.alerts
        if not rows:
            return _without("Alerts", "no rule has been evaluated yet")
        table = rules_table(rows, self.look.status.as_of_ms // _MS)
        return titled(Text.assemble(("Alerts  ", "bold"), fires_line(rows)), table)


def _troubles(workers: Sequence[WorkerPresence]) -> list[RenderableType]:
    """Return a line for everything that waits or is stuck; each worker tells at most twenty."""
    return [
        _below(f"{worker.name}: {trouble.sentence}", "bold red" if trouble.state == "stuck" else "yellow")
        for worker in workers
        for trouble in worker.troubles
    ]


def _unit_cells(units: Sequence[UnitAccount]) -> Sequence[Cell]:
    """Return the sums of some units, a dash for a balance that could not be counted to its end."""
    more = any(unit.outstanding_at_least for unit in units)
    lags = [unit.lag for unit in units if unit.lag is not None]
    dead = sum(unit.dead for unit in units)
    late = any(_is_late(unit) for unit in units)
    return [
        f"{sum(unit.committed for unit in units):,}",
        Text(f"{sum(unit.outstanding for unit in units):,}{'+' if more else ''}", style="yellow" if late else ""),
        f"{sum(lags):,}" if len(lags) == len(units) else UNKNOWN,
        Text(f"{dead:,}", style="red" if dead else ""),
        f"{sum(unit.skipped for unit in units):,}",
        _balance(units),
    ]


def _balance(units: Sequence[UnitAccount]) -> Cell:
    if any(_is_broken(unit) for unit in units):
        return Text("BROKEN", style="bold red")
    return NOTHING if any(unit.outstanding_at_least for unit in units) else Text("ok", style="green")


def _is_broken(unit: UnitAccount) -> bool:
    return not unit.outstanding_at_least and unit.balance() != 0


def _is_late(unit: UnitAccount) -> bool:
    return unit.kind != REPLAY and is_late(unit.outstanding, unit.now_ms - unit.committed_to_ms)


def _asks(unit: UnitAccount) -> bool:
    """Tell whether a partition asks for somebody."""
    stalled = unit.kind != "sink" and unit.stood_still_ms() >= STOOD_STILL_MS
    return bool(unit.dead_letters) or _is_late(unit) or stalled or _is_broken(unit)


def _fewer(handlers: dict[str, list[UnitAccount]], partitions: int) -> list[str]:
    """Say of which handlers not every partition is in the sums."""
    return [
        f"{name} is of {len(units)} of {partitions} partitions: it has not run, or cannot be read, in the others."
        for name, units in handlers.items()
        if len(units) < partitions
    ]


def _replays(handlers: dict[str, list[UnitAccount]]) -> list[str]:
    names = [name for name, units in handlers.items() if units[0].kind == REPLAY]
    return [f"{', '.join(names)}: a replay; `sidestream replay status` says how far it is."] if names else []


def _standing_still(stalled: Stalled) -> str:
    unit = f"{stalled.handler} v{stalled.version}, partition {stalled.partition}"
    still = duration(stalled.still_ms * US_PER_MS)
    return (
        f"{unit}: has stood still for {still} while entries wait, and holds the stream. Run it, or "
        f"`sidestream handler retire {stalled.handler} --version {stalled.version}`."
    )


def _memory_style(memory: Memory) -> str:
    return {"ok": "", "high": "yellow", "critical": "bold red"}[memory.level]


def _first_steps(look: Look) -> Iterator[RenderableType]:
    """Say what to do where nothing ever came: look elsewhere, or publish."""
    if look.others:
        names = ", ".join(look.others[:_MOST_ROWS])
        more = f" and {len(look.others) - _MOST_ROWS} more" if len(look.others) > _MOST_ROWS else ""
        yield _said(f"This Redis has other namespaces: {names}{more}.", "yellow")
        yield _below(f"sidestream status --namespace {look.others[0]}")
    yield _said("An application publishes after these two lines, with the same Redis and namespace:", "yellow")
    yield _below('sidestream.configure(service="my-app")\nsidestream.instrument_pydantic_ai()')


def _title(name: str, about: str) -> Text:
    return Text.assemble((f"{name}  ", "bold"), about)


def _without(name: str, why: str) -> Text:
    return Text.assemble((f"{name}  ", "bold"), (why, "dim"))


def _said(text: str, style: str) -> Text:
    return Text(f"! {harmless(text)}", style=style)


def _below(text: str, style: str = "") -> Padding:
    """Return a line below a table, as its notes stand."""
    return Padding(Text("\n").join(Text(harmless(line), style=style) for line in text.split("\n")), INDENT)


def _more(rows: int) -> str:
    return f"and {rows - _MOST_ROWS:,} more; --json has them" if rows > _MOST_ROWS else ""
