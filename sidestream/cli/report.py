"""`sidestream report`: tokens, cost, requests, errors and response times."""

from typing import Annotated, Final, get_args

import msgspec
import typer

from consumers.views.report import By, read_report
from consumers.views.report_json import report_json
from pipeline.errors import SettingsError
from pipeline.units import parse_duration_s
from sidestream.cli.filters import Agent, Environment, Model, Service, State, Tenant, where_of
from sidestream.cli.report_text import report_text
from sidestream.cli.session import AsJson, Namespace, Place, RedisUrl, console, open_session, print_json, run_async

BYS: Final[tuple[str, ...]] = get_args(By)


def report(
    *,
    since: Annotated[str, typer.Option(help="How far back: 30m, 24h, 7d.")] = "24h",
    by: Annotated[
        str, typer.Option(help=f"Break down by {', '.join(BYS[:-1])} or {BYS[-1]}.", autocompletion=lambda: BYS)
    ] = "agent",
    most: Annotated[int, typer.Option(min=1, max=200, help="How many rows of a list.")] = 10,
    agent: Agent = "",
    model: Model = "",
    state: State = "",
    service: Service = "",
    environment: Environment = "",
    tenant: Tenant = "",
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show what was spent, how fast answers came and what failed, and how complete the figures are.

    Filters narrow all figures but those lists that are kept with no other dimension; these say so. docs/report.md says
    what every word means, docs/report-json.md what --json has.
    """
    where = where_of(agent=agent, model=model, state=state, service=service, environment=environment, tenant=tenant)

    async def command() -> int:
        dimension, since_s = _dimension(by), since_of(since)
        async with open_session(Place(namespace, redis_url)) as session:
            now_s = int((await session.server.call("TIME"))[0])
            found = await read_report(
                session.server,
                session.keys,
                since_s=now_s - since_s,
                until_s=None,
                by=dimension,
                now_s=now_s,
                most=most,
                where=where,
            )
        if as_json:
            print_json(report_json(found))
        else:
            out = console()
            out.print(report_text(found, out.width))
        return 0

    run_async(command)


def _dimension(text: str) -> By:
    try:
        return msgspec.convert(text, By)
    except msgspec.ValidationError:
        raise SettingsError(f"--by: {text!r} is none of {', '.join(BYS)}") from None


def since_of(text: str) -> int:
    """Return the seconds that --since goes back.

    Raises:
        SettingsError: It is no duration, or none at all.
    """
    try:
        since_s = parse_duration_s(text)
    except ValueError as error:
        raise SettingsError(f"--since: {error}") from None
    if since_s == 0:
        raise SettingsError("--since: '0' covers no time; use 1m or more")
    return since_s
