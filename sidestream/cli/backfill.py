"""`sidestream backfill`: events from files, long after they happened."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from consumers.alerts.watermark import read_watermark
from consumers.archive.archive import SegmentArchive
from consumers.archive.store import ArchiveStore
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.removal import holders
from consumers.views.captured import captured_hours
from pipeline.errors import SidestreamError
from pipeline.units import US_PER_S
from pipeline.wire import StoredEntry
from producers.backfill.feeding import Feeder
from producers.backfill.framing import Framer
from producers.backfill.holdings import Holdings
from producers.backfill.lookups import agree_routing, read_holdings
from producers.backfill.pace import Pace
from producers.backfill.running import FileDone, Rules, Run
from producers.backfill.sources import Source
from producers.backfill.survey import survey
from producers.pseudonyms import Pseudonyms
from sidestream.archive_settings import load_archive_settings
from sidestream.cli.backfill_text import Found, fed_json, found_json, say_bad, say_fed, say_found, say_refused
from sidestream.cli.progress import shown_progress
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    Session,
    console,
    environment,
    open_session,
    print_json,
    run_until_interrupted,
)
from sidestream.settings import load_settings

_FOLDS: Final = ("metrics", "cost")
_LONG_S: Final = 10.0
_MS_PER_S: Final = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say."""

    files: Sequence[Path]
    source: str
    dry: bool
    only_missing: bool
    rate: int | None
    as_json: bool


def backfill(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON lines, CSV, or archive segments.")],
    *,
    source: Annotated[
        str, typer.Option(help="Whose ids these are: the same id of another source is another event.")
    ] = "",
    dry: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, feed nothing.")] = False,
    only_missing: Annotated[
        bool,
        typer.Option("--only-missing", help="Of hours that were captured live, feed what ids show to be missing."),
    ] = False,
    rate: Annotated[int | None, typer.Option(min=1, help="Events a second at most.")] = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Feed events of the past from files: each counts once, however often it is fed.

    Exit code 1 where lines could not be taken, or where the files are refused.
    """
    asked = Asked(files, source, dry, only_missing, rate, as_json)

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            return await _Command(session, asked, environment(), namespace).run()

    run_until_interrupted(command)


class _Command:
    """One run of the command."""

    def __init__(self, session: Session, asked: Asked, environ: Mapping[str, str], namespace: str | None) -> None:
        self._session = session
        self._asked = asked
        self._environ = environ
        given = {"namespace": namespace} if namespace is not None else {}
        self._publish = load_settings(given, environ, place="--{}").publish

    async def run(self) -> int:
        """Look, say what there is, feed, and say what became of it."""
        session, asked = self._session, self._asked
        seconds, microseconds = await session.server.call("TIME")
        now_us = int(seconds) * US_PER_S + int(microseconds)
        found = await self._surveyed(now_us)
        versions = await read_versions(session.server, session.keys)
        reader = StateReader(session.server, session.keys, session.partitions, versions)
        found.captured = await captured_hours(reader, found.total.hours, int(seconds))
        refused = bool(found.captured) and not asked.only_missing
        if not asked.as_json:
            say_found(found, session.partitions)
        if refused or asked.dry:
            return self._left_alone(found, refused=refused)
        return await self._feed(found, now_us)

    def _left_alone(self, found: Found, *, refused: bool) -> int:
        """Say why nothing is fed."""
        say_bad([(str(source.path), line) for source, line in found.bad], found.total.bad)
        if self._asked.as_json:
            print_json(found_json(found, refused=refused))
        if refused:
            say_refused(found)
        elif not self._asked.as_json:
            console().print("Nothing has been changed; without --dry-run it is fed.")
        return EXIT_FINDING if refused or found.total.bad else 0

    async def _surveyed(self, now_us: int) -> Found:
        found = Found()
        found.sources = [Source.of(path) for path in {path.resolve(): path for path in self._asked.files}.values()]
        with shown_progress("lines read", 0) as told:
            for source in found.sources:
                before = found.total.read
                one, repeated, bad = await survey(source, now_us, self._asked.source, lambda n, m=before: told(m + n))
                found.total.add(one)
                found.repeated.append(repeated)
                found.bad += [(source, line) for line in bad]
        return found

    async def _feed(self, found: Found, now_us: int) -> int:
        session, asked = self._session, self._asked
        routed_by = await agree_routing(session.server, session.keys)
        framer = Framer(routed_by)
        behind_s = behind(session)
        feeder = Feeder(session.server, session.keys, framer, Pace(asked.rate), behind_s)
        run = Run(await self._rules(found, now_us), framer, feeder)
        files: list[FileDone] = []
        try:
            with shown_progress("lines fed", found.total.read) as told:
                for source, repeated in zip(found.sources, found.repeated, strict=True):
                    before = sum(one.read for one in files)
                    done = await run.feed(source, repeated, lambda one, n=before: told(n + one.read))
                    files.append(done)
        except SidestreamError as error:
            if not asked.as_json:
                say_fed(feeder.fed, files)
            again = f"{error}\nWhat was appended is known: the same command goes on from here."
            raise type(error)(again) from error
        say_bad([(one.path, line) for one in files for line in one.shown], sum(one.bad for one in files))
        if asked.as_json:
            print_json(fed_json(found, feeder.fed, files))
        else:
            say_fed(feeder.fed, files)
        return EXIT_FINDING if feeder.fed.lost or any(one.bad for one in files) else 0

    async def _rules(self, found: Found, now_us: int) -> Rules:
        session, publish = self._session, self._publish
        owners = found.total.owners
        archived = _archived(self._environ, session.keys.namespace)
        holdings = await read_holdings(session.server, session.keys, owners, archived) if owners else Holdings()
        key = publish.user_key
        return Rules(
            self._asked.source,
            now_us,
            holdings,
            found.captured,
            publish.redact,
            Pseudonyms(key) if key else None,
        )


def behind(session: Session) -> Callable[[], Awaitable[float]]:
    """Return what says how many seconds the folds that somebody runs are behind; 0 where nobody runs any.

    Where it is long, a person is told once what is waited for.
    """
    told = False

    async def behind_s() -> float:
        server, keys, partitions = session.server, session.keys, session.partitions
        versions = await read_versions(server, keys)
        units = {name: f"v{versions.base(name)}:{name}" for name in _FOLDS}
        run = [name for name, unit in units.items() if await holders(server, keys, partitions, unit)]
        mark = await read_watermark(server, keys, partitions, run, versions) if run else None
        late_s = (mark.now_ms - mark.at_ms) / _MS_PER_S if mark else 0.0
        nonlocal told
        if late_s > _LONG_S and not told:
            told = True
            sys.stderr.write(
                f"Feeding rests: {' and '.join(run)} are {late_s:.0f} s behind; see `sidestream status`.\n"
            )
        return late_s

    return behind_s


async def _archived(environ: Mapping[str, str], namespace: str) -> AsyncIterator[tuple[int, StoredEntry]]:
    """Iterate over all that the archive holds, where there is one."""
    settings = load_archive_settings(environ)
    if not settings.url:
        return
    store = ArchiveStore(settings.url, namespace, create=False)
    archive = SegmentArchive(store)
    for partition in await store.partitions():
        segments, _ = await store.segments(partition)
        for segment in segments:
            for entry in await archive.entries(partition, segment.name):
                yield partition, entry
