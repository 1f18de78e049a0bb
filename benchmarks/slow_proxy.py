"""A proxy between unix sockets that delivers what the server says a fixed time later.

`python -m benchmarks.slow_proxy LISTEN SERVER DELAY_MS`; it delays, it does not throttle: replies overlap.
"""

import asyncio
import contextlib
import sys
from functools import partial

import anyio

_CHUNK_BYTES = 1 << 20


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _forward_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK_BYTES):
            # Timers of one delay fire in the order in which they were set.
            loop.call_later(delay_s, writer.write, data)
    loop.call_later(delay_s, writer.close)


async def _serve(
    client: asyncio.StreamReader, to_client: asyncio.StreamWriter, *, server_path: str, delay_s: float
) -> None:
    server, to_server = await asyncio.open_unix_connection(server_path)
    async with anyio.create_task_group() as group:
        group.start_soon(_forward, client, to_server)
        group.start_soon(_forward_late, server, to_client, delay_s)


async def main(listen_path: str, server_path: str, delay_ms: int) -> None:
    """Serve until the process is ended."""
    serve = partial(_serve, server_path=server_path, delay_s=delay_ms / 1000)
    async with await asyncio.start_unix_server(serve, listen_path) as proxy:
        await proxy.serve_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
