"""`sidestream handler`: what each handler holds of the stream, and how to end it."""

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType

from consumers.register import read_versions
from consumers.removal import HeldError, holders, retire, survey_unit
from consumers.views.accounting import handler_name
from consumers.views.handlers import HandlerHold, read_handlers
from pipeline.errors import SettingsError
from pipeline.keys import LIVE_VERSION
from pipeline.units import US_PER_MS
from sidestream.cli.removals import print_survey, removal_json
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
from sidestream.cli.tables import UNKNOWN, new_table, titled
from sidestream.wording.human import NOTHING, counted, duration, instant, shown, size

app = typer.Typer(no_args_is_help=True, help="Handlers: what each holds of the stream, and how to end it.")

SCHEMA = "sidestream.handlers/1"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MS_PER_S = 1_000


@app.command("ls")
def list_handlers(*, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None) -> None:
    """List what is declared: since when, how far behind, and how much of the stream it holds."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            found = await read_handlers(session.server, session.keys, session.partitions)
            seconds, microseconds = await session.server.call("TIME")
        now_ms = int(seconds) * _MS_PER_S + int(microseconds) // _MS_PER_S
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "as_of_ms": now_ms, "handlers": found}))
        elif found:
            console().print(_table(found, now_ms))
        else:
            console().print("None is declared yet: a worker declares them.")
        return 0

    run_async(command)


@app.command("retire")
def retire_handler(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A handler, from `handler ls`.")],
    *,
    version: Annotated[int, typer.Option(min=1, help="Which version of its state.")] = LIVE_VERSION,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """End a handler's hold of the stream, and delete its state: cursor, windows, dead letters, all of it.

    Exit code 1 while a worker runs it.
    """

    async def command() -> int:
        if shown := re.fullmatch(r"(\S+) v([0-9]+)", name):
            raise SettingsError(f"{name!r}: write {shown[1]} --version {shown[2]}")
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{name!r} is no name of a handler; `sidestream handler ls` lists them")
        async with open_session(Place(namespace, redis_url)) as session:
            await _check_version(session, name, version)
            return await _retire(session, f"v{version}:{name}", yes=yes, as_json=as_json)

    run_async(command)


async def _check_version(session: Session, handler: str, version: int) -> None:
    """See that nothing is retired that the document of versions has, or has buried.

    Raises:
        SettingsError: It is a replay's, or a gravestone.
    """
    versions = await read_versions(session.server, session.keys)
    if version in versions.all(handler) and version != versions.base(handler):
        raise SettingsError(f"version {version} of {handler} is a replay: `sidestream replay drop {version}`")
    if version < versions.base(handler):
        raise SettingsError(f"version {version} of {handler} was dropped; version {versions.base(handler)} is its base")


async def _retire(session: Session, unit: str, *, yes: bool, as_json: bool) -> int:
    place = session.server, session.keys, session.partitions
    survey = await survey_unit(*place, unit)
    if not survey.keys:
        known = ", ".join(f"{row.handler} --version {row.version}" for row in await read_handlers(*place))
        raise SettingsError(f"{unit} has nothing here; known are {known or 'none'}")
    held_by = await holders(*place, unit)
    done = yes and not held_by
    if done:
        try:
            await retire(*place, unit)
        except HeldError as error:
            fail(str(error), EXIT_FINDING)
    if as_json:
        print_json(removal_json(unit, survey, done=done, held_by=held_by))
    else:
        out = console()
        what = f"{unit}, {counted(survey.keys, 'key')}"
        out.print(f"{'Retired' if done else 'Would retire'} {what}:", markup=False)
        print_survey(out, survey)
    if held_by:
        fail(f"{unit} is held by {', '.join(held_by)}: stop that first, or run it without this handler", EXIT_FINDING)
    if not (done or as_json):
        console().print("Nothing has been changed; --yes does it.")
    return 0


def _table(found: Sequence[HandlerHold], now_ms: int) -> RenderableType:
    heads = ("#ENTRIES", "#MEMORY", "#OLDEST", "#SKIPPED", "#LAG", "=COMPLETE SINCE", "=DECLARED", "#PARTITIONS")
    table = new_table("=HANDLER", "=KIND", *heads, leave=("PARTITIONS", "DECLARED", "LAG", "SKIPPED", "KIND"))
    for row in found:
        table.add_row(
            shown(handler_name(row.handler, row.version)),
            row.kind,
            f"{row.entries:,}",
            size(row.bytes),
            NOTHING if row.oldest_ms is None else duration((now_ms - row.oldest_ms) * US_PER_MS),
            f"{row.skipped:,}",
            UNKNOWN if row.lag is None else f"{row.lag:,}",
            instant(row.since_ms // _MS_PER_S) if row.since_ms else "the beginning",
            instant(row.declared_ms // _MS_PER_S),
            str(row.partitions),
        )
    return titled("Handlers", table, "  what of the stream each holds; times are UTC")
