"""`sidestream replay`: fold the retained stream again, beside the live state, and compare."""

import msgspec
import typer
from rich.console import Console

from consumers.replay.diff import MOST_SHOWN, Diff, diff
from consumers.replay.shadow import drop, replay
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    console,
    open_session,
    print_json,
    run_async,
)
from sidestream.compose import fold_effects

app = typer.Typer(no_args_is_help=True, help="Fold the retained stream again, beside the live state, and compare.")

SCHEMA = "sidestream.replay-diff/1"


@app.command("run")
def run_replay(*, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None) -> None:
    """Fold everything the stream retains into a second version of the state."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            done = await replay(session.server, session.keys, fold_effects())
        if as_json:
            print_json(
                msgspec.json.encode({"schema": "sidestream.replay/1", "events": done.events, "version": done.version})
            )
        else:
            console().print(
                f"Replayed {done.events} handler-events into version {done.version} of the state. "
                "Compare with `sidestream replay diff`."
            )
        return 0

    run_async(command)


@app.command("diff")
def diff_replay(*, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None) -> None:
    """Compare the replayed state with the live one, bit by bit; exit 1 where they differ."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            result = await diff(session.server, session.keys, session.partitions)
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "equal": result.equal, **_fields(result)}))
        else:
            _print(console(), result)
        return 0 if result.equal else EXIT_FINDING

    run_async(command)


@app.command("drop")
def drop_replay(*, namespace: Namespace = None, redis_url: RedisUrl = None) -> None:
    """Delete the replayed version; the live one is untouched."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            gone = await drop(session.server, session.keys, session.partitions)
        console().print(f"Deleted {gone} keys of the replayed version.")
        return 0

    run_async(command)


def _fields(result: Diff) -> dict[str, object]:
    return {
        "windows": result.windows,
        "fields": result.fields,
        "left_out": result.left_out,
        "apart": result.apart,
        "causes": result.causes,
        "differences": result.differences,
    }


def _print(out: Console, result: Diff) -> None:
    for line in result.apart:
        out.print(f"Not comparable: {line}. Let the workers finish, then `sidestream replay run` again.", markup=False)
    for line in result.causes:
        out.print(f"Cause: {line}", markup=False)
    for found in result.differences[:MOST_SHOWN]:
        where = f"{found.handler}, partition {found.partition}, {found.window}"
        out.print(f"Differs: {where}: {found.field}: live {found.live}, replayed {found.replayed}", markup=False)
    if len(result.differences) > MOST_SHOWN:
        out.print(f"... and {len(result.differences) - MOST_SHOWN} more (--json lists all)")
    if result.windows == 0 and not result.apart:
        out.print("Nothing to compare: run `sidestream replay run` first.")
    elif result.equal:
        out.print(f"Equal, bit by bit: {result.windows} windows, {result.fields} fields.")
    else:
        out.print(f"Not equal: {len(result.differences)} of {result.fields} fields in {result.windows} windows differ.")
