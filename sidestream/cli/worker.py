"""`sidestream worker`: consume, until SIGTERM or Ctrl-C."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from consumers.runtime.run import Worker, WorkerOptions
from pipeline.errors import SettingsError
from sidestream.cli.logs import log_to_stderr
from sidestream.cli.session import (
    HealthHost,
    HealthPort,
    Namespace,
    Place,
    RedisUrl,
    environment,
    open_session,
    run_async,
)
from sidestream.cli.signals import until_signal
from sidestream.compose import HANDLERS, fold_effects, history, parse_handlers, periodic_tasks, sink_effects
from sidestream.health_endpoint import HealthEndpoint
from sidestream.health_settings import HealthSettings, load_health_settings
from sidestream.settings import CONFIG_VARIABLE
from sidestream.version import VERSION
from sidestream.worker_settings import load_alert_options, load_housekeeping_settings

log = logging.getLogger("sidestream.worker")


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
    health_port: HealthPort = None,
    health_host: HealthHost = None,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Run consumers: aggregate metrics, price tokens, check alerts, export spans. Start as many as you like.

    SIGTERM or Ctrl-C: the worker finishes what it has in hand, hands its leases back and leaves. Exit code 0; another
    where it cannot work at all: 2 a wrong setting, 3 Redis cannot be used, or belongs to a newer version.
    """

    async def command() -> int:
        names = parse_handlers(handlers)
        if config and not config.is_file():
            raise SettingsError(f"--config: there is no file {config}")
        environ = environment() | ({CONFIG_VARIABLE: str(config)} if config else {})
        alerts = load_alert_options(environ)
        housekeeping = load_housekeeping_settings(environ)
        given = {"health_port": health_port, "health_host": health_host}
        health = load_health_settings(environ, {name: value for name, value in given.items() if value is not None})
        async with open_session(Place(namespace, redis_url), environ) as session:
            effects = [*fold_effects(names), *sink_effects(names, environ, session.keys.namespace)]
            archives = "archive" in names
            tasks = periodic_tasks(names, session.server, session.keys, alerts, housekeeping)
            options = WorkerOptions(
                presence={"version": VERSION, "handlers": ",".join(names)},
                adopt_recipe=adopt_recipe,
                revive=session.revive,
                stuck_after_s=health.stuck_after_s,
                history=history(environ, session.keys.namespace) if archives else None,
            )
            carried = Worker(session.server, session.keys, effects, periodic=tasks, options=options)
            about = {"version": VERSION, "redis": session.shown_url, "namespace": session.keys.namespace}
            log.info("The worker starts; Ctrl-C or SIGTERM ends it", extra={**about, "handlers": ",".join(names)})
            with _health_endpoint(health, carried):
                await until_signal(carried.run, carried.stop)
            log.info("The worker has handed its units over", extra={"events": carried.statistics().events})
        return 0

    log_to_stderr()
    run_async(command)


@contextmanager
def _health_endpoint(settings: HealthSettings, carried: Worker) -> Generator[None]:
    if settings.port is None:
        yield
        return
    about = {"worker": carried.options.name, "version": VERSION}
    with HealthEndpoint(settings.host, settings.port, carried.health, about):
        log.info("Health is told", extra={"url": f"http://{settings.host}:{settings.port}/health"})
        yield
