"""`sidestream spool`: frames on this machine's disk that Redis has not got yet."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import anyio.to_thread
import msgspec
import typer
from msgspec import Struct
from rich.table import Table

from pipeline.connection import RedisSettings, Server
from pipeline.errors import SettingsError, SidestreamError
from pipeline.keys import Keys
from producers.spool_file import SUFFIX, Owner, SpoolFile, disk_bytes, has_owner, last_word, spool_files
from producers.spool_recovery import Recovered, Recovery, drain
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    console,
    environment,
    open_session,
    print_json,
    run_async,
)
from sidestream.settings import load_settings
from sidestream.wording.human import NOTHING, counted, duration, shown

app = typer.Typer(no_args_is_help=True, help="The spool: frames on this machine's disk that Redis has not got yet.")

SCHEMA: Final = "sidestream.spool/1"

Folder = Annotated[Path | None, typer.Option("--dir", help="The spool's folder; default SIDESTREAM_SPOOL_DIR.")]


class SpoolRow(Struct, frozen=True):
    """One file.

    `state` is `alive` (its producer runs), `waiting` (its producer is gone: the next process, or `recover`, sends it),
    or why its frames are never sent: `expired`, `refused`, `broken`. `frames` and `events` are null where the file
    cannot be read; of a living producer they are what it said last. `age_s` is that of the oldest frame.
    """

    path: str
    producer: str
    service: str
    instance: str
    pid: int
    state: str
    frames: int | None
    events: int | None
    bytes: int
    age_s: int | None


@app.command("ls")
def list_files(
    *, folder: Folder = None, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None
) -> None:
    """List the spool's files: whose they are, what they hold, whether their producer is alive.

    Needs no Redis. Exit code 1 when a file holds frames that are never sent.
    """

    async def command() -> int:
        rows = read_spool(_folder(Place(namespace, redis_url), folder))
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "files": rows}))
        elif rows:
            console().print(_table(rows))
        else:
            console().print("The spool is empty.")
        return EXIT_FINDING if any(row.state not in {"alive", "waiting"} for row in rows) else 0

    run_async(command)


@app.command("recover")
def recover(
    *, folder: Folder = None, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None
) -> None:
    """Send now what producers left that are gone; each event arrives once, whoever sends it.

    Exit code 1 when something could not be sent.
    """

    async def command() -> int:
        place = Place(namespace, redis_url)
        where = _folder(place, folder)
        async with open_session(place) as session:
            done = await anyio.to_thread.run_sync(lambda: _drained(session.url, session.keys, where))
        left = [row for row in read_spool(where) if row.state != "alive"]
        if as_json:
            print_json(msgspec.json.encode({"schema": SCHEMA, "recovered": done, "left": left}))
        else:
            _print_recovered(done, left)
        return EXIT_FINDING if any(one.aside for one in done) or left else 0

    run_async(command)


def _folder(place: Place, folder: Path | None) -> Path:
    given = {
        "namespace": place.namespace,
        "redis_url": place.redis_url,
        "spool_dir": str(folder) if folder is not None else None,
    }
    settings = load_settings({name: value for name, value in given.items() if value is not None}, environment())
    if not settings.publish.spool_dir:
        raise SettingsError("there is no spool: set SIDESTREAM_SPOOL_DIR, or name its folder with --dir")
    return Path(settings.publish.spool_dir).expanduser() / settings.publish.namespace


def _drained(url: str, keys: Keys, folder: Path) -> list[Recovered]:
    server = Server(RedisSettings(url))
    try:
        return drain(Recovery(folder, keys), server)
    finally:
        server.close()


def read_spool(folder: Path) -> list[SpoolRow]:
    """Read what is in a namespace's spool; a file whose producer is gone is held for the moment of the look."""
    kept = sorted(path for path in folder.glob(f"*{SUFFIX}.*") if not path.name.endswith(("-wal", "-shm", "-journal")))
    return [_live_or_waiting(path) for path in spool_files(folder)] + [_kept(path) for path in kept]


def _live_or_waiting(path: Path) -> SpoolRow:
    alive = has_owner(path)
    said = last_word(path) if alive else _looked_into(path)
    return SpoolRow(
        path=str(path),
        producer=path.name.removesuffix(SUFFIX),
        service=said.service if said else "",
        instance=said.instance if said else "",
        pid=said.pid if said else 0,
        state="alive" if alive else "waiting",
        frames=said.frames if said else None,
        events=said.events if said else None,
        bytes=disk_bytes(path),
        age_s=_age_s(said.oldest_ms) if said else None,
    )


def _looked_into(path: Path) -> Owner | None:
    try:
        file = SpoolFile.adopt(path)
        if file is None:
            return last_word(path)
        try:
            file.check()
            totals = file.totals()
            found = file.owner()
        finally:
            file.close()
    except SidestreamError:
        return None
    return msgspec.structs.replace(
        found, frames=totals.frames, events=totals.events, oldest_ms=totals.oldest_ms if totals.frames else 0
    )


def _kept(path: Path) -> SpoolRow:
    producer, _, reason = path.name.partition(f"{SUFFIX}.")
    return SpoolRow(str(path), producer, "", "", 0, reason, None, None, disk_bytes(path), None)


def _age_s(oldest_ms: int) -> int | None:
    return max(0, int(time.time() - oldest_ms / 1000)) if oldest_ms else None


def _table(rows: Sequence[SpoolRow]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("PRODUCER", "SERVICE", "INSTANCE", "STATE", "FRAMES", "EVENTS", "KIB", "AGE"):
        table.add_column(name, overflow="fold", justify="right" if name in {"FRAMES", "EVENTS", "KIB"} else "left")
    for row in rows:
        table.add_row(
            shown(row.producer),
            shown(row.service),
            shown(row.instance),
            row.state,
            NOTHING if row.frames is None else f"{row.frames:,}",
            NOTHING if row.events is None else f"{row.events:,}",
            f"{row.bytes // 1024:,}",
            NOTHING if row.age_s is None else duration(row.age_s * 1_000_000),
            style="dim" if row.state == "alive" else "" if row.state == "waiting" else "red",
        )
    return table


def _print_recovered(done: Sequence[Recovered], left: Sequence[SpoolRow]) -> None:
    out = console()
    for one in done:
        out.print(f"{one.producer}  {one.service}: {counted(one.events, 'event')} sent", markup=False)
        if one.aside:
            out.print(f"  {counted(one.aside, 'event')} can never be sent; kept in {one.kept}", markup=False)
    if not done:
        out.print("Nothing waits in the spool.")
    for row in left:
        out.print(f"{row.state}: {row.path}", style="yellow", markup=False)
