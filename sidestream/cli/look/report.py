"""`sidestream report`: tokens, cost, requests, errors and response times."""

from typing import Annotated, Final, get_args

import msgspec
import typer

from consumers.views.report import By, read_report
from consumers.views.report_json import report_json
from pipeline.errors import SettingsError
from sidestream.cli.look.filters import Agent, Environment, Model, Service, State, Tenant, where_of, why_nothing
from sidestream.cli.look.ranges import From, Since, Until, parse_range
from sidestream.cli.look.report_text import report_text
from sidestream.cli.session import AsJson, Namespace, Place, RedisUrl, console, open_session, print_json, run_async
from sidestream.cli.tables import wide_enough

BYS: Final[tuple[str, ...]] = get_args(By)


def report(
    *,
    since: Since = None,
    first: From = None,
    last: Until = None,
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
        dimension, asked = _dimension(by), parse_range(since, first, last)
        async with open_session(Place(namespace, redis_url)) as session:
            now_s = int((await session.server.call("TIME"))[0])
            since_s, until_s = asked.at(now_s)
            found = await read_report(
                session.server,
                session.keys,
                since_s=since_s,
                until_s=until_s,
                by=dimension,
                now_s=now_s,
                most=most,
                where=where,
            )
            why = await why_nothing(session.server, session.keys, where, found.asked, now_s) if found.empty else ""
        if as_json:
            print_json(report_json(found))
        else:
            out = wide_enough(console())
            out.print(report_text(found, out.width, why), crop=False)
        return 0

    run_async(command)


def _dimension(text: str) -> By:
    try:
        return msgspec.convert(text, By)
    except msgspec.ValidationError:
        raise SettingsError(f"--by: {text!r} is none of {', '.join(BYS)}") from None
