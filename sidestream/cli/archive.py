"""`sidestream archive`: the segments in a folder or an object store."""

import time
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from consumers.archive.store import ArchiveStore, StoredSegment
from consumers.archive.survey import Checked, PartitionShelf, check, older_than, shelves
from pipeline.errors import SettingsError
from pipeline.units import parse_duration_s
from sidestream.archive_settings import ArchiveSettings, load_archive_settings
from sidestream.cli.human import NOTHING, counted, instant, size
from sidestream.cli.session import EXIT_FINDING, AsJson, Namespace, console, environment, print_json, run_async
from sidestream.settings import ARCHIVE_VARIABLES, load_settings

app = typer.Typer(no_args_is_help=True, help="The archive: what lay on the streams, in a folder or an object store.")

SCHEMA: Final = "sidestream.archive/1"

Url = Annotated[
    str | None, typer.Option("--url", help="Where it is: file:///folder, s3://…; default SIDESTREAM_ARCHIVE_URL.")
]


@app.command("ls")
def list_segments(*, url: Url = None, as_json: AsJson = False, namespace: Namespace = None) -> None:
    """List what each partition has: segments, their size, from when to when.

    Needs no Redis.
    """

    async def command() -> int:
        store, _ = _open(url, namespace)
        rows = await shelves(store)
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "url": store.url, "partitions": rows}))
        elif rows:
            console().print(_table(rows))
        else:
            console().print(f"The archive of {store.namespace} at {store.url} is empty.", markup=False)
        return 0

    run_async(command)


@app.command("verify")
def verify(*, url: Url = None, as_json: AsJson = False, namespace: Namespace = None) -> None:
    """Read every segment: name what is damaged, missing or doubled, and files that are no segment.

    Needs no Redis. Exit code 1 where something is damaged or missing.
    """

    async def command() -> int:
        store, _ = _open(url, namespace)
        found = [checked async for checked in check(store)]
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "url": store.url, "checked": found}))
        else:
            _print_checked(store, found)
        bad = any(finding.what in {"damaged", "missing"} for checked in found for finding in checked.findings)
        return EXIT_FINDING if bad else 0

    run_async(command)


@app.command("prune")
def prune(
    *,
    older: Annotated[
        str | None,
        typer.Option("--older-than", help="Such as 400d; default `keep` of [archive], SIDESTREAM_ARCHIVE_KEEP."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would go.")] = False,
    url: Url = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
) -> None:
    """Delete segments whose last entry was appended long ago. It cannot be undone.

    Needs no Redis.
    """

    async def command() -> int:
        store, settings = _open(url, namespace)
        before_ms = int((time.time() - _older_s(older, settings)) * 1_000)
        gone: list[StoredSegment] = []
        for partition in await store.partitions():
            segments, _ = await store.segments(partition)
            gone += older_than(segments, before_ms)
        for segment in gone if yes else ():
            await store.delete(segment.partition, segment.name)
        total = sum(segment.size for segment in gone)
        if as_json:
            names = [f"{segment.partition:04d}/{segment.name}" for segment in gone]
            print_json(
                msgspec.json.encode(
                    {"schema": SCHEMA, "url": store.url, "done": yes, "bytes": total, "segments": names}
                )
            )
        else:
            what = f"{counted(len(gone), 'segment')}, {size(total)}, of before {instant(before_ms / 1_000)}"
            console().print(f"{'Deleted' if yes else 'Would delete'} {what}.", markup=False)
            if gone and not yes:
                console().print("Nothing has been changed; --yes does it.")
        return 0

    run_async(command)


def _open(url: str | None, namespace: str | None) -> tuple[ArchiveStore, ArchiveSettings]:
    environ = environment() | ({ARCHIVE_VARIABLES["url"]: url} if url else {})
    settings = load_archive_settings(environ)
    if not settings.url:
        raise SettingsError("there is no archive: set SIDESTREAM_ARCHIVE_URL, or say where it is with --url")
    given = {"namespace": namespace} if namespace is not None else {}
    return ArchiveStore(settings.url, load_settings(given, environ, place="--{}").publish.namespace), settings


def _older_s(older: str | None, settings: ArchiveSettings) -> int:
    if older is None:
        return settings.keep_s
    try:
        return parse_duration_s(older)
    except ValueError as error:
        raise SettingsError(f"--older-than: {error}") from None


def _table(rows: Sequence[PartitionShelf]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("PARTITION", "SEGMENTS", "SIZE", "FROM", "TO", "SET ASIDE", "LEFTOVERS"):
        table.add_column(name, overflow="fold", justify="left" if name in {"FROM", "TO"} else "right")
    for row in rows:
        table.add_row(
            str(row.partition),
            f"{row.segments:,}",
            size(row.bytes),
            NOTHING if row.first_ms is None else instant(row.first_ms / 1_000),
            NOTHING if row.last_ms is None else instant(row.last_ms / 1_000),
            f"{row.aside:,}",
            f"{row.leftovers:,}",
        )
    return table


def _print_checked(store: ArchiveStore, found: Sequence[Checked]) -> None:
    out = console()
    for checked in found:
        for one in checked.findings:
            out.print(f"{one.what}: partition {one.partition}, {one.where}: {one.why}", markup=False)
    segments, entries, events = (
        sum(getattr(checked, what) for checked in found) for what in ("segments", "entries", "events")
    )
    what = f"{counted(segments, 'segment')}, {counted(entries, 'entry', 'entries')}, {counted(events, 'event')}"
    findings = sum(len(checked.findings) for checked in found)
    end = f"{counted(findings, 'finding')}." if findings else "each as it was written."
    out.print(f"{store.namespace} at {store.url}: {what}; {end}", markup=False)
