"""`sidestream status`: who publishes, who consumes, what lies between, and whether every event is accounted for."""

from typing import Annotated

import msgspec
import typer

from consumers.alerts.store import read_alerts
from consumers.views.accounting import UnitAccount, read_unit_account
from consumers.views.status import Status, read_status
from sidestream.cli.look.namespaces import other_namespaces
from sidestream.cli.look.status_text import Look, status_text
from sidestream.cli.look.status_verdict import judged
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    Session,
    console,
    open_session,
    print_json,
    run_async,
)

SCHEMA = "sidestream.status/1"

_ANY_HANDLER = "metrics"
"""Where none was ever declared, everything is outstanding for any."""


def status(
    *,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="Show every partition of every handler, and its cursor.")
    ] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show producers, workers, handlers and their lag, and check that every event is accounted for.

    Exit code 1 when an event vanished or was counted twice, and when events have waited for more than 15 s that no
    living worker will take.
    """

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            look = await read_look(session)
        if as_json:
            print_json(_json(look))
        else:
            out = console()
            out.print(status_text(look, out.width, all_partitions=partitions))
        return EXIT_FINDING if look.standing.is_finding else 0

    run_async(command)


async def read_look(session: Session) -> Look:
    """Read everything that is shown, and judge it.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found = await read_status(session.server, session.keys, session.partitions)
    alerts = await read_alerts(session.server, session.keys)
    unread = await _unread(session, found)
    standing = judged(found, unread, session.keys.namespace)
    others = await other_namespaces(session.server, session.keys) if standing.verdict == "empty" else []
    return Look(found, alerts, standing, session.facts, session.shown_url, session.keys.namespace, others)


async def _unread(session: Session, found: Status) -> list[UnitAccount]:
    if found.accounts:
        return []
    places = [session.keys.partition(number) for number in range(session.partitions)]
    return [await read_unit_account(session.server, place, _ANY_HANDLER) for place in places]


def _json(look: Look) -> bytes:
    return msgspec.json.encode(
        {
            "schema": SCHEMA,
            "namespace": look.namespace,
            "verdict": look.standing.verdict,
            "sentence": look.standing.sentence,
            "waiting": look.standing.waiting,
            "other_namespaces": look.others,
            **msgspec.structs.asdict(look.status),
            "alerts": look.alerts,
        }
    )
