"""The composition root of the workers: the one place that names handlers, sinks and what they are made of."""

import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from consumers.alerts.engine import EVERY_S, AlertEngine
from consumers.alerts.rules import Rule
from consumers.archive.archive import SegmentArchive
from consumers.archive.store import ArchiveStore
from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.runtime.effects import ArchiveEffect, Effect, FoldEffect, SinkEffect
from consumers.runtime.housekeeping import EVERY_S as HOUSEKEEPING_EVERY_S
from consumers.runtime.housekeeping import Housekeeper, HousekeepingSettings
from consumers.runtime.run import Periodic
from consumers.sinks.export import ExportSink, from_environ, off_reason
from pipeline.connection import AsyncServer
from pipeline.errors import SettingsError
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from sidestream.archive_settings import ArchiveSettings, load_archive_settings

log = logging.getLogger("sidestream.worker")

HANDLERS: Final = ("metrics", "cost", "archive", "export", "alerts")
"""What a worker can run; all of them by default."""


@dataclass(frozen=True, slots=True)
class AlertOptions:
    """What alerts are checked: the rules, and seconds that events may come late."""

    rules: tuple[Rule, ...]
    grace_s: float


def parse_handlers(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of handlers.

    Raises:
        SettingsError: One of them does not exist, or none is named.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in HANDLERS:
            raise SettingsError(f"--handlers: there is no handler {name!r}; known are {', '.join(HANDLERS)}")
    if not names:
        raise SettingsError(f"--handlers: name at least one of {', '.join(HANDLERS)}")
    return names


def fold_effects(names: Sequence[str] = HANDLERS) -> list[Effect]:
    """Return the handlers that fold into state; a replay runs these alone."""
    effects: list[Effect] = []
    if "metrics" in names:
        effects.append(FoldEffect.of(MetricsHandler))
    if "cost" in names:
        effects.append(FoldEffect.of(cost_handler))
    return effects


def cost_handler() -> CostHandler:
    """Return the handler that prices requests, as any process of this installation has it: nothing is handed to it."""
    pricer = _pricer()
    return CostHandler(pricer, pricer.catalogue.version, pricer.book.hash)


def sink_effects(names: Sequence[str], environ: Mapping[str, str], namespace: str) -> list[Effect]:
    """Return the sinks and the archive, where they are asked for and configured; say once why one is not.

    Raises:
        SettingsError: A setting of one is wrong.
    """
    return [
        *(_archive(environ, namespace) if "archive" in names else []),
        *(_export(environ) if "export" in names else []),
    ]


def _archive(environ: Mapping[str, str], namespace: str) -> list[Effect]:
    settings = load_archive_settings(environ)
    if not settings.url:
        log.info("The archive is off; everything else runs", extra={"reason": "SIDESTREAM_ARCHIVE_URL is not set"})
        return []
    log.info("The archive is on", extra={"url": settings.url, "segment_age_s": settings.segment_age_s})
    return [ArchiveEffect(_segments(settings, namespace, create=True))]


def history(environ: Mapping[str, str], namespace: str) -> SegmentArchive | None:
    """Return the archive that replays begin with; None where none is configured.

    Raises:
        SettingsError: A setting of it is wrong.
    """
    settings = load_archive_settings(environ)
    return _segments(settings, namespace, create=False) if settings.url else None


def _segments(settings: ArchiveSettings, namespace: str, *, create: bool) -> SegmentArchive:
    store = ArchiveStore(settings.url, namespace, create=create)
    return SegmentArchive(store, segment_bytes=settings.segment_bytes, segment_age_s=settings.segment_age_s)


def _export(environ: Mapping[str, str]) -> list[Effect]:
    settings = from_environ(environ)
    if settings is None:
        log.info("Export is off; everything else runs", extra={"reason": off_reason(environ)})
        return []
    log.info("Export is on", extra={"endpoint": settings.endpoint, "sample_rate": settings.sample_rate})
    pricer = _pricer()
    return [SinkEffect(ExportSink(settings, price=lambda event: pricer.price(event).nano_usd))]


def effects_of(handlers: Sequence[str], environ: Mapping[str, str], namespace: str) -> dict[str, Effect]:
    """Return handlers and sinks by name, as a worker with this configuration has them; who is not here is not known."""
    return {effect.name: effect for effect in (*fold_effects(handlers), *sink_effects(handlers, environ, namespace))}


def periodic_tasks(
    names: Sequence[str],
    server: AsyncServer,
    keys: Keys,
    alerts: AlertOptions,
    housekeeping: HousekeepingSettings,
) -> list[Periodic]:
    """Return the tasks that one worker at a time repeats; whatever it runs, a worker can keep house."""

    def partitions() -> Awaitable[int]:
        return read_partitions(server, keys)

    keeper = Housekeeper(server, keys, housekeeping, partitions=partitions)
    lease = keys.housekeeping_lease()
    tasks = [Periodic("housekeeping", HOUSEKEEPING_EVERY_S, lease, keeper.run, keeper.presence)]
    if "alerts" in names:
        engine = AlertEngine(server, keys, alerts.rules, grace_s=alerts.grace_s, partitions=partitions)
        tasks.append(Periodic("alerts", EVERY_S, keys.alert_lease(), engine.run))
    return tasks


def _pricer() -> Pricer:
    return Pricer(Catalogue(), PriceBook())
