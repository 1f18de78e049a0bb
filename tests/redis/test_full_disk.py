"""A disk that is really full: a small file system of its own, filled to the last byte under a running application."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.stream import read_after
from pipeline.wire import FrameDecoder

pytestmark = pytest.mark.one_server

DISK_BYTES = 3 << 20

APPLICATION = """
import json, os, sys, time
from pathlib import Path
from producers.settings import PublishSettings
from producers.telemetry import Telemetry

url, here, disk = sys.argv[1:]
away = Path(here, "s")
settings = PublishSettings(namespace="test", spool_dir=disk, spool_bytes=1 << 30, buffer_events=20_000)
telemetry = Telemetry(settings, lambda: f"unix://{away}")
ballast = Path(disk, "ballast")

def fill():
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass

def report(first, count):
    return sum(telemetry.usage(os.urandom(40).hex(), "m", session=str(n)) for n in range(first, first + count))

def until(what):
    end = time.monotonic() + 20
    while not what(telemetry.statistics()):
        assert time.monotonic() < end, telemetry.statistics()
        time.sleep(0.02)

def counts():
    found = telemetry.statistics()
    assert found.offered == found.accounted(), found
    return found

taken = report(0, 2000)
until(lambda now: now.spooled == 2000)
fill()
taken += report(2000, 15000)
until(lambda now: now.in_flight > 0)
full = counts()
assert full.spooled < taken, full
ballast.unlink()
until(lambda now: now.spooled > full.spooled)
fill()
taken += report(17000, 1000)
away.symlink_to(url.removeprefix("unix://"))
assert telemetry.flush(30), counts()
assert telemetry.close(5)
end = counts()
assert end.appended == taken and end.shed == 18000 - taken, (taken, end)
print(json.dumps([taken, full.spooled, full.in_flight]))
"""


@pytest.fixture(scope="module")
def own_disk() -> list[str]:
    """Return the command that runs another with a file system of its own, mounted where it is told."""
    unshare = shutil.which("unshare")
    mount = 'mount -t tmpfs -o size=$0 tmpfs "$1" && shift && exec "$@"'
    command = [unshare or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(DISK_BYTES)]
    probe = [*command, "/mnt", "true"]
    if unshare is None or subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own (unshare --user --mount)")
    return command


async def test_on_a_full_disk_the_application_goes_on_and_loses_nothing_it_took(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path, own_disk: list[str]
) -> None:
    """Frames stay in memory while the disk is full, go to it when there is room, and all arrive once with Redis."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [*own_disk, str(disk), sys.executable, "-c", APPLICATION, redis_url, str(tmp_path), str(disk)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("the spool is full") >= 1
    assert "broken" not in done.stderr
    found: list[str] = []
    for number in range(4):
        for stored in await read_after(server, keys.partition(number), "-", inclusive=True, most=100_000):
            found += [event.session for event in FrameDecoder().decode(stored.parse()).events if event is not None]
    taken = int(done.stdout.strip("[]\n").split(",")[0])
    assert len(found) == len(set(found)) == taken
