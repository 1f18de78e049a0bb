"""`sidestream top`: what people keep open in a terminal: spending, speed, failures, sessions, alerts, the pipeline."""

import asyncio
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Final

import anyio
import typer
from rich.console import Console
from rich.live import Live

from consumers.views.top import Top, TopReader
from consumers.views.top_json import top_json
from pipeline.errors import SettingsError, SidestreamError
from pipeline.units import parse_duration_s
from sidestream.cli.session import AsJson, Namespace, Place, RedisUrl, console, open_session, print_json, run_async
from sidestream.cli.top_text import top_text

_SHARE: Final = 10
"""Reading takes at most one part in so many of the time, as the page's does."""

_KEYS_AT_ONCE: Final = 64


def top(
    *,
    every: Annotated[str, typer.Option(help="How often to look: 1s, 2s, 10s; more rarely where Redis is slow.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Print one look and end; so does a pipe.")] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Keep open what is spent now, how fast answers come, what fails, who is stuck, and whether all is counted.

    "Now" is the last five minutes; lists and the lines below are of the last hour. It only reads. q or Ctrl-C ends it.
    """

    async def command() -> int:
        every_s = _every_s(every)
        async with open_session(Place(namespace, redis_url)) as session:
            reader, out = TopReader(session.server, session.keys), console()
            if as_json:
                print_json(top_json(await reader.read()))
            elif once or not out.is_terminal:
                out.print(top_text(await reader.read(), out.width))
            else:
                await _keep_open(reader, out, every_s)
        return 0

    run_async(command)


def _every_s(text: str) -> int:
    try:
        every_s = parse_duration_s(text)
    except ValueError as error:
        raise SettingsError(f"--every: {error}") from None
    if every_s == 0:
        raise SettingsError("--every: '0' is no time; use 1s or more")
    return every_s


async def _keep_open(reader: TopReader, out: Console, every_s: int) -> None:
    """Draw one look after another until somebody ends it; what Redis does not answer stays, and is said to be stale."""
    # The first look first: what is wrong from the beginning is said as by any other command.
    screen = _Screen(await reader.read(), every_s)
    with (
        anyio.CancelScope() as scope,
        _ended_by(scope.cancel, screen.draw),
        Live(console=out, screen=True, auto_refresh=False) as live,
    ):
        screen.live = live
        screen.draw()
        while True:
            await anyio.sleep(max(every_s, _SHARE * screen.took_s))
            began_s = time.monotonic()
            try:
                screen.look, screen.stale = await reader.read(), False
            except SidestreamError:
                screen.stale = True
            screen.took_s = time.monotonic() - began_s
            screen.draw()


class _Screen:
    """What is on the screen."""

    def __init__(self, look: Top, every_s: int) -> None:
        self.look = look
        self.stale = False
        self.took_s = 0.0
        self.live: Live | None = None
        self._foot = f"Looks every {every_s} s; q ends it."

    def draw(self) -> None:
        """Draw it for the size that the terminal has now."""
        if self.live is not None:
            width, height = self.live.console.size
            self.live.update(top_text(self.look, width, height, stale=self.stale, foot=self._foot), refresh=True)


@contextmanager
def _ended_by(end: Callable[[], None], resized: Callable[[], None]) -> Generator[None]:
    """Call `end` for q, Ctrl-C and SIGTERM, `resized` when the terminal changes; then leave it as it was."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGWINCH, resized)
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keyboard) if keyboard is not None else None

    def pressed() -> None:
        assert keyboard is not None
        keys = os.read(keyboard, _KEYS_AT_ONCE)
        if not keys:
            loop.remove_reader(keyboard)
        elif b"q" in keys.lower():
            end()

    if keyboard is not None:
        tty.setcbreak(keyboard)
        loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        if keyboard is not None and before is not None:
            loop.remove_reader(keyboard)
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
