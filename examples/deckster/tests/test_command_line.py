"""Server and clients as programs of their own."""

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SERVER = (sys.executable, "-m", "examples.deckster.app")
CLIENTS = (sys.executable, "-m", "examples.deckster.clients")


async def test_the_server_says_where_it_listens_and_the_clients_write_their_count(tmp_path: Path) -> None:
    """Port 0 takes a free port and writes it down; the count is a JSON file; SIGTERM ends the server."""
    ready, out = tmp_path / "port", tmp_path / "ledger.json"
    server = await asyncio.create_subprocess_exec(
        *SERVER, "--port", "0", "--ready-file", str(ready), "--pace", "0.005", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert server.stdout is not None
    try:
        assert b"listens on" in await server.stdout.readline()
        url = f"ws://127.0.0.1:{ready.read_text()}"
        clients = await asyncio.create_subprocess_exec(
            *CLIENTS, "--url", url, "--sessions", "2", "--seconds", "1", "--out", str(out), cwd=ROOT
        )
        assert await clients.wait() == 0
    finally:
        server.send_signal(signal.SIGTERM)
        await server.wait()
    assert json.loads(out.read_text(encoding="utf-8"))["runs"] > 0


async def test_a_port_in_use_is_said_in_a_sentence() -> None:
    """The server names the port and the way out, and exits with 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = await asyncio.create_subprocess_exec(
            *SERVER, "--port", str(port), stderr=asyncio.subprocess.PIPE, cwd=ROOT
        )
        _, error = await server.communicate()
    assert server.returncode == 2
    assert f"cannot listen on port {port}" in error.decode()
    assert "--port" in error.decode()


async def test_clients_without_a_server_say_so() -> None:
    """A server that does not answer is one sentence, not a traceback."""
    clients = await asyncio.create_subprocess_exec(
        *CLIENTS,
        "--url",
        "ws://127.0.0.1:1",
        "--sessions",
        "1",
        "--seconds",
        "1",
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    _, error = await clients.communicate()
    assert clients.returncode == 1
    assert error.decode().startswith("cannot reach ws://127.0.0.1:1")
    assert "Traceback" not in error.decode()
