"""`sidestream archive`: the segments in a folder or an object store."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.table import Table

from consumers.archive.store import ArchiveStore, StoredSegment
from consumers.archive.survey import Checked, PartitionShelf, check, older_than, shelves
from consumers.versions import Days
from pipeline.errors import SettingsError
from pipeline.units import parse_duration_s
from sidestream.archive_settings import ArchiveSettings, load_archive_settings
from sidestream.cli.days import FirstDay, LastDay, parse_days
from sidestream.cli.progress import shown_progress
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    console,
    environment,
    print_json,
    run_async,
    run_until_interrupted,
)
from sidestream.settings import ARCHIVE_VARIABLES, load_settings
from sidestream.wording.human import NOTHING, counted, harmless, instant, size

if TYPE_CHECKING:
    from consumers.archive.exporting import Exported

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


@app.command("export")
def export_archive(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go; made where it is not there.")],
    *,
    first: FirstDay = None,
    last: LastDay = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    url: Url = None,
    as_json: AsJson = False,
    namespace: Namespace = None,
) -> None:
    """Write events as Parquet, for DuckDB and polars: a file for each segment that has none yet.

    Needs no Redis, and the extra `parquet`. Exit code 1 where something cannot be read; the rest is written.
    """

    async def command() -> int:
        days = parse_days(first, last)
        store, _ = _open(url, namespace)
        partitions = await _asked_partitions(store, partition)
        with shown_progress("events written", 0) as told:
            found = [one async for one in _exporting(store, folder, partitions, days, told)]
        if as_json:
            about = {"schema": SCHEMA, "url": store.url, "folder": str(folder)}
            print_json(
                msgspec.json.encode({**about, "from_s": days.from_s, "until_s": days.until_s, "exported": found})
            )
        else:
            _print_exported(store, folder, found)
        return EXIT_FINDING if any(one.findings for one in found) else 0

    run_until_interrupted(command)


async def _asked_partitions(store: ArchiveStore, partition: int | None) -> Sequence[int]:
    there = await store.partitions()
    if partition is not None and partition not in there:
        known = ", ".join(map(str, there)) or "none"
        raise SettingsError(f"--partition {partition}: nothing of it is in the archive; there are {known}")
    return there if partition is None else [partition]


def _exporting(
    store: ArchiveStore, folder: Path, partitions: Sequence[int], days: Days, tell: Callable[[int], None]
) -> "AsyncIterator[Exported]":
    try:
        from consumers.archive.exporting import export  # noqa: PLC0415 - what it needs is an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise SettingsError(
            "export needs the extra 'parquet' (pyarrow is not installed): pip install 'sidestream[parquet]'"
        ) from error
    return export(store, folder, partitions, days, tell)


def _open(url: str | None, namespace: str | None) -> tuple[ArchiveStore, ArchiveSettings]:
    environ = environment() | ({ARCHIVE_VARIABLES["url"]: url} if url else {})
    settings = load_archive_settings(environ)
    if not settings.url:
        raise SettingsError("there is no archive: set SIDESTREAM_ARCHIVE_URL, or say where it is with --url")
    given = {"namespace": namespace} if namespace is not None else {}
    namespace = load_settings(given, environ, place="--{}").publish.namespace
    return ArchiveStore(settings.url, namespace, create=False), settings


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


def _print_exported(store: ArchiveStore, folder: Path, found: Sequence["Exported"]) -> None:
    for exported in found:
        for one in exported.findings:
            sys.stderr.write(harmless(f"{one.what}: partition {one.partition}, {one.where}: {one.why}") + "\n")
        if exported.unnamed:
            sys.stderr.write(f"partition {exported.partition}: and {counted(exported.unnamed, 'finding')} more\n")
    total = {
        what: sum(getattr(exported, what) for exported in found)
        for what in ("written", "events", "known", "bytes", "there", "passed", "unreadable", "damaged")
    }
    known = f" and {total['known']:,} known ones" if total["known"] else ""
    files = f"{counted(total['written'], 'file')}, {size(total['bytes'])}"
    ends = [
        f"wrote {counted(total['events'], 'event')}{known} in {files}",
        *([f"{counted(total['there'], 'file')} had it all already"] if total["there"] else []),
        *([f"{counted(total['passed'], 'segment')} had nothing for it"] if total["passed"] else []),
        *([f"{counted(total['unreadable'], 'event')} cannot be read"] if total["unreadable"] else []),
        *([f"{counted(total['damaged'], 'block')} damaged"] if total["damaged"] else []),
    ]
    console().print(f"{store.namespace} at {store.url}, to {folder}: {'; '.join(ends)}.", markup=False, soft_wrap=True)
