"""`sidestream dlq`: dead letters, the events that a handler could not fold."""

import os
import re
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType

from consumers.letters import WHOLE_ENTRY, DeadLetter, frame_of
from consumers.runtime.retrying import Retried, Retrier
from consumers.views.dead_letters import (
    StoredLetter,
    Wanted,
    declared_handlers,
    find_dead_letter,
    read_dead_letters,
    select_dead_letters,
)
from pipeline.errors import SettingsError, WireError
from pipeline.scripting import script
from pipeline.units import parse_duration_s
from pipeline.wire import BadEvent, FrameDecoder
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    Session,
    console,
    fail,
    open_session,
    print_json,
    run_async,
)
from sidestream.cli.tables import new_table, titled
from sidestream.compose import HANDLERS, effects_of
from sidestream.wording.human import counted, harmless, instant, shown

app = typer.Typer(no_args_is_help=True, help="Dead letters: events that a handler could not count or send, and why.")

SCHEMA = "sidestream.dlq/1"

_LETTER_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_STILL_SHOWN = 20
_MS = 1_000

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters' ids, from `dlq ls`.")]
Handler = Annotated[str | None, typer.Option(help="Only this handler's.")]
Code = Annotated[str | None, typer.Option(help="Only those with this code.")]
OlderThan = Annotated[str | None, typer.Option(metavar="DURATION", help="Only those set aside longer ago: 7d, 12h.")]


@app.command("ls")
def list_letters(
    *,
    handler: Annotated[str | None, typer.Option(help="Only this handler's.")] = None,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many of each handler and partition.")] = 100,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """List dead letters, newest first."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            await _known(session, handler)
            letters = await read_dead_letters(
                session.server, session.keys, session.partitions, handler=handler, most=most
            )
        if as_json:
            print_json(_json(letters))
        elif letters:
            console().print(_table(letters))
        else:
            console().print("No dead letters.")
        return 0

    run_async(command)


@app.command("show")
def show_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="A dead letter's id, from `dlq ls`.")],
    *,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show one dead letter with the bytes of its event."""

    async def command() -> int:
        if not _LETTER_ID.fullmatch(letter_id):
            raise SettingsError(f"{letter_id!r} is no id of a dead letter; `sidestream dlq ls` lists them")
        async with open_session(Place(namespace, redis_url)) as session:
            letters = await find_dead_letter(session.server, session.keys, session.partitions, letter_id)
        if not letters:
            fail(f"there is no dead letter {letter_id}; `sidestream dlq ls` lists them", EXIT_FINDING)
        if as_json:
            print_json(_json(letters))
        else:
            for letter in letters:
                _show(letter)
        return 0

    run_async(command)


@app.command("retry")
def retry_letters(
    ids: Ids = None,
    *,
    handler: Handler = None,
    code: Code = None,
    older_than: OlderThan = None,
    every: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Let handlers take dead letters again, in place: what they take now is counted, and its letter goes.

    After an upgrade that mends what refused them. Exit code 1 while some are left, or where no id given is one.
    """

    async def command() -> int:
        wanted = _wanted(ids, handler, code, older_than, every=every, now_ms=time.time_ns() // 1_000_000)
        async with open_session(Place(namespace, redis_url)) as session:
            await _known(session, handler)
            outcome = await _retry(session, wanted)
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, **msgspec.to_builtins(outcome)}))
        else:
            _print_retried(outcome)
        missed = bool(ids) and not outcome.taken
        return EXIT_FINDING if outcome.still or missed else 0

    run_async(command)


@app.command("purge")
def purge_letters(
    ids: Ids = None,
    *,
    handler: Handler = None,
    code: Code = None,
    older_than: OlderThan = None,
    every: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Discard dead letters for good. Their events stay counted as dead-lettered."""

    async def command() -> int:
        wanted = _wanted(ids, handler, code, older_than, every=every, now_ms=time.time_ns() // 1_000_000)
        async with open_session(Place(namespace, redis_url)) as session:
            await _known(session, handler)
            letters, events = await _purge(session, wanted, yes=yes)
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "done": yes, "letters": letters, "events": events}))
        else:
            about = f"{counted(letters, 'dead letter')} of {counted(events, 'event')}"
            console().print(f"{'Discarded' if yes else 'Would discard'} {about}.")
            if not yes and letters:
                console().print("Nothing has been changed; --yes does it.")
        return 0

    run_async(command)


def _wanted(
    ids: list[str] | None, handler: str | None, code: str | None, older_than: str | None, *, every: bool, now_ms: int
) -> Wanted:
    if not (every or ids or handler or code or older_than):
        raise SettingsError("say which: ids, --handler, --code, --older-than, or --all")
    for letter_id in ids or ():
        if not _LETTER_ID.fullmatch(letter_id):
            raise SettingsError(f"{letter_id!r} is no id of a dead letter; `sidestream dlq ls` lists them")
    before_ms = None
    if older_than is not None:
        try:
            before_ms = now_ms - parse_duration_s(older_than) * 1_000
        except ValueError as error:
            raise SettingsError(f"--older-than: {error}") from error
    return Wanted(frozenset(ids or ()), handler, code, before_ms)


async def _known(session: Session, handler: str | None) -> None:
    known = await declared_handlers(session.server, session.keys, session.partitions)
    if handler is not None and handler not in known:
        raise SettingsError(f"--handler: {handler!r} has not run here; known are {', '.join(known) or 'none'}")


async def _retry(session: Session, wanted: Wanted) -> Retried:
    effects = effects_of(HANDLERS, os.environ, session.keys.namespace)
    outcome = Retried()
    try:
        async for page in select_dead_letters(session.server, session.keys, session.partitions, wanted):
            effect = effects.get(page[0].handler)
            if effect is None:
                outcome.still.update({s.letter_id: f"{s.handler} is not configured here" for s in page})
                continue
            retrier = Retrier(session.server, session.keys.partition(page[0].partition), effect, page[0].version)
            await retrier.retry([(stored.letter_id, stored.letter) for stored in page], outcome)
    finally:
        for effect in effects.values():
            await effect.aclose()
    return outcome


async def _purge(session: Session, wanted: Wanted, *, yes: bool) -> tuple[int, int]:
    letters = events = 0
    async for page in select_dead_letters(session.server, session.keys, session.partitions, wanted):
        if not yes:
            letters, events = letters + len(page), events + sum(stored.letter.events for stored in page)
            continue
        unit = session.keys.partition(page[0].partition).unit(page[0].handler, page[0].version)
        gone = await session.server.run(
            script("discard"), [unit.cursor(), unit.dead_letters()], [stored.letter_id for stored in page]
        )
        letters, events = letters + int(gone[0]), events + int(gone[1])
    return letters, events


def _print_retried(outcome: Retried) -> None:
    out = console()
    if not (outcome.taken or outcome.still):
        out.print("No such dead letters.")
        return
    taken = f"{counted(len(outcome.taken), 'dead letter')} taken: {counted(outcome.events, 'event')} counted now."
    out.print(taken, style="green" if outcome.taken else "")
    if outcome.still:
        out.print(f"{len(outcome.still):,} still there:", style="yellow")
    for letter_id, why in list(outcome.still.items())[:_STILL_SHOWN]:
        out.print(f"  {letter_id}  {harmless(why)}", markup=False)
    if len(outcome.still) > _STILL_SHOWN:
        out.print(f"  and {len(outcome.still) - _STILL_SHOWN:,} more; --json has all")


def _json(letters: list[StoredLetter]) -> bytes:
    return msgspec.json.encode({"schema": SCHEMA, "dead_letters": [_row(stored) for stored in letters]})


def _row(stored: StoredLetter) -> dict[str, str | int]:
    letter = stored.letter
    return {
        "handler": stored.handler,
        "version": stored.version,
        "partition": stored.partition,
        "letter_id": stored.letter_id,
        "entry_id": letter.entry_id,
        "index": letter.index,
        "events": letter.events,
        "code": letter.code,
        "reason": letter.reason,
        "producer": letter.producer,
        "codec": letter.codec,
        "raw": _readable(letter),
    }


def _table(letters: Sequence[StoredLetter]) -> RenderableType:
    heads = ("=HANDLER", "=CODE", "REASON", "#EVENTS", "#PARTITION", "=SET ASIDE", "=EVENT", "=ENTRY")
    leave = ("ENTRY", "EVENT", "SET ASIDE", "PARTITION", "EVENTS", "REASON")
    table = new_table("=ID", *heads, leave=leave)
    for stored in letters:
        letter = stored.letter
        table.add_row(
            stored.letter_id,
            shown(stored.unit),
            shown(letter.code),
            shown(letter.reason),
            f"{letter.events:,}",
            str(stored.partition),
            instant(int(stored.letter_id.partition("-")[0]) / _MS),
            "all" if letter.index == WHOLE_ENTRY else str(letter.index),
            letter.entry_id,
        )
    note = "`sidestream dlq show ID` shows one with its event."
    return titled("Dead letters", table, f"  {len(letters):,}, newest first; times are UTC", [note])


def _show(stored: StoredLetter) -> None:
    out, letter = console(), stored.letter
    place = "the whole entry" if letter.index == WHOLE_ENTRY else f"event {letter.index}"
    out.print(f"{stored.letter_id}  {stored.unit}, partition {stored.partition}", style="bold", markup=False)
    out.print(f"  where   entry {letter.entry_id}, {place} ({counted(letter.events, 'event')})", markup=False)
    out.print(f"  why     {harmless(f'{letter.code}: {letter.reason}')}", markup=False)
    out.print(f"  bytes   {harmless(_readable(letter))}", markup=False)


def _readable(letter: DeadLetter) -> str:
    """Return a letter's event as JSON where it is some, else its bytes, escaped."""
    if not letter.body:
        return ""
    try:
        frame = frame_of(letter, FrameDecoder())
    except WireError:
        return repr(letter.body)[2:-1]
    if letter.index == WHOLE_ENTRY:
        return msgspec.json.encode(frame.events).decode()
    if bad := frame.bad.get(letter.index):
        return _bytes_of(bad)
    return msgspec.json.encode(frame.events[letter.index]).decode()


def _bytes_of(bad: BadEvent) -> str:
    decode = msgspec.json.decode if bad.codec == "json" else msgspec.msgpack.decode
    try:
        return msgspec.json.encode(decode(bad.raw)).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError):
        return repr(bad.raw)[2:-1]
