"""`sidestream archive`, as an operator types it; no Redis is there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from consumers.archive.archive import SegmentArchive
from consumers.archive.store import ArchiveStore
from pipeline.segments import Archived
from pipeline.wire import StoredEntry

TIMEOUT_S = 60
PRODUCER = b"ab" * 16
NOW_MS = time.time_ns() // 1_000_000
DAY_MS = 86_400_000


def entry(number: int, at_ms: int) -> Archived:
    """Return an entry of two events."""
    fields = {b"p": PRODUCER, b"s": b"%d" % (2 * number), b"n": b"2", b"c": b"json", b"b": b"{}"}
    return Archived(StoredEntry(f"{at_ms}-0", fields), at_ms * 1_000, at_ms * 1_000)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a folder with three segments, a day apart each."""

    async def fill() -> None:
        segments = SegmentArchive(ArchiveStore((tmp_path / "archive").as_uri(), "cli"))
        for number in range(3):
            at_ms = NOW_MS - (3 - number) * DAY_MS
            await segments.put(0, [entry(2 * number, at_ms), entry(2 * number + 1, at_ms + 1)])

    anyio.run(fill)
    return tmp_path / "archive"


def typed(*arguments: str, url: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command line."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("SIDESTREAM_")}
    env = {**given, "COLUMNS": "200", "SIDESTREAM_ARCHIVE_URL": url, "SIDESTREAM_NAMESPACE": "cli", **environ}
    line = [sys.executable, "-m", "sidestream", "archive", *arguments]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON that a command printed."""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "sidestream.archive/1"
    return found


def segments(archive: Path) -> list[Path]:
    """Return the segments' files, in their order."""
    return sorted((archive / "cli" / "0000").glob("*.seg"))


def test_what_is_there_is_listed_and_verified(archive: Path) -> None:
    """From when to when, and that it is what was written."""
    done = typed("ls", url=str(archive))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[:2] == ["0", "3"]
    (shelf,) = document(typed("ls", "--json", url=str(archive)))["partitions"]
    assert (shelf["segments"], shelf["first_ms"], shelf["last_ms"]) == (3, NOW_MS - 3 * DAY_MS, NOW_MS - DAY_MS + 1)
    done = typed("verify", url=str(archive))
    assert done.returncode == 0
    assert "3 segments, 6 entries, 12 events; each as it was written." in done.stdout


def test_damage_is_a_finding_with_its_place(archive: Path) -> None:
    """A changed byte, a segment that is gone, a file that is none."""
    first, second, third = segments(archive)
    data = bytearray(third.read_bytes())
    data[40] ^= 1
    third.write_bytes(data)
    second.unlink()
    third.with_name("README").write_text("?")
    done = typed("verify", url=str(archive))
    assert done.returncode == 1
    assert f"damaged: partition 0, {third.name}: block 1 of 1" in done.stdout
    assert "leftover: partition 0, cli/0000/README" in done.stdout
    third.write_bytes(bytes(data[:40]) + bytes([data[40] ^ 1]) + bytes(data[41:]))
    (checked,) = document(typed("verify", "--json", url=str(archive)))["checked"]
    assert [finding["what"] for finding in checked["findings"]] == ["leftover", "missing"]
    assert checked["findings"][1]["why"].startswith("4 events of producer abab")
    assert first.exists()


def test_only_what_is_old_goes_and_only_on_purpose(archive: Path) -> None:
    """A dry run first."""
    before = segments(archive)
    done = typed("prune", "--older-than", "36h", url=str(archive))
    assert done.returncode == 0
    assert "Would delete 2 segments" in done.stdout
    assert "Nothing has been changed; --yes does it." in done.stdout
    assert segments(archive) == before
    assert "Deleted 2 segments" in typed("prune", "--older-than", "36h", "--yes", url=str(archive)).stdout
    assert segments(archive) == before[2:]
    assert "Would delete 0 segments" in typed("prune", url=str(archive)).stdout


@pytest.mark.parametrize(
    ("arguments", "url", "sentence"),
    [
        (("ls",), "", "there is no archive: set SIDESTREAM_ARCHIVE_URL, or say where it is with --url"),
        (("ls", "--url", "s4://x"), "", "archive url 's4://x': "),
        (("prune", "--older-than", "old"), "memory:///", "--older-than: "),
        (("ls", "--namespace", "No Such"), "memory:///", "--namespace: "),
        (("export", "out", "--namespace", "../out"), "memory:///", "--namespace: "),
        (("export", "out", "--from", "1.11."), "memory:///", "--from '1.11.': a day is written like 2026-11-01"),
        (("export", "out", "--partition", "7"), "memory:///", "--partition 7: nothing of it is in the archive"),
    ],
)
def test_what_is_typed_wrongly_is_said(arguments: tuple[str, ...], url: str, sentence: str) -> None:
    """In one line, with exit code 2."""
    done = typed(*arguments, url=url)
    assert done.returncode == 2
    assert done.stderr.startswith(f"sidestream: {sentence}")
    assert len(done.stderr.strip().splitlines()) == 1


def test_events_are_exported_and_what_cannot_be_read_is_named(archive: Path, tmp_path: Path) -> None:
    """On standard error, with exit code 1; what is there already is left alone."""
    at_ms = NOW_MS - DAY_MS // 2
    body = b'{"events": [{"event": "usage", "time_us": %d}]}' % (at_ms * 1_000)
    good = Archived(StoredEntry(f"{at_ms}-0", {b"c": b"json", b"b": body}), at_ms * 1_000, at_ms * 1_000)
    anyio.run(SegmentArchive(ArchiveStore(archive.as_uri(), "cli")).put, 3, [good])
    done = typed("export", str(tmp_path / "[red] out"), url=str(archive))
    assert done.returncode == 1
    assert done.stdout.startswith(f"cli at {archive.as_uri()}, to {tmp_path}/[red] out: wrote 1 event in 1 file, ")
    assert "; 3 segments had nothing for it; 12 events cannot be read." in done.stdout
    told = done.stderr.splitlines()
    assert len(told) == 6
    assert told[0].startswith(f"unreadable: partition 0, {segments(archive)[0].name}: entry ")
    (file,) = (tmp_path / "[red] out" / "cli").rglob("*.*")
    assert str(file.relative_to(tmp_path)) == f"[red] out/cli/partition=03/{at_ms}-0_{at_ms}-0.parquet"
    arguments = ("export", str(tmp_path / "[red] out"), "--partition", "3", "--to", "2200-01-01", "--json")
    done = typed(*arguments, url=str(archive))
    assert (done.returncode, done.stderr) == (0, "")
    found = document(done)
    assert (found["from_s"], found["until_s"]) == (0, 7_258_204_800)
    (exported,) = found["exported"]
    assert (exported["partition"], exported["there"], exported["written"], exported["findings"]) == (3, 1, 0, [])


def test_export_says_which_extra_it_needs(archive: Path, tmp_path: Path) -> None:
    """Everything else of the archive works without."""
    code = "import sys; sys.modules['pyarrow'] = None; from sidestream.__main__ import main; main()"
    line = [sys.executable, "-c", code, "archive", "export", str(tmp_path / "out"), "--url", str(archive)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "sidestream: export needs the extra 'parquet' (pyarrow is not installed): pip install 'sidestream[parquet]'\n"
    )


def test_an_empty_archive_says_so(tmp_path: Path) -> None:
    """One that is not there is no empty one: whoever only looks makes no folder."""
    done = typed("ls", url=str(tmp_path / "none"))
    assert (done.returncode, "there is no such folder" in done.stderr) == (2, True)
    (tmp_path / "none").mkdir()
    assert "is empty" in typed("ls", url=str(tmp_path / "none")).stdout
    assert document(typed("ls", "--json", url=str(tmp_path / "none")))["partitions"] == []
