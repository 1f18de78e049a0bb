"""`sidestream session`: one session, event by event: where it stands, through which states it went, what happened."""

from typing import Annotated, Final

import typer

from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.views.report import Range
from consumers.views.states import states_of
from consumers.views.status import read_status
from consumers.views.timeline import TimelineFollower, read_session, stands
from consumers.views.timeline_json import one_session_json
from consumers.views.trend import read_range_cells
from consumers.windows import DAY_S
from pipeline.errors import SettingsError
from pipeline.limits import MAX_NAME_CHARS
from pipeline.units import US_PER_S
from sidestream.cli.look.one_session_text import session_text
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
from sidestream.cli.tables import wide_enough

MOST_SHOWN: Final = 50


def session(
    name: Annotated[str, typer.Argument(metavar="SESSION", help="The session's whole id.")],
    *,
    most: Annotated[int, typer.Option(min=1, max=2_000, help="How many events are listed, the newest.")] = MOST_SHOWN,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show one session: where it stands, what it cost, the states it went through, and what happened, newest first.

    It is told by the newest entries of the stream, as far back as they go; exit code 1 where they know nothing of it.
    """

    async def command() -> int:
        if len(name) > MAX_NAME_CHARS:
            raise SettingsError(f"SESSION: an id has {MAX_NAME_CHARS} characters at most")
        async with open_session(Place(namespace, redis_url)) as opened:
            server, keys = opened.server, opened.keys
            reader = StateReader(server, keys, opened.partitions, await read_versions(server, keys))
            look = await read_session(reader, TimelineFollower(server, keys, name))
            now_s = look.now_us // US_PER_S
            # How long sessions usually stay in a state decides whether this one has stayed for long.
            cells = await read_range_cells(reader, Range(now_s - DAY_S, now_s + 1), now_s)
            status = await read_status(server, keys, opened.partitions)
        open_now = [row for row in status.in_flight if row.operation.session == name]
        row = stands(look, states_of(cells.of_metrics, cells.of_cost), open_now)
        if as_json:
            print_json(one_session_json(keys.namespace, look, row, open_now))
        else:
            out = wide_enough(console())
            out.print(session_text(look, row, open_now, width=out.width, most=most))
        return EXIT_FINDING if row is None and look.counted is None else 0

    run_async(command)
