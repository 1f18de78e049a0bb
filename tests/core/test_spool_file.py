"""The spool's file and the delivery's three runs of frames: bounded, torn, full, inherited, without any server."""

import os
import random
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import SidestreamError, UnreachableError
from pipeline.presence import Presence
from pipeline.stream import Appended, SealedFrame
from producers.delivery import MAX_OUTSTANDING_FRAMES, Delivery, Sending
from producers.spool import LEAST_BYTES, SPOOL_AGE_S, Spool, SpoolSettings, read_back
from producers.spool_file import Owner, SpoolError, SpoolFile, SpoolFullError, StoredFrame, has_owner, spool_files
from producers.spool_recovery import restated

PRODUCER = "ab" * 16
OWNER = Owner(PRODUCER, "test", "deckster")
LIMIT_BYTES = 4 << 20


def frame(ordinal: int, body: bytes = b"x" * 1000) -> StoredFrame:
    """Return the frame sealed as number `ordinal`, from 1, ten events each."""
    return StoredFrame(ordinal, 1_000 + ordinal, SealedFrame(0, PRODUCER, 10 * (ordinal - 1), 10, "mz", body))


def written(folder: Path, count: int, body: bytes = b"x" * 1000) -> Path:
    """Leave a file of `count` frames, each in a write of its own, as a killed process leaves it: with its log."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[3]); from test_spool_file import *\n"
        "file = SpoolFile.create(Path(sys.argv[1]), OWNER, LIMIT_BYTES)\n"
        "for n in range(int(sys.argv[2])): file.write([frame(n + 1)], trim_to=0, sync=True)\n"
        "os._exit(0)"
    )
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, str(folder), str(count), here], check=True)
    (path,) = spool_files(folder)
    return path


def adopted(path: Path) -> SpoolFile:
    """Take a file that must be free."""
    file = SpoolFile.adopt(path)
    assert file is not None
    return file


def filled(file: SpoolFile) -> int:
    """Write frames until there is no room; return how many were taken."""
    for count in range(1000):
        try:
            file.write([frame(count + 1, os.urandom(30_000))], trim_to=0, sync=count % 2 == 0)
        except SpoolFullError:
            return count
    pytest.fail("it never was full")


def ordinals(file: SpoolFile) -> list[int]:
    """Return the ordinals of the frames that can be read."""
    found, _ = file.read(PRODUCER, 0, 10_000, 1 << 30)
    return [stored.ordinal for stored in found]


def test_a_killed_process_leaves_every_frame(tmp_path: Path) -> None:
    """What was written comes back as it was, under the id of the file, with who wrote it."""
    file = adopted(written(tmp_path, 20))
    file.check()
    assert file.owner() == OWNER
    assert file.read(PRODUCER, 0, 100, 1 << 30) == ([frame(n + 1) for n in range(20)], [])
    totals = file.totals()
    assert (totals.frames, totals.events, totals.first, totals.last) == (20, 200, 1, 20)
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_one_owner(tmp_path: Path) -> None:
    """While one holds it nobody else gets it, in this process or another."""
    file = adopted(written(tmp_path, 1))
    assert has_owner(file.path)
    assert SpoolFile.adopt(file.path) is None
    code = "import sys; from pathlib import Path; from producers.spool_file import SpoolFile\n"
    code += "sys.exit(0 if SpoolFile.adopt(Path(sys.argv[1])) is None else 1)"
    assert subprocess.run([sys.executable, "-c", code, str(file.path)], check=False).returncode == 0
    file.close()
    again = adopted(file.path)
    again.remove()
    assert SpoolFile.adopt(file.path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", range(0, 100, 16))
def test_a_torn_log_gives_the_frames_before_the_tear(tmp_path: Path, where: int) -> None:
    """The log cut anywhere: a run from the first frame on, or a file that says that it is damaged; never a hole."""
    path = written(tmp_path, 12)
    log = Path(f"{path}-wal")
    os.truncate(log, log.stat().st_size * where // 100)
    file = adopted(path)
    try:
        file.check()
        found = ordinals(file)
    except SpoolError:
        found = []
    assert found == list(range(1, len(found) + 1))
    file.remove()


@pytest.mark.parametrize("where", [1, 10, 30, 50, 75, 96, 99])
def test_a_torn_or_garbled_file_is_found_out(tmp_path: Path, where: int) -> None:
    """The database cut or overwritten anywhere: what is read is as it was written, or it is said to be damaged."""
    path = written(tmp_path, 40)
    file = adopted(path)
    file.check()
    file.close()  # the log is now in the database
    size = path.stat().st_size
    if where % 2:
        os.truncate(path, size * where // 100)
    else:
        with path.open("r+b") as raw:
            raw.seek(size * where // 100)
            raw.write(random.Random(where).randbytes(600))  # noqa: S311 - garbage
    try:
        file = adopted(path)
    except SpoolError:
        return
    try:
        file.check()
        found, _ = file.read(PRODUCER, 0, 100, 1 << 30)
        assert all(stored == frame(stored.ordinal) for stored in found)
    except SpoolError:
        assert file.rename("broken").exists()
        assert spool_files(tmp_path) == []
    else:
        file.close()


def test_a_frame_that_changed_on_disk_is_passed_over(tmp_path: Path) -> None:
    """A body that no longer fits its checksum is named as damaged; its neighbours are read."""
    path = written(tmp_path, 3)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE frames SET body = X'79' WHERE ordinal = 2")
    connection.commit()
    connection.close()
    file = adopted(path)
    assert file.read(PRODUCER, 0, 10, 1 << 30) == ([frame(1), frame(3)], [2])
    file.remove()


def test_the_limit_holds_on_disk(tmp_path: Path) -> None:
    """A full file refuses, stays below its limit with its log, and takes more when frames were delivered."""
    file = SpoolFile.create(tmp_path, OWNER, 1 << 20)
    count = filled(file)
    assert 20 < count < 40
    assert ordinals(file) == list(range(1, count + 1))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= (1 << 20) + 65_536
    file.write([frame(count + 1, os.urandom(30_000))], trim_to=5, sync=False)
    assert ordinals(file) == list(range(6, count + 2))
    file.remove()


def test_a_full_disk_is_a_full_spool(tmp_path: Path) -> None:
    """Where the system refuses to let the file grow, frames are refused, and those written stay readable."""
    file = SpoolFile.create(tmp_path, OWNER, LIMIT_BYTES)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        count = filled(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert count > 3
    assert ordinals(file) == list(range(1, count + 1))
    file.write([frame(count + 1)], trim_to=0, sync=True)
    assert len(ordinals(file)) == count + 1
    file.remove()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("how", ["exit", "_exit"])
def test_a_forked_child_leaves_the_file_alone(tmp_path: Path, how: str) -> None:
    """However the child ends, the parent goes on writing, and its death frees the file although the child lives."""
    code = (
        "import os, sys, gc; sys.path.insert(0, sys.argv[2]); from test_spool_file import *\n"
        "file = SpoolFile.create(Path(sys.argv[1]), OWNER, LIMIT_BYTES)\n"
        "file.write([frame(1)], trim_to=0, sync=True)\n"
        "if os.fork() == 0:\n"
        "    del file; gc.collect()\n"
        f"    {'sys.exit(0)' if how == 'exit' else 'os._exit(0)'}\n"
        "os.wait()\n"
        "for n in range(2, 9): file.write([frame(n)], trim_to=0, sync=True)\n"
        "if os.fork() == 0:\n"
        "    print(flush=True)\n"  # tells the test that it lives
        "    sys.stdin.read(); os._exit(0)\n"
        "os._exit(0)"
    )
    here = str(Path(__file__).parent)
    line = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), here]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"\n"
        assert parent.wait() == 0
        (path,) = spool_files(tmp_path)
        file = adopted(path)
        file.check()
        assert ordinals(file) == list(range(1, 9))
        file.remove()


def answers(sendings: list[Sending]) -> list[Appended | SidestreamError]:
    """Return what a server says that accepts everything."""
    return [Appended("OK", sending.frame.next_seq) for sending in sendings]


def sealed(delivery: Delivery, count: int, now_s: float = 0.0) -> None:
    """Seal frames over three partitions."""
    for number in range(count):
        delivery.seal(number % 3, 10, "mz", b"x" * 100, now_s)


def spool_in(folder: Path, limit_bytes: int = LIMIT_BYTES, *, always: bool = True) -> Spool:
    """Return a spool for the producer of these tests."""
    return Spool(SpoolSettings(folder, limit_bytes, always), OWNER)


def store(spool: Spool, delivery: Delivery, now_s: float = 0.0) -> None:
    """Do what the publisher does after sealing."""
    delivery.stored(spool.store(delivery, now_s))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that must be empty again at the end."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_memory_holds_a_window_and_frames_go_out_in_order(folder: Path) -> None:
    """Hundreds of frames are parked in the file; each partition's leave in the order of their sequences, once."""
    delivery, spool = Delivery(PRODUCER), spool_in(folder)
    sent: list[tuple[int, int]] = []
    for _ in range(50):
        sealed(delivery, 8)
        store(spool, delivery)
        assert len(delivery.to_send()) <= MAX_OUTSTANDING_FRAMES
        assert delivery.spooled() == 10 * delivery.outstanding_frames()
        assert (delivery.in_flight(), delivery.safe_to()) == (0, delivery.last_sealed())
    assert delivery.outstanding_frames() == 400
    while delivery.outstanding_frames():
        spool.refill(delivery, 0.0)
        batch = delivery.to_send()
        delivery.answered(batch, answers(batch))
        sent += [(sending.frame.partition, sending.frame.first_seq) for sending in batch]
        sealed(delivery, 1 if len(sent) < 300 else 0)  # the application goes on
        store(spool, delivery)
    for partition in range(3):
        of_it = [first for number, first in sent if number == partition]
        assert of_it == list(range(0, 10 * len(of_it), 10))
    assert len(sent) == len(set(sent)) > 400
    assert delivery.acknowledged_to() == delivery.last_sealed()
    spool.close(delivery)


def test_a_full_spool_keeps_frames_in_memory_and_order(folder: Path) -> None:
    """What the file does not take stays behind what it has; when there is room again it follows."""
    delivery, spool = Delivery(PRODUCER), spool_in(folder, LEAST_BYTES)
    body = os.urandom(4000)
    now_s = 0.0
    while spool.takes_more(now_s):
        delivery.seal(0, 10, "mz", body, now_s)
        store(spool, delivery, now_s)
    behind = len(delivery.unstored())
    assert behind == 1
    assert (delivery.in_flight(), delivery.in_flight() + delivery.spooled()) == (10, delivery.last_sealed() * 10)
    sent: list[int] = []
    while delivery.outstanding_frames():
        now_s += 2
        spool.refill(delivery, now_s)
        batch = delivery.to_send()
        delivery.answered(batch, answers(batch))
        sent += [sending.frame.first_seq for sending in batch]
        store(spool, delivery, now_s)
    assert sent == list(range(0, 10 * len(sent), 10))
    spool.close(delivery)


def test_a_folder_that_cannot_be_used_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Frames stay in memory, nothing is raised, and it is said once."""
    (tmp_path / "file").write_text("")
    delivery, spool = Delivery(PRODUCER), spool_in(tmp_path / "file" / "folder")
    for number in range(3):
        sealed(delivery, 1)
        store(spool, delivery, 100.0 * number)
    assert (delivery.in_flight(), delivery.spooled(), len(caplog.records)) == (30, 0, 1)
    spool.close(delivery)


def test_a_file_that_breaks_is_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Overwritten under our hands: memory's frames go on, the parked are counted unknown, the file gets a name."""
    delivery, spool = Delivery(PRODUCER), spool_in(tmp_path)
    sealed(delivery, 300)
    store(spool, delivery)
    (path,) = spool_files(tmp_path)
    garbage = random.Random(1).randbytes(200_000)  # noqa: S311 - garbage
    for name in (path, Path(f"{path}-wal")):
        with name.open("r+b") as raw:
            raw.write(garbage)
    offered = 10 * delivery.last_sealed()
    appended = 0
    for _ in range(40):
        spool.refill(delivery, 0.0)
        batch = delivery.to_send()
        appended += delivery.answered(batch, answers(batch)).appended
        store(spool, delivery)
        assert offered == appended + delivery.in_flight() + delivery.spooled() + delivery.unknown()
        if not delivery.outstanding_frames():
            break
    assert delivery.outstanding_frames() == 0
    assert appended >= 10 * MAX_OUTSTANDING_FRAMES
    spool.close(delivery)
    assert spool_files(tmp_path) == []


def test_an_interval_is_synced_although_nothing_follows(folder: Path) -> None:
    """With `interval` the last write is fsynced about a second later, and delivered frames leave the file."""
    delivery, spool = Delivery(PRODUCER), spool_in(folder, always=False)
    sealed(delivery, 1, 10.0)
    store(spool, delivery, 10.0)
    sealed(delivery, 1, 10.1)
    store(spool, delivery, 10.1)
    batch = delivery.to_send()
    delivery.answered(batch, answers(batch))
    assert not spool.store(delivery, 10.2)
    store(spool, delivery, 11.2)
    file = spool_files(folder)[0]
    assert file.exists()
    spool.close(delivery)


def test_parked_frames_that_grew_too_old_are_kept_aside(tmp_path: Path) -> None:
    """They come back into the window, are found too old, and stay in a file named so."""
    delivery, spool = Delivery(PRODUCER, age_s=SPOOL_AGE_S), spool_in(tmp_path)
    sealed(delivery, 100)
    store(spool, delivery)
    later_s = SPOOL_AGE_S + 1
    aside = 0
    while delivery.outstanding_frames():
        spool.refill(delivery, later_s)
        # Their age is by the wall clock, which did not move: only those still in memory are old.
        gone = delivery.expire(later_s)
        spool.set_aside(gone, "expired")
        aside += len(gone)
        batch = delivery.to_send()
        delivery.answered(batch, answers(batch))
    assert aside == MAX_OUTSTANDING_FRAMES
    spool.close(delivery)
    assert [path.name for path in tmp_path.iterdir()] == [f"{PRODUCER}.spool.expired"]


def test_an_unanswered_frame_is_unknown_although_it_is_spooled(folder: Path) -> None:
    """The states are disjoint: what may be appended already counts as unknown, wherever else it is."""
    delivery, spool = Delivery(PRODUCER), spool_in(folder)
    sealed(delivery, 3)
    store(spool, delivery)
    batch = delivery.to_send()
    delivery.failed(batch, UnreachableError("nobody there"))
    assert (delivery.spooled(), delivery.unknown(), delivery.in_flight()) == (30, 0, 0)
    for sending in batch[:1]:
        sending.unknown = True
    assert (delivery.spooled(), delivery.unknown(), delivery.in_flight()) == (20, 10, 0)
    delivery.answered(batch, answers(batch))
    spool.close(delivery)


def test_an_inherited_file_is_read_like_ones_own(tmp_path: Path) -> None:
    """A successor's window fills from the file, in order, with the sequences that were given."""
    file = adopted(written(tmp_path, 100))
    totals = file.totals()
    delivery = Delivery(PRODUCER)
    delivery.inherit(totals.first, totals.last, totals.frames, totals.events)
    sent: list[int] = []
    while delivery.outstanding_frames():
        assert read_back(file, delivery, 0.0) == 0
        batch = delivery.to_send()
        delivery.answered(batch, answers(batch))
        sent += [sending.frame.first_seq for sending in batch]
    assert sent == list(range(0, 1000, 10))
    file.remove()


@pytest.mark.parametrize(
    ("last", "nexts", "expected"),
    [
        # It died with 50 spooled, all sent now; 5 died in the buffer.
        (Presence("p", offered=100, appended=45, buffered=5, spooled=50), {0: 95}, (100, 95, 5, 0)),
        # It had sealed 20 more than it had said.
        (Presence("p", offered=100, appended=45, buffered=5, spooled=50), {0: 60, 1: 60}, (120, 120, 0, 0)),
        # It was shed and invalid too, and its in-flight frame never arrived.
        (Presence("p", offered=30, appended=5, invalid=3, shed=2, in_flight=10, spooled=10), {0: 15}, (30, 15, 10, 0)),
    ],
)
def test_the_account_of_the_dead_is_closed(
    last: Presence, nexts: dict[int, int], expected: tuple[int, int, int, int]
) -> None:
    """Its fences say what arrived; the identity holds, and what died in memory stays visible."""
    word = restated(last, nexts, [], 50, 0)
    assert (word.offered, word.appended, word.buffered, word.spooled) == expected
    assert word.offered == word.accounted()
    assert word.closed == 1


def test_what_was_set_aside_of_the_dead_is_unknown_and_never_appended() -> None:
    """Even where the server counted it as lost, because what follows it was appended."""
    old = Sending(SealedFrame(0, "p", 0, 10, "mz", b""), 0.0, 1)
    word = restated(Presence("p", offered=40, appended=0, spooled=40), {0: 40}, [old], 30, 10)
    assert (word.appended, word.unknown, word.lost, word.buffered) == (30, 10, 10, 0)
    assert word.offered == word.accounted()
