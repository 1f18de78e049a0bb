"""`sidestream worker`: consume, until SIGTERM or Ctrl-C."""

import logging
import signal
from pathlib import Path
from typing import Annotated

import anyio
import typer

from consumers.runtime.run import Worker, WorkerOptions
from pipeline.errors import SettingsError
from sidestream.cli.logs import log_to_stderr
from sidestream.cli.session import Namespace, Place, RedisUrl, environment, open_session, run_async
from sidestream.compose import HANDLERS, fold_effects, parse_handlers, periodic_tasks, sink_effects
from sidestream.settings import CONFIG_VARIABLE
from sidestream.version import VERSION
from sidestream.worker_settings import load_alert_options

log = logging.getLogger("sidestream.worker")

GRACE_S = 15.0
"""Seconds that a worker has, after SIGTERM, to finish what it has in hand."""


def worker(
    *,
    handlers: Annotated[str, typer.Option(help="Which handlers to run, separated by commas.")] = ",".join(HANDLERS),
    config: Annotated[
        Path | None, typer.Option(help="The file with rules; default SIDESTREAM_CONFIG, else ./sidestream.toml.")
    ] = None,
    adopt_recipe: Annotated[
        bool,
        typer.Option("--adopt-recipe", help="Go on where a newer version has counted: a deploy is rolled back."),
    ] = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Run consumers: aggregate metrics, price tokens, check alerts, export spans. Start as many as you like.

    SIGTERM or Ctrl-C: the worker finishes what it has in hand, hands its leases back and leaves.
    """

    async def command() -> int:
        names = parse_handlers(handlers)
        if config and not config.is_file():
            raise SettingsError(f"--config: there is no file {config}")
        environ = environment() | ({CONFIG_VARIABLE: str(config)} if config else {})
        alerts = load_alert_options(environ)
        async with open_session(Place(namespace, redis_url), environ) as session:
            effects = [*fold_effects(names), *sink_effects(names, environ)]
            tasks = periodic_tasks(names, session.server, session.keys, alerts)
            options = WorkerOptions(
                presence={"version": VERSION, "handlers": ",".join(names)},
                adopt_recipe=adopt_recipe,
                revive=session.revive,
            )
            carried = Worker(session.server, session.keys, effects, periodic=tasks, options=options)
            about = {"version": VERSION, "redis": session.shown_url, "namespace": session.keys.namespace}
            log.info("The worker starts; Ctrl-C or SIGTERM ends it", extra={**about, "handlers": ",".join(names)})
            await _run(carried)
            log.info("The worker has handed its units over", extra={"events": carried.statistics().events})
        return 0

    log_to_stderr()
    run_async(command)


async def _run(carried: Worker) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_stop_on_signal, carried, group.cancel_scope)
        await carried.run()
        group.cancel_scope.cancel()


async def _stop_on_signal(carried: Worker, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            carried.stop()
            # A second signal does not move the deadline.
            scope.deadline = min(scope.deadline, anyio.current_time() + GRACE_S)
