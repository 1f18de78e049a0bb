"""The command line: nouns and their verbs."""

from typing import Annotated, Final

import typer

from sidestream.cli import alerts, archive, dlq, handler, replay, spool
from sidestream.cli.backfill import backfill
from sidestream.cli.dashboard import dashboard
from sidestream.cli.health import health
from sidestream.cli.look.one_session import session
from sidestream.cli.look.report import report
from sidestream.cli.look.states import states
from sidestream.cli.look.status import status
from sidestream.cli.look.tail import tail
from sidestream.cli.look.top import top
from sidestream.cli.purge import purge
from sidestream.cli.worker import worker
from sidestream.version import VERSION

app = typer.Typer(
    name="sidestream",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_LOOK: Final = "Look"
_RUN: Final = "Run"
_MEND: Final = "Mend"
_HISTORY: Final = "History"

for _command in (report, top, states, session, status, tail):
    app.command(rich_help_panel=_LOOK)(_command)
app.add_typer(alerts.app, name="alerts", rich_help_panel=_LOOK)
for _command in (worker, dashboard, health):
    app.command(rich_help_panel=_RUN)(_command)
app.add_typer(dlq.app, name="dlq", rich_help_panel=_MEND)
app.add_typer(spool.app, name="spool", rich_help_panel=_MEND)
app.add_typer(handler.app, name="handler", rich_help_panel=_MEND)
app.command(rich_help_panel=_MEND)(purge)
app.add_typer(archive.app, name="archive", rich_help_panel=_HISTORY)
app.add_typer(replay.app, name="replay", rich_help_panel=_HISTORY)
app.command(rich_help_panel=_HISTORY)(backfill)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"sidestream {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """LLM telemetry beside the hot path: what is spent, how fast it answers, what fails.

    Begin with `sidestream worker`, then `sidestream report`, or keep `sidestream top` open. Commands find Redis by
    --redis-url or SIDESTREAM_REDIS_URL. Exit codes: 0 fine, 1 a finding, 2 used wrongly, 3 Redis cannot be used, 4 what
    is printed cannot be written.
    """


def run() -> None:
    """Run the command line."""
    app()
