"""`sidestream dlq`: dead letters, the events that a handler could not fold."""

import re
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from consumers.views.dead_letters import StoredLetter, declared_handlers, find_dead_letter, read_dead_letters
from pipeline.errors import SettingsError
from sidestream.cli.human import harmless
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    console,
    fail,
    open_session,
    print_json,
    run_async,
)

app = typer.Typer(no_args_is_help=True, help="Dead letters: events a handler could not fold, with the reason.")

SCHEMA = "sidestream.dlq/1"

_LETTER_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@app.command("ls")
def list_letters(
    *,
    handler: Annotated[str | None, typer.Option(help="Only this handler's.")] = None,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many a handler and partition.")] = 100,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """List dead letters, newest first."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            known = await declared_handlers(session.server, session.keys, session.partitions)
            if handler is not None and handler not in known:
                raise SettingsError(f"--handler: {handler!r} has not run here; known are {', '.join(known) or 'none'}")
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


def _json(letters: list[StoredLetter]) -> bytes:
    rows = [{**msgspec.structs.asdict(letter), "raw": _readable(letter.raw)} for letter in letters]
    return msgspec.json.encode({"schema": SCHEMA, "dead_letters": rows})


def _table(letters: list[StoredLetter]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ID", "HANDLER", "PARTITION", "ENTRY", "EVENT", "EVENTS", "CODE", "REASON"):
        table.add_column(name, overflow="fold", justify="right" if name in {"PARTITION", "EVENTS"} else "left")
    for letter in letters:
        event = "all" if letter.index < 0 else str(letter.index)
        table.add_row(
            letter.letter_id,
            letter.handler,
            str(letter.partition),
            letter.entry_id,
            event,
            str(letter.events),
            Text(harmless(letter.code)),
            Text(harmless(letter.reason)),
        )
    return table


def _show(letter: StoredLetter) -> None:
    out = console()
    place = "the whole entry" if letter.index < 0 else f"event {letter.index}"
    out.print(f"{letter.letter_id}  {letter.handler}, partition {letter.partition}", style="bold", markup=False)
    out.print(f"  where   entry {letter.entry_id}, {place} ({letter.events} events)", markup=False)
    out.print(f"  why     {harmless(f'{letter.code}: {letter.reason}')}", markup=False)
    out.print(f"  bytes   {harmless(_readable(letter.raw))}", markup=False)


def _readable(raw: bytes) -> str:
    """Return the event as JSON where it is some, else as escaped bytes."""
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            return msgspec.json.encode(decode(raw)).decode()
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError):
            continue
    return repr(raw)[2:-1]
