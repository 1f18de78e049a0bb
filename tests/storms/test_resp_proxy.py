"""The storm's proxy: what it does to single commands, and that it does nothing else to them."""

import socket
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from processes.launching import until
from storms.resp_proxy import Fate, FaultProxy
from support import spawned

from pipeline.connection import RedisSettings, Server


class Line:
    """A connection through the proxy, and one beside it."""

    def __init__(self, proxy: FaultProxy, path: Path, beside: Server) -> None:
        self.proxy = proxy
        self.beside = beside
        self._path = path
        self.socket = self.connect()

    def connect(self) -> socket.socket:
        """Open one more connection."""
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(5)
        opened.connect(str(self._path))
        return opened

    def send(self, fate: Fate, number: int) -> None:
        """Send a command that adds a number to a list and answers how long the list is, to meet this fate."""
        self.proxy.rates = {fate: 1.0}
        script = b"return redis.call('RPUSH', 'seen', ARGV[1])"
        words = [b"EVAL", script, b"0", str(number).encode()]
        self.socket.sendall(b"*4\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))

    def seen(self) -> list[int]:
        """Return the numbers that reached the server."""
        return [int(number) for number in self.beside.call("LRANGE", "seen", 0, -1)]

    def receive(self, enough: Callable[[bytes], bool]) -> bytes:
        """Return what is answered, until it is enough or the connection ends."""
        data = b""
        while not enough(data):
            some = self.socket.recv(4096)
            if not some:
                break
            data += some
        return data


@pytest.fixture
def line(tmp_path: Path) -> Generator[Line]:
    """A connection through a proxy to a real server."""
    with spawned("valkey") as server:
        path = tmp_path / "proxy"
        proxy = FaultProxy(path, Path(server.url.removeprefix("unix://")), 1)
        proxy.start()
        beside = Server(RedisSettings(server.url))
        made = Line(proxy, path, beside)
        try:
            yield made
        finally:
            made.socket.close()
            beside.close()
            proxy.stop()


def test_a_refused_command_alone_never_reaches_the_server(line: Line) -> None:
    """Of three commands the second is refused in its place: those around it are executed and answered."""
    line.send("pass", 1)
    until(lambda: line.seen() == [1])
    line.send("refuse", 2)
    until(lambda: line.proxy.happened["refuse"] == 1)
    line.send("pass", 3)
    answers = line.receive(lambda data: data.count(b"\r\n") == 3).split(b"\r\n")
    assert (answers[0], answers[1][:1], answers[2]) == (b":1", b"-", b":2")
    assert line.seen() == [1, 3]


def test_a_refusal_does_not_overtake_an_answer_that_is_held_up(line: Line) -> None:
    """Answers come in the order of the commands, also where the first comes late and the second is the proxy's own."""
    line.send("delay", 1)
    until(lambda: line.proxy.happened["delay"] == 1)
    line.send("refuse", 2)
    answers = line.receive(lambda data: data.count(b"\r\n") == 2)
    assert answers.startswith(b":1\r\n-")


def test_a_dropped_answer_is_that_of_a_command_that_was_executed(line: Line) -> None:
    """The server has acted, and the client is cut off without a word."""
    line.send("drop_reply", 1)
    assert line.receive(bool) == b""
    assert line.seen() == [1]
    assert line.proxy.happened == {"drop_reply": 1}


def test_a_command_that_is_cut_off_before_is_not_executed(line: Line) -> None:
    """The client is cut off, and the server knows of nothing."""
    line.send("cut_before", 1)
    assert line.receive(bool) == b""
    assert line.seen() == []
    assert line.proxy.happened == {"cut_before": 1}


def test_nobody_gets_through_a_proxy_that_holds(line: Line) -> None:
    """Everybody is cut off, who comes is sent away, and after `release` all is as before."""
    line.send("pass", 1)
    assert line.receive(bool) == b":1\r\n"
    line.proxy.hold()
    assert line.receive(bool) == b""
    line.socket.close()
    line.socket = line.connect()
    assert line.receive(bool) == b""
    line.proxy.release()
    line.socket.close()
    line.socket = line.connect()
    line.send("pass", 2)
    assert line.receive(bool) == b":2\r\n"


def test_what_the_server_refuses_itself_is_counted_by_its_word(line: Line) -> None:
    """A full server answers OOM: the storm can show that filling it had an effect."""
    line.beside.call("CONFIG", "SET", "maxmemory", "1")
    line.send("pass", 1)
    assert line.receive(bool).startswith(b"-OOM")
    assert line.proxy.happened == {"server says OOM": 1}
