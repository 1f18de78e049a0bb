"""`sidestream tail`: events as they pass, decoded; nothing is changed by looking.

Keeps:
- Standard output is of events alone where it is no terminal; whatever else there is to say goes to standard error.
- It is never silent about why it shows nothing.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, Protocol, TypeAlias

import msgspec
import typer

from pipeline.errors import SettingsError, WireError
from pipeline.events import Event
from pipeline.keys import DEFAULT_NAMESPACE
from pipeline.units import US_PER_MS, parse_duration_s
from pipeline.wire import Frame, FrameDecoder, StoredEntry
from producers.backfill.holdings import event_id
from producers.backfill.lines import fields_of
from sidestream.cli.look.tail_reading import Passing, Patience, Placed
from sidestream.cli.look.tail_text import Plain, Screen, day_of, head_of
from sidestream.cli.look.tail_wanted import KINDS, Filters, Wanted
from sidestream.cli.session import (
    Namespace,
    Place,
    RedisUrl,
    Session,
    console,
    environment,
    open_session,
    run_until_interrupted,
)
from sidestream.settings import load_settings
from sidestream.wording.human import counted, duration, harmless, instant

_LAST: Final = 10
"""Lines that come first where nobody says how many: as many as tail(1) shows."""

_MOST_BACK: Final = 100_000
"""Events that are read back for the last lines: two seconds or three."""

_FEW: Final = 10
"""Of fewer lines than that it is said of how many events they are."""

_HELD: Final = 500
"""Lines that wait for one write."""

_PANEL: Final = "Filters (each may be repeated: any of its values)"

Names: TypeAlias = list[str] | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is shown, and of when; `last` is None where everything of the history is."""

    wanted: Wanted
    since: str | None
    last: int | None
    following: bool

    @property
    def since_s(self) -> int | None:
        """How far the history goes back, in seconds; None: as far as there is one."""
        try:
            return parse_duration_s(self.since) if self.since is not None else None
        except ValueError as error:
            raise SettingsError(f"--since: {error}") from None

    def said(self) -> list[str]:
        """Return it in words, for the head."""
        parts = [self.wanted.said or "all events"]
        if self.since is not None:
            parts.append(f"arrived within {self.since}")
        if self.last not in {None, _LAST}:
            parts.append(f"the last {self.last:,} first" if self.following else f"the last {self.last:,}")
        return [*parts, "Ctrl-C ends it"] if self.following else parts


def tail(
    *,
    since: Annotated[
        str | None,
        typer.Option(
            help="What arrived within 30m, 24h, then end unless --follow. Arrival counts, not the time of the event: "
            "backfilled events of last year arrive when they are fed."
        ),
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", min=0, help="The last so many that fit, first; 10 without --since, else all."),
    ] = None,
    follow: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", "-f", help="Go on with what comes; it does unless --since is given."),
    ] = None,
    kind: Annotated[
        Names,
        typer.Option(
            "--event",
            help="Only request, run, tool, step, transition or error; usage is request, operation is run, tool and "
            "step, state is transition.",
            autocompletion=lambda: list(KINDS),
            rich_help_panel=_PANEL,
        ),
    ] = None,
    agent: Annotated[Names, typer.Option(help="Only this agent's.", rich_help_panel=_PANEL)] = None,
    model: Annotated[
        Names, typer.Option(help="Only of this model, as it was asked for.", rich_help_panel=_PANEL)
    ] = None,
    session: Annotated[Names, typer.Option(help="Only of this session.", rich_help_panel=_PANEL)] = None,
    state: Annotated[
        Names, typer.Option(help="Only in this state, and transitions from and to it.", rich_help_panel=_PANEL)
    ] = None,
    run: Annotated[Names, typer.Option(help="Only of the run with this id.", rich_help_panel=_PANEL)] = None,
    user: Annotated[
        Names,
        typer.Option(
            help="Only of this user: the pseudonym where ids are kept as such, or the id where SIDESTREAM_USER_KEY is "
            "set here too.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    tenant: Annotated[Names, typer.Option(help="Only of this tenant.", rich_help_panel=_PANEL)] = None,
    service: Annotated[Names, typer.Option(help="Only of this service.", rich_help_panel=_PANEL)] = None,
    env: Annotated[
        Names, typer.Option("--environment", help="Only of this environment.", rich_help_panel=_PANEL)
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Only errors, and what ended in one.", rich_help_panel=_PANEL)
    ] = False,
    slow: Annotated[
        str | None,
        typer.Option(
            help="Only what took 500ms, 5s or longer; stays in a state with --event transition alone.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, as `backfill` reads them.")] = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show events as they pass, one a line: when, what, whose, how much, how long, how it ended.

    The last ten first, then what comes, until Ctrl-C or until nobody reads what it writes; with --since what arrived
    within that time. While it follows, it waits for a Redis that is away. Through a pipe nothing is cut.
    """

    async def command() -> int:
        filters = Filters(
            kinds=kind or (),
            agents=agent or (),
            models=model or (),
            sessions=session or (),
            states=state or (),
            runs=run or (),
            users=user or (),
            tenants=tenant or (),
            services=service or (),
            environments=env or (),
            errors=errors,
            slow=slow,
        )
        asked = _asked(filters, since, lines, follow)
        async with open_session(Place(namespace, redis_url)) as opened:
            out = _Lines(_Json() if as_json else _Text())
            await _Tail(opened, asked, out).run()
        return 0

    run_until_interrupted(command)


def _asked(filters: Filters, since: str | None, lines: int | None, follow: bool | None) -> _Asked:
    wanted = filters.wanted(load_settings({}, environment(), place="--{}").publish.user_key if filters.users else None)
    last = _LAST if lines is None and since is None else lines
    asked = _Asked(wanted, since, last, since is None if follow is None else follow)
    _ = asked.since_s  # what is wrong with it is said before a server is asked for
    return asked


class _Tail:
    """One run of the command."""

    def __init__(self, opened: Session, asked: _Asked, out: "_Lines") -> None:
        self._namespace = opened.keys.namespace
        self._asked = asked
        self._out = out
        patience = Patience(out.say, opened.revive, endless=asked.following)
        self._passing = Passing(opened.server, opened.keys, patience)
        self._seen = 0
        self._shown = 0

    async def run(self) -> None:
        """Show the history that is asked for, say what there is to say of it, and go on with what comes."""
        asked, passing, out = self._asked, self._passing, self._out
        try:
            await passing.begin(asked.since_s)
            named = self._namespace if self._namespace != DEFAULT_NAMESPACE else ""
            out.open(head_of(named, day_of(passing.now_ms * US_PER_MS), asked.said()), passing.now_ms)
            if asked.last is None:
                async for placed in passing.history():
                    self._show(placed)
            elif asked.last:
                await self._show_last(asked.last)
            out.flush()
            self._sum_up()
            if asked.following:
                async for some in passing.coming():
                    for placed in some:
                        self._show(placed)
                    out.flush()
        finally:
            out.flush()

    def _show(self, placed: Placed) -> None:
        for found in self._fitting(placed):
            self._out.add(found)

    async def _show_last(self, most: int) -> None:
        """Show the last events that fit, reading back no further than a bound."""
        last: list[_Found] = []
        async for placed in self._passing.backwards():
            if len(last) >= most:
                break
            if self._seen >= _MOST_BACK:
                upto = instant(int(placed[1].entry_id.partition("-")[0]) / 1_000)
                self._out.say(f"Read back {self._seen:,} events, to what arrived at {upto} UTC, and no further.")
                break
            last += reversed(list(self._fitting(placed)))
        del last[most:]
        self._shown = len(last)
        for found in reversed(last):
            self._out.add(found)

    def _fitting(self, placed: Placed) -> "Iterator[_Found]":
        """Iterate over the events of an entry that are shown, and say what of it cannot be read."""
        number, entry = placed
        frame = _decoded(entry)
        if isinstance(frame, WireError):
            self._out.say(f"Entry {entry.entry_id} cannot be read: {harmless(str(frame))}")
            return
        for index, event in enumerate(frame.events):
            if event is not None:
                self._seen += 1
                if self._asked.wanted.fits(event, frame):
                    self._shown += 1
                    yield _Found(event, frame, number, index)
            elif bad := frame.bad.get(index):
                self._out.say(f"Entry {entry.entry_id}, event {index} cannot be read: {harmless(bad.reason)}")

    def _sum_up(self) -> None:
        """Say of a history that shows nothing, or ends with little, why that is so."""
        asked, passing = self._asked, self._passing
        waiting = "; waiting for what comes" if asked.following else ""
        if asked.last is not None and self._shown >= asked.last:
            return
        if not passing.ever:
            of = f"Nothing was ever published in namespace {harmless(self._namespace)} of this Redis"
            self._out.say(f"{of}{waiting or '. Others: --namespace, --redis-url'}.")
        elif self._seen and asked.wanted.said and (not self._shown or (self._shown < _FEW and not asked.following)):
            self._out.say(f"{self._shown:,} of {counted(self._seen, 'event')} fit{waiting}.")
        elif not self._seen:
            ago = duration(max(0, passing.now_ms - passing.newest_ms) * US_PER_MS)
            of = "Nothing arrived in that time" if asked.since else "Nothing is kept"
            self._out.say(f"{of}; the newest entry arrived {ago} before{waiting}.")


class _Found(NamedTuple):
    """An event and where it stands: its frame, the number of its partition, its place in the frame."""

    event: Event
    frame: Frame
    partition: int
    place: int


_DECODER: Final = FrameDecoder()


def _decoded(entry: StoredEntry) -> Frame | WireError:
    try:
        return _DECODER.decode(entry.parse())
    except WireError as error:
        return error


class _Form(Protocol):
    """How events are written."""

    def opening(self, head: str, now_ms: int) -> None:
        """Write what stands above everything."""
        ...

    def lines(self, found: _Found) -> Iterator[bytes]:
        """Return what an event is written as."""
        ...


class _Lines:
    """Lines on their way to standard output, many to a write; and sentences, which go to standard error behind them."""

    def __init__(self, form: _Form) -> None:
        self._form = form
        self._held: list[bytes] = []

    def open(self, head: str, now_ms: int) -> None:
        """Write what stands above everything."""
        self._form.opening(head, now_ms)

    def add(self, found: _Found) -> None:
        """Take an event."""
        self._held += self._form.lines(found)
        if len(self._held) >= _HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        held, self._held = self._held, []
        if held:
            sys.stdout.buffer.write(b"\n".join([*held, b""]))
            sys.stdout.buffer.flush()

    def say(self, sentence: str) -> None:
        """Say something that is no event."""
        self.flush()
        sys.stderr.write(f"sidestream: {sentence}\n")
        sys.stderr.flush()


class _Json:
    """An object a line."""

    def opening(self, head: str, now_ms: int) -> None:
        """Write nothing: every line is an event."""

    def lines(self, found: _Found) -> Iterator[bytes]:
        """Return an event as `backfill` reads it."""
        own_id = event_id(found.frame, found.partition, found.place)
        yield msgspec.json.encode(fields_of(found.event, found.frame, own_id))


class _Text:
    """A line for people; its head goes where no program reads it."""

    def __init__(self) -> None:
        self._drawn: Plain | Screen = Plain()

    def opening(self, head: str, now_ms: int) -> None:
        """Write the head: above the events on a terminal, else to standard error."""
        file = sys.stderr
        if sys.stdout.isatty():
            file, self._drawn = sys.stdout, Screen(console(), day_of(now_ms * US_PER_MS))
        file.write("".join(f"{line}\n" for line in self._drawn.opening(head)))
        file.flush()

    def lines(self, found: _Found) -> Iterator[bytes]:
        """Return an event's line, and what goes before it."""
        if (heads := self._drawn.resized()) is not None:
            yield self._encoded(heads)
        for line in self._drawn.lines(found.event, found.frame.resource.service):
            yield self._encoded(line)

    @staticmethod
    def _encoded(line: str) -> bytes:
        return line.encode(sys.stdout.encoding, "replace")
