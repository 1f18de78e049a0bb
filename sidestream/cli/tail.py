"""`sidestream tail`: events as they pass, decoded; nothing is changed by looking.

Keeps: streams are read without a group and without a cursor of any handler: no lag, no count and no trimming hangs on
who looks.
"""

import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, assert_never, cast, get_args

import msgspec
import typer

from pipeline.connection import AsyncServer, Reply
from pipeline.errors import SettingsError, WireError
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from pipeline.segments import parse_id
from pipeline.stream import parse_entries, read_after
from pipeline.units import US_PER_MS, US_PER_S, parse_duration_s
from pipeline.wire import Frame, FrameDecoder, StoredEntry
from producers.backfill.holdings import event_id
from producers.backfill.lines import fields_of
from sidestream.cli.human import amount, duration, harmless
from sidestream.cli.session import Namespace, Place, RedisUrl, open_session, run_until_interrupted

_AT_ONCE: Final = 64
_BLOCK_MS: Final = 1_000
_KINDS: Final = {str(kind.__struct_config__.tag): kind for kind in get_args(Event)}
_ENDED_WELL: Final = "ok"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are shown; an empty text matches everything."""

    kind: type[object] | None = None
    names: Mapping[str, str] | None = None
    service: str = ""
    errors: bool = False

    def fits(self, event: Event, frame: Frame) -> bool:
        """Say whether an event is shown."""
        if self.kind is not None and not isinstance(event, self.kind):
            return False
        if self.service and frame.resource.service != self.service:
            return False
        if self.errors and not isinstance(event, ErrorEvent) and getattr(event, "status", "") != "error":
            return False
        return all(getattr(event, name, None) == value for name, value in (self.names or {}).items())


def tail(
    *,
    since: Annotated[str | None, typer.Option(help="From so long ago: 30m, 24h; then end, unless --follow.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes; without --since anyway.")
    ] = False,
    kind: Annotated[str | None, typer.Option("--event", help=f"Only {', '.join(_KINDS)}.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model, as it was asked for.")] = None,
    session: Annotated[str | None, typer.Option(help="Only of this session.")] = None,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Only errors, and what ended in one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, as `backfill` reads them.")] = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show events as they pass, one a line: when, what, whose, how much, how long, how it ended.

    It ends with Ctrl-C, or when nobody reads what it writes.
    """

    async def command() -> int:
        wanted = _wanted(kind, {"agent": agent, "model": model, "session": session}, service, errors=errors)
        since_s = _since_s(since)
        show = _show_json if as_json else _show_text
        async with open_session(Place(namespace, redis_url)) as opened:
            passing = _Passing(opened.server, opened.keys)
            try:
                await passing.begin(since_s)
                if since is not None:
                    async for number, entry in passing.history():
                        show(_decoded(entry), number, entry, wanted)
                if follow or since is None:
                    async for number, entry in passing.coming():
                        show(_decoded(entry), number, entry, wanted)
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read it has enough; what Python would still flush goes nowhere.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0

    run_until_interrupted(command)


def _wanted(kind: str | None, names: Mapping[str, str | None], service: str | None, *, errors: bool) -> Wanted:
    if kind is not None and kind not in _KINDS:
        raise SettingsError(f"--event: {kind!r} is none of {', '.join(_KINDS)}")
    given = {name: value for name, value in names.items() if value is not None}
    return Wanted(_KINDS[kind] if kind else None, given, service or "", errors)


def _since_s(text: str | None) -> int:
    try:
        return parse_duration_s(text) if text is not None else 0
    except ValueError as error:
        raise SettingsError(f"--since: {error}") from None


class _Passing:
    """Entries of all partitions, in the order in which they came."""

    def __init__(self, server: AsyncServer, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        self._after: dict[int, str] = {}

    async def begin(self, since_s: int) -> None:
        """Begin so many seconds ago, by the broker's clock."""
        seconds, microseconds = await self._server.call("TIME")
        now_ms = int(seconds) * 1_000 + int(microseconds) // US_PER_MS
        self._began = f"{max(0, now_ms - since_s * 1_000 - 1)}-{2**64 - 1}"
        for number in range(await read_partitions(self._server, self._keys)):
            self._after[number] = self._began

    async def history(self) -> AsyncIterator[tuple[int, StoredEntry]]:
        """Iterate over what is there."""
        pages: dict[int, deque[StoredEntry]] = {number: deque() for number in self._after}
        ended: set[int] = set()
        while True:
            for number, page in pages.items():
                if not page and number not in ended:
                    keys, after = self._keys.partition(number), self._after[number]
                    page.extend(await read_after(self._server, keys, after, inclusive=False, most=_AT_ONCE))
                    if len(page) < _AT_ONCE:
                        ended.add(number)
            waiting = [number for number, page in pages.items() if page]
            if not waiting:
                return
            number = min(waiting, key=lambda one: parse_id(pages[one][0].entry_id))
            entry = pages[number].popleft()
            self._after[number] = entry.entry_id
            yield number, entry

    async def coming(self) -> AsyncIterator[tuple[int, StoredEntry]]:
        """Iterate over what comes, for ever; partitions that are added too."""
        while True:
            for number in range(await read_partitions(self._server, self._keys)):
                self._after.setdefault(number, self._began)
            by_stream = {self._keys.partition(number).stream(): number for number in self._after}
            reply = cast(
                "Sequence[tuple[bytes, Reply]]",
                await self._server.call(
                    "XREAD", "COUNT", _AT_ONCE, "BLOCK", _BLOCK_MS, "STREAMS", *by_stream, *self._after.values()
                )
                or [],
            )
            read = [(by_stream[name.decode()], entry) for name, rows in reply for entry in parse_entries(rows)]
            for number, entry in sorted(read, key=lambda one: parse_id(one[1].entry_id)):
                self._after[number] = entry.entry_id
                yield number, entry
            sys.stdout.flush()


_DECODER: Final = FrameDecoder()


def _decoded(entry: StoredEntry) -> Frame | WireError:
    try:
        return _DECODER.decode(entry.parse())
    except WireError as error:
        return error


def _show_json(found: Frame | WireError, number: int, entry: StoredEntry, wanted: Wanted) -> None:
    for index, event in _events(found, entry, wanted, lambda text: sys.stderr.write(f"{text}\n")):
        assert isinstance(found, Frame)
        line = fields_of(event, found, event_id(found, number, index))
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")


def _show_text(found: Frame | WireError, number: int, entry: StoredEntry, wanted: Wanted) -> None:
    del number
    for _, event in _events(found, entry, wanted, lambda text: sys.stdout.write(f"{text}\n")):
        sys.stdout.write(text_of(event) + "\n")


def _events(
    found: Frame | WireError, entry: StoredEntry, wanted: Wanted, complain: Callable[[str], object]
) -> Iterable[tuple[int, Event]]:
    if isinstance(found, WireError):
        complain(f"entry {entry.entry_id} cannot be read: {harmless(str(found))}")
        return
    for index, event in enumerate(found.events):
        if event is not None and wanted.fits(event, found):
            yield index, event
        elif bad := found.bad.get(index):
            complain(f"entry {entry.entry_id}, event {index} cannot be read: {harmless(bad.reason)}")


def text_of(event: Event) -> str:
    """Return an event as one line for people."""
    at = datetime.fromtimestamp(event.time_us / US_PER_S, UTC)
    when = f"{at:%Y-%m-%d %H:%M:%S}.{event.time_us % US_PER_S // US_PER_MS:03d}"
    kind, parts = _said(event)
    who = [f"session {event.session}"] if event.session else []
    return harmless("  ".join([when, f"{kind:<10}", *(part for part in (*parts, *who) if part)]))


def _said(event: Event) -> tuple[str, list[str]]:
    match event:
        case UsageEvent():
            tokens = f"{amount(event.input_tokens)} in {amount(event.output_tokens)} out"
            took = duration(event.duration_us) if event.duration_us is not None else ""
            ended = event.error_type if event.error_type and event.status != _ENDED_WELL else ""
            return "request", [event.agent, event.model or event.response_model, tokens, took, event.status, ended]
        case OperationEvent():
            name = event.name or event.agent
            agent = event.agent if event.agent != name else ""
            return event.kind, [agent, name, duration(event.duration_us), event.status, event.error_type]
        case TransitionEvent():
            took = f"after {duration(event.duration_us)}" if event.duration_us is not None else ""
            return "transition", [f"{event.from_state or '(none)'} to {event.to_state or '(none)'}", took]
        case ErrorEvent():
            return "error", [event.agent, event.model, event.type, event.message]
        case _:
            assert_never(event)
