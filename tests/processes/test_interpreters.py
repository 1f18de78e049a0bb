"""Forks, children, threads, loops and ends of an interpreter: who speaks, and what arrives."""

import asyncio
import signal
import subprocess
from collections import Counter

import pytest
from launching import Site, script_command, until

from consumers.views import status as views
from pipeline.connection import AsyncServer, RedisSettings

FORK = """
import os, threading
threaded = {threaded}
sidestream.usage("parent", "m")
stop = threading.Event()
def work():
    while not stop.wait(0.001):
        sidestream.usage("parent", "m")
threads = [threading.Thread(target=work) for _ in range(threaded)]
for thread in threads:
    thread.start()
if threaded:
    sidestream.flush(5)
children = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        sidestream.usage("child", "m")
        os._exit(0 if sidestream.close(5) else 1)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
for thread in threads:
    thread.join()
assert codes == [0] * 5, codes
print(sidestream.statistics().offered)
"""


@pytest.mark.parametrize("threaded", [0, 3])
def test_forked_children_publish_their_own_events_once(site: Site, threaded: int) -> None:
    """Whether or not other threads report during the fork, a child sends its own event and none of the parent's."""
    offered = int(site.script(FORK.format(threaded=threaded)))
    assert Counter(site.agents()) == {"parent": offered, "child": 5}
    producers = [presence.producer for presence in site.presences()]
    assert len(set(producers)) == len(producers) == 6


IMPORTS = """
import sys
before = set(sys.modules)
with sidestream.session_context("session", "user"):
    sidestream.usage("a", "m", 1)
    sidestream.track_state_transition("one", "two")
    sidestream.error(ValueError("no"))
assert sidestream.close(5)
print(sorted(set(sys.modules) - before))
"""


def test_after_configure_nothing_is_imported(site: Site) -> None:
    """An import that is under way on the publisher's thread would be half a module in a child forked meanwhile."""
    assert site.script(IMPORTS) == "[]\n"


MULTIPROCESSING = """
import multiprocessing, os, sys
sys.path.insert(0, os.getcwd())
import children
if __name__ == "__main__":
    sidestream.usage("parent", "m")
    context = multiprocessing.get_context("{method}")
    processes = [context.Process(target=children.{target}) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, process.exitcode
"""


@pytest.mark.parametrize(("method", "target"), [("fork", "closing"), ("spawn", "configuring")])
def test_children_of_multiprocessing_publish_what_they_close(site: Site, method: str, target: str) -> None:
    """A forked child is configured already, a spawned one configures itself; each closes, for neither runs `atexit`."""
    site.script(MULTIPROCESSING.format(method=method, target=target))
    assert Counter(site.agents()) == {"parent": 1, "child": 2}


def test_a_child_of_multiprocessing_that_does_not_close_loses_its_memory(site: Site) -> None:
    """`multiprocessing` ends its children by `os._exit`: what they still hold dies."""
    site.script(MULTIPROCESSING.format(method="fork", target="leaving"))
    assert site.agents() == ["parent"]


THREADS = """
import threading
def work():
    for _ in range(500):
        sidestream.usage("thread", "m")
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

LOOPS = """
import asyncio, threading
async def one(name):
    sidestream.usage(name, "m")
    assert await sidestream.aflush(5)
asyncio.run(one("first"))
asyncio.run(one("second"))
threads = [threading.Thread(target=asyncio.run, args=(one("third"),)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

TRIO = """
import trio
async def main():
    sidestream.usage("trio", "m")
    with trio.fail_after(5):
        assert await sidestream.aflush(5)
        sidestream.usage("trio", "m")
        assert await sidestream.aclose(5)
trio.run(main)
"""

PLAIN = """
sidestream.usage("plain", "m")
"""

FAILS = """
import sys
sidestream.usage("plain", "m")
sys.exit(0)
"""


@pytest.mark.parametrize(
    ("code", "agents"),
    [
        pytest.param(THREADS, {"thread": 4000}, id="threads"),
        pytest.param(LOOPS, {"first": 1, "second": 1, "third": 2}, id="several-event-loops"),
        pytest.param(TRIO, {"trio": 2}, id="trio"),
        pytest.param(PLAIN, {"plain": 1}, id="no-event-loop-and-no-close"),
        pytest.param(FAILS, {"plain": 1}, id="sys-exit"),
    ],
)
def test_a_script_s_events_arrive_by_its_end(site: Site, code: str, agents: dict[str, int]) -> None:
    """Whatever runs them, and although nobody closes: `atexit` drains."""
    site.script(code)
    assert Counter(site.agents()) == agents
    [presence] = site.presences()
    assert presence.closed
    assert presence.appended == presence.offered


BLOCKED = """
import asyncio, sys
async def main():
    sidestream.usage("blocked", "m")
    sys.stdin.readline()
asyncio.run(main())
"""


def test_a_blocked_event_loop_does_not_stop_the_publisher(site: Site) -> None:
    """While the loop stands still its event is appended: publishing has a thread of its own."""
    with site.process(*script_command(BLOCKED), SIDESTREAM_LINGER_MS="5") as process:
        until(lambda: site.agents() == ["blocked"])
        assert process.poll() is None
        process.communicate("go on\n", timeout=10)
    assert process.returncode == 0


ABRUPT = """
import os, sys
sidestream.usage("appended", "m")
assert sidestream.flush(5)
print("flushed", flush=True)
sys.stdin.readline()
for _ in range(3):
    sidestream.usage("in memory", "m")
print("told", flush=True)
sys.stdin.readline()
os._exit(0)
"""


async def test_after_os_exit_status_says_what_was_at_risk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in memory is lost, and `status` shows a silent producer with those events at risk."""
    server = AsyncServer(RedisSettings(site.url))
    with site.process(*script_command(ABRUPT)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "told\n"
        async with asyncio.timeout(5):
            while [one.presence.buffered for one in (await views.read_status(server, site.keys, 4)).producers] != [3]:
                pass
        process.communicate("leave\n", timeout=10)
    assert process.returncode == 0
    monkeypatch.setattr(views, "SILENT_MS", -1)
    found = await views.read_status(server, site.keys, 4)
    assert [(one.life, one.at_risk, one.presence.appended) for one in found.producers] == [("silent", 3, 1)]
    assert not found.broken
    await server.aclose()


def test_a_plain_script_drains_nothing_at_sigterm(site: Site) -> None:
    """Python runs no `atexit` for a signal it does not handle: a script that wants to drain must handle it."""
    code = 'import sys\nsidestream.usage("lost", "m")\nprint("told", flush=True)\nsys.stdin.readline()'
    with site.process(*script_command(code)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
    assert site.agents() == []


def test_a_script_that_turns_sigterm_into_an_exit_drains(site: Site) -> None:
    """Raising `SystemExit` in a handler of the script's own leads to `atexit`."""
    code = """
    import signal, sys
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sidestream.usage("kept", "m")
    print("told", flush=True)
    sys.stdin.readline()
    """
    with site.process(*script_command(code)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert site.agents() == ["kept"]


def test_the_end_of_an_interpreter_waits_no_longer_than_it_may(site: Site) -> None:
    """With no Redis at all a script ends within `close_timeout_s`, and says what it lost."""
    code = 'sidestream.usage("lost", "m")'
    away = {"SIDESTREAM_REDIS_URL": "unix:///nowhere/s", "SIDESTREAM_CLOSE_TIMEOUT_S": "0.2"}
    done = subprocess.run(
        script_command(code), env=site.environment(away), capture_output=True, text=True, check=True, timeout=5
    )
    assert "telemetry closes before everything was appended" in done.stderr
