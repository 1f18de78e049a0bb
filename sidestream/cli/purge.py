"""`sidestream purge`: remove every key of a namespace."""

from typing import Annotated

import typer

from consumers.removal import purge as purge_namespace
from consumers.removal import survey_namespace, workers_alive
from consumers.views.status import SILENT_MS
from pipeline.presence import read_presences
from sidestream.cli.removals import print_survey, removal_json
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Place,
    RedisUrl,
    Session,
    console,
    fail,
    open_session,
    print_json,
    run_async,
)
from sidestream.wording.human import counted


def purge(
    *,
    namespace: Annotated[str, typer.Option("--namespace", help="Which namespace; it must be named.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Though producers or workers of it are alive.")] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Remove every key of a namespace: stream, state, dead letters, presence. It cannot be undone.

    Exit code 1 while workers or producers of it are alive.
    """

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            return await _purge(session, yes=yes, force=force, as_json=as_json)

    run_async(command)


async def _purge(session: Session, *, yes: bool, force: bool, as_json: bool) -> int:
    survey = await survey_namespace(session.server, session.keys)
    held_by = [] if force else await _alive(session)
    done = yes and not held_by
    if done:
        await purge_namespace(session.server, session.keys)
    name = session.keys.namespace
    if as_json:
        print_json(removal_json(name, survey, done=done, held_by=held_by))
    else:
        out = console()
        out.print(
            f"{'Removed' if done else 'Would remove'} namespace {name}, {counted(survey.keys, 'key')}:", markup=False
        )
        print_survey(out, survey)
    if held_by:
        fail(f"{name} is alive: {', '.join(held_by)}; stop that first, or add --force", EXIT_FINDING)
    if not (done or as_json):
        console().print("Nothing has been changed; --yes does it.")
    return 0


async def _alive(session: Session) -> list[str]:
    seconds, microseconds = await session.server.call("TIME")
    now_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
    producers = [
        f"producer {presence.service or presence.producer} {presence.instance}".rstrip()
        for presence in await read_presences(session.server, session.keys)
        if not presence.closed and now_ms - presence.at_ms <= SILENT_MS
    ]
    return [*(f"worker {name}" for name in await workers_alive(session.server, session.keys)), *producers]
