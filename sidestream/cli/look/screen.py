"""A terminal that a command has for itself: another screen, no cursor, keys as they are pressed.

Keeps: whatever ends or stops the process, but SIGKILL, finds the terminal as it was before; what goes on is drawn anew.
"""

import asyncio
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Callable
from typing import Final, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live

from sidestream.cli.tables import LEAST_WIDTH

_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_KEYS_AT_ONCE: Final = 64

_SEQUENCE: Final = re.compile("\x1b(\\[[0-9;]*.|O.|.)?")
"""What a terminal sends for arrows and the like: no key of ours, though there are letters in it."""


def keyboard() -> int | None:
    """Return the file that keys can be read of; None where standard input is no terminal."""
    return sys.stdin.fileno() if sys.stdin.isatty() else None


class Screen:
    """Has the terminal while it is entered; signals and keys call back from the event loop."""

    def __init__(
        self, out: Console, *, end: Callable[[], None], redraw: Callable[[], None], pressed: Callable[[str], None]
    ) -> None:
        r"""Say what is called.

        Args:
            out: The terminal.
            end: When the process is to end: Ctrl-C, Ctrl-\, SIGTERM, a closed terminal.
            redraw: When the screen has another size, or is ours again.
            pressed: With each key.
        """
        self._out = out
        self._live = Live(console=out, screen=True, auto_refresh=False)
        self._end = end
        self._redraw = redraw
        self._pressed = pressed
        self._keyboard = keyboard()
        self._settings = None if self._keyboard is None else termios.tcgetattr(self._keyboard)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return self._out.size

    def draw(self, part: RenderableType) -> None:
        """Show something instead of what was there; it is drawn for `LEAST_WIDTH` columns at least, and cut."""
        self._live.update(_AtLeast(part), refresh=True)

    def clear(self) -> None:
        """Remove what others wrote."""
        self._out.clear()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _ENDS:
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGWINCH, self._redraw)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        loop.add_signal_handler(signal.SIGCONT, self._go_on)
        self._live.start()
        self._listen()
        if self._keyboard is not None:
            loop.add_reader(self._keyboard, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        if self._keyboard is not None:
            loop.remove_reader(self._keyboard)
        for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
            loop.remove_signal_handler(number)
        self._live.stop()
        self._listen_no_more()

    def _stop(self) -> None:
        """Give the terminal back, stop, and take it again when the shell says so."""
        loop = asyncio.get_running_loop()
        self._out.show_cursor(show=True)
        self._out.set_alt_screen(enable=False)
        self._listen_no_more()
        # As if nobody had caught it; it returns at once where there is no shell that could let us go on.
        loop.remove_signal_handler(signal.SIGTSTP)
        loop.remove_signal_handler(signal.SIGCONT)
        signal.raise_signal(signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        loop.add_signal_handler(signal.SIGCONT, self._go_on)
        self._go_on()

    def _go_on(self) -> None:
        """Take the terminal again; also after somebody else has stopped us, and the shell has had it."""
        if not self._live.is_started:
            return
        # First the settings: in the background this stops us, before anything is drawn over the shell's lines.
        self._listen()
        self._out.set_alt_screen(enable=True)
        self._out.show_cursor(show=False)
        self._redraw()

    def _listen(self) -> None:
        if self._keyboard is not None:
            # What has been typed meanwhile counts.
            tty.setcbreak(self._keyboard, termios.TCSADRAIN)

    def _listen_no_more(self) -> None:
        if self._keyboard is not None and self._settings is not None:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._settings)

    def _read(self) -> None:
        assert self._keyboard is not None
        keys = os.read(self._keyboard, _KEYS_AT_ONCE)
        if not keys:
            asyncio.get_running_loop().remove_reader(self._keyboard)
        for key in _SEQUENCE.sub("", keys.decode("ascii", "ignore")):
            self._pressed(key)


class _AtLeast:
    """Draws for `LEAST_WIDTH` columns where there are fewer; the screen cuts it."""

    def __init__(self, part: RenderableType) -> None:
        self._part = part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._part, options.update(width=max(LEAST_WIDTH, options.max_width), height=None))
