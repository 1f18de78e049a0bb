"""`sidestream replay`: the same handlers over archive and stream again, beside what answers; compare, swap."""

import logging
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import typer

from consumers.archive.archive import SegmentArchive
from consumers.register import read_versions
from consumers.removal import workers_alive
from consumers.replay.beginning import Asked, building, check_archive, check_asked, check_recipes, resume
from consumers.replay.changes import Changes, read_changes
from consumers.replay.changing import rollback, swap
from consumers.replay.diff import MOST_SHOWN, Diff, diff
from consumers.replay.dropping import drop, plan_drop, survey_drop
from consumers.replay.plan import read_plan
from consumers.replay.progress import ReplayProgress, read_progress, read_shelf
from consumers.replay.running import Running
from consumers.runtime.effects import Effect
from consumers.versions import Replay, Versions, VersionsError
from pipeline.errors import SettingsError
from sidestream.cli.days import FirstDay, LastDay, parse_days
from sidestream.cli.logs import log_to_stderr
from sidestream.cli.removals import print_survey
from sidestream.cli.replay_text import (
    ProgressLines,
    events_left,
    print_bits,
    print_changes,
    print_plan,
    print_run,
    print_status,
)
from sidestream.cli.session import (
    EXIT_FINDING,
    EXIT_INTERRUPTED,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    Session,
    console,
    environment,
    open_session,
    print_json,
    run_async,
)
from sidestream.cli.signals import until_signal
from sidestream.compose import fold_effects, history
from sidestream.wording.human import counted

app = typer.Typer(
    no_args_is_help=True,
    help="Compute history anew, beside what answers now: plan, run, compare, swap in, roll back.",
)

SCHEMA: Final = "sidestream.replay/2"

Handlers = Annotated[
    list[str] | None, typer.Option("--handler", help="Only this handler; may be repeated. Default: metrics and cost.")
]
WithArchive = Annotated[
    bool,
    typer.Option("--archive/--no-archive", help="Begin with the archive of SIDESTREAM_ARCHIVE_URL, where it is set."),
]
Number = Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Which version; where there is one, that.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Also where what would answer is behind, or lacks events.")]


@app.command("plan")
def plan_replay(
    *,
    handler: Handlers = None,
    first: FirstDay = None,
    last: LastDay = None,
    archive: WithArchive = True,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Say what a replay would read, how long it would take, how much memory, and what is no longer there.

    Nothing is changed. Exit code 1 where something is missing, or a segment has no end; `archive verify` reads it all.
    """

    async def command() -> int:
        days, effects = parse_days(first, last), _effects(handler)
        async with open_session(Place(namespace, redis_url)) as session:
            past = _history(session, archive=archive)
            begun = building(await read_versions(session.server, session.keys))
            plan = await read_plan(
                session.server, session.keys, session.partitions, effects, days, past.store if past else None
            )
        if as_json:
            print_json(
                _json({"plan": plan, "events": plan.events, "seconds": round(plan.seconds), "missing": plan.missing})
            )
        else:
            print_plan(console(), plan, begun)
        damaged = any(one.damaged_segments for one in plan.partitions)
        return EXIT_FINDING if plan.missing or damaged or plan.foreign_partitions else 0

    run_async(command)


@app.command("run")
def run_replay(
    *,
    handler: Handlers = None,
    first: FirstDay = None,
    last: LastDay = None,
    archive: WithArchive = True,
    rate: Annotated[int | None, typer.Option(min=1, help="Most events a second of this process.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on when it has caught up: where no worker has its recipe.")
    ] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Compute a new version, or go on with the one that is being built, until it has caught up with the stream.

    Start it again after whatever has ended it; start it elsewhere too, and they share the work.
    Exit code 1 where it lacks events, 130 where it was interrupted.
    """

    async def command() -> int:
        days, effects = parse_days(first, last), _effects(handler)
        async with open_session(Place(namespace, redis_url)) as session:
            asked = Asked(effects, days, _history(session, archive=archive))
            replay = await _begun(session, asked, asks=bool(handler or first or last))
            replay, progress = await _carry(session, replay, rate, follow=follow, archive=archive, quiet=as_json)
            alive = await workers_alive(session.server, session.keys)
        if as_json:
            print_json(
                _json(
                    {
                        "replay": replay,
                        "events": progress.taken,
                        "behind_ms": progress.behind_ms,
                        "lacks": progress.lacks,
                    }
                )
            )
        else:
            print_run(console(), replay, progress, alive=bool(alive))
        if replay.progress == "building":
            return EXIT_INTERRUPTED
        return EXIT_FINDING if progress.lacks else 0

    log_to_stderr(logging.WARNING)
    run_async(command)


@app.command("status")
def show_status(*, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None) -> None:
    """Show which version answers for what, and how far replays are.

    Exit code 1 where a replay lacks events, or one that answers is behind.
    """

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            versions = await read_versions(session.server, session.keys)
            rows = [(one, await _progress_of(session, one)) for one in versions.replays]
            ahead = [await _ahead(session, one, progress) for one, progress in rows]
        if as_json:
            replays = [
                {"replay": one, "units": progress.units, "ahead": left}
                for (one, progress), left in zip(rows, ahead, strict=True)
            ]
            print_json(_json({"bases": versions.bases, "replays": replays}))
        else:
            print_status(console(), versions, rows, ahead)
        bad = any(p.passed or (one.progress == "swapped" and not p.follows) for one, p in rows)
        return EXIT_FINDING if bad else 0

    run_async(command)


@app.command("diff")
def diff_replay(
    number: Number = None,
    *,
    bits: Annotated[bool, typer.Option("--bits", help="Compare every field of every window, bit by bit.")] = False,
    most: Annotated[int, typer.Option(min=1, help="How many differences to print.")] = MOST_SHOWN,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show what a swap would change, per day, dimension and measure; exit code 1 where something would.

    With --bits: whether both are the same to the last bit, at equal cursors, wherever that is promised.
    """

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            versions = await read_versions(session.server, session.keys)
            replay = _chosen(versions, number)
            place = session.server, session.keys, session.partitions
            exact = await diff(*place, versions, replay)
            changes = Changes(0, [], [], []) if bits else await read_changes(*place, versions, replay)
        if as_json:
            fields = _bits(exact) if bits else {"causes": exact.causes, **msgspec.to_builtins(changes)}
            equal = exact.equal if bits else not changes.changes
            print_json(_json({"version": replay.number, "equal": equal, **fields}))
        elif bits:
            print_bits(console(), exact, most)
        else:
            causes = [*_unfinished(replay), *exact.causes]
            print_changes(console(), replay, changes, causes, most)
        return (0 if exact.equal else EXIT_FINDING) if bits else (EXIT_FINDING if changes.changes else 0)

    run_async(command)


@app.command("swap")
def swap_replay(
    number: Number = None,
    *,
    anyway: Anyway = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Let a replay answer for its handlers and days: in one write, for all readers. `replay rollback` takes it back."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            replay = _chosen(await read_versions(session.server, session.keys), number)
            versions = await swap(session.server, session.keys, session.partitions, replay.number, anyway=anyway)
        if as_json:
            print_json(_json({"versions": versions}))
        else:
            console().print(
                f"Version {replay.number} answers for {', '.join(replay.handlers)}, {replay.days}. "
                f"The one before goes on beside it: `sidestream replay rollback` takes the swap back."
            )
        return 0

    run_async(command)


@app.command("rollback")
def roll_back(
    *, anyway: Anyway = False, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None
) -> None:
    """Take the latest swap back: in one write, for all readers."""

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            versions, number = await rollback(session.server, session.keys, session.partitions, anyway=anyway)
        if as_json:
            print_json(_json({"versions": versions}))
        else:
            console().print(
                f"Version {number} answers no more; it goes on, and `sidestream replay swap` brings it back."
            )
        return 0

    run_async(command)


@app.command("drop")
def drop_version(
    number: Number = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
    anyway: Anyway = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Delete a version that answers for nothing: a replay, or what a replay has replaced. It cannot be undone.

    What a replay has replaced hands over the days that the replay has not.
    """

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            versions = await read_versions(session.server, session.keys)
            place = session.server, session.keys, session.partitions
            dropping = await plan_drop(*place, _chosen(versions, number).number if number is None else number)
            survey = await survey_drop(*place, dropping)
            gone = await drop(*place, dropping, fold_effects(), anyway=anyway) if yes else 0
        if as_json:
            print_json(
                _json({"done": yes, "dropping": dropping, "keys": gone if yes else survey.keys, "bytes": survey.bytes})
            )
            return 0
        out = console()
        units = ", ".join(f"version {version} of {handler}" for version, handler in dropping.units)
        out.print(f"{'Deleted' if yes else 'Would delete'} {units}, {counted(survey.keys, 'key')}:", markup=False)
        print_survey(out, survey)
        if dropping.heir:
            done = "has taken" if yes else "would take"
            days = "" if dropping.days is None else f", and {done} over all days but its own ({dropping.days})"
            out.print(f"Version {dropping.heir} {done} its place{days}.", markup=False)
        if not yes:
            out.print("Nothing has been changed; --yes does it.")
        return 0

    run_async(command)


# What is asked for


def _effects(handlers: Sequence[str] | None) -> list[Effect]:
    found = fold_effects()
    names = [effect.name for effect in found]
    for name in handlers or ():
        if name not in names:
            raise SettingsError(f"--handler {name!r}: nothing of it can be replayed; known are {', '.join(names)}")
    return [effect for effect in found if not handlers or effect.name in handlers]


def _history(session: Session, *, archive: bool) -> SegmentArchive | None:
    return history(environment(), session.keys.namespace) if archive else None


def _chosen(versions: Versions, number: int | None) -> Replay:
    if number is not None:
        return versions.replay(number)
    if len(versions.replays) == 1:
        return versions.replays[0]
    known = ", ".join(str(one.number) for one in versions.replays)
    raise VersionsError(
        f"say which version: {known}" if known else "there is no replay: `sidestream replay run` begins one"
    )


async def _begun(session: Session, asked: Asked, *, asks: bool) -> Replay:
    """Return the replay that is being built, or has just caught up with the same to do; else begin one."""
    found = await resume(session.server, session.keys, session.partitions, asked)
    if asks:
        check_asked(found, asked)
    check_recipes(found, fold_effects())
    check_archive(found, asked.archive_url)
    return found


def _unfinished(replay: Replay) -> list[str]:
    still = f"version {replay.number} is still being built: what it has not read yet it lacks"
    return [still] if replay.progress == "building" else []


# Running


async def _carry(
    session: Session, replay: Replay, rate: int | None, *, follow: bool, archive: bool, quiet: bool
) -> tuple[Replay, ReplayProgress]:
    place = session.server, session.keys, session.partitions
    past = _history(session, archive=archive)
    shelves = [await read_shelf(past.store, n, replay.days) for n in range(session.partitions)] if past else []
    lines = ProgressLines(console(), shelves, quiet=quiet)
    running = Running(*place, effects=fold_effects(), archive=past, rate=rate, follow=follow, tell=lines.tell)
    with lines.live:
        replay = await until_signal(lambda: running.run(replay), running.stop) or replay
    return replay, await read_progress(*place, replay)


async def _progress_of(session: Session, replay: Replay) -> ReplayProgress:
    return await read_progress(session.server, session.keys, session.partitions, replay)


async def _ahead(session: Session, replay: Replay, progress: ReplayProgress) -> int:
    past = _history(session, archive=any(unit.join for unit in progress.units))
    shelves = [await read_shelf(past.store, n, replay.days) for n in range(session.partitions)] if past else []
    return events_left(progress, shelves)


def _json(fields: dict[str, object]) -> bytes:
    return msgspec.json.encode({"schema": SCHEMA, **fields})


def _bits(result: Diff) -> dict[str, object]:
    return {
        "windows": result.windows,
        "fields": result.fields,
        "left_out": result.left_out,
        "apart": result.apart,
        "causes": result.causes,
        "differences": result.differences,
    }
