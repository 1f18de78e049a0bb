"""The command line: nouns and their verbs."""

from typing import Annotated

import typer

from sidestream.cli import alerts, archive, dlq, handler, replay, spool
from sidestream.cli.backfill import backfill
from sidestream.cli.dashboard import dashboard
from sidestream.cli.health import health
from sidestream.cli.purge import purge
from sidestream.cli.report import report
from sidestream.cli.states import states
from sidestream.cli.status import status
from sidestream.cli.tail import tail
from sidestream.cli.top import top
from sidestream.cli.worker import worker
from sidestream.version import VERSION

app = typer.Typer(
    name="sidestream",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="LLM telemetry beside the hot path: what is spent, how fast it answers, what fails.",
)
app.command()(worker)
app.command()(status)
app.command()(report)
app.command()(states)
app.command()(top)
app.command()(tail)
app.command()(dashboard)
app.command()(health)
app.command()(purge)
app.command()(backfill)
app.add_typer(alerts.app, name="alerts")
app.add_typer(archive.app, name="archive")
app.add_typer(dlq.app, name="dlq")
app.add_typer(handler.app, name="handler")
app.add_typer(replay.app, name="replay")
app.add_typer(spool.app, name="spool")


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
    """LLM telemetry beside the hot path: what is spent, how fast it answers, what fails."""


def run() -> None:
    """Run the command line."""
    app()
