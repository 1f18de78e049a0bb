"""`sidestream top`: what people keep open in a terminal: spending, speed, failures, sessions, alerts, the pipeline."""

import sys
import time
from collections.abc import Callable
from typing import Annotated, Final

import anyio
import typer
from rich.console import Console
from rich.text import Text

from consumers.views.top import Top, TopReader
from consumers.views.top_json import top_json
from pipeline.errors import SettingsError, SidestreamError
from pipeline.units import parse_duration_s
from sidestream.cli.look.screen import Screen, keyboard
from sidestream.cli.look.top_lists import Steady
from sidestream.cli.look.top_text import ORDERS, Order, top_text
from sidestream.cli.session import AsJson, Namespace, Place, RedisUrl, console, open_session, print_json, run_async
from sidestream.cli.tables import wide_enough
from sidestream.wording.human import clock

_SHARE: Final = 10
"""Reading takes at most one part in so many of the time, as the page's does."""

_PACES_S: Final = (1, 2, 5, 10, 30, 60, 300)
"""How often `+` and `-` let it look."""

_KEYS: Final = "q end, p/space pause, s sort agents, + - more/less often, ^L redraw, ? back"


def top(
    *,
    every: Annotated[str, typer.Option(help="How often to look: 1s, 2s, 10s; more rarely where Redis is slow.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Print one look and end; so does a pipe.")] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    redis_url: RedisUrl = None,
) -> None:
    """Keep open what is spent now, how fast answers come, what fails, who is stuck, and whether all is counted.

    "Now" is the last five minutes; lists and the lines below are of the last hour. It only reads. q or Ctrl-C ends it,
    p pauses it, s sorts the agents, + and - change how often it looks, ? shows the keys.
    """

    async def command() -> int:
        every_s = _every_s(every)
        async with open_session(Place(namespace, redis_url)) as session:
            reader, out = TopReader(session.server, session.keys), console()
            if as_json:
                print_json(top_json(await reader.read()))
            elif once or not _is_screen(out):
                top = await reader.read()
                wide = wide_enough(out)
                wide.print(top_text(top, wide.width), crop=False)
            else:
                await _keep_open(reader, out, every_s)
        return 0

    run_async(command)


def _is_screen(out: Console) -> bool:
    """Tell whether there is a terminal that can be drawn on anew; colours that are forced make none."""
    return out.is_terminal and sys.stdout.isatty() and not out.is_dumb_terminal


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
    with anyio.CancelScope() as scope:
        # The first look first: what is wrong from the beginning is said as by any other command.
        kept = _Kept(await reader.read(), every_s, scope.cancel, has_keys=keyboard() is not None)
        with Screen(out, end=scope.cancel, redraw=kept.draw, pressed=kept.press) as kept.screen:
            kept.draw()
            while True:
                await kept.wait()
                await kept.look_anew(reader)


class _Kept:
    """What is kept open: the last look, and how it is to be shown."""

    def __init__(self, look: Top, every_s: int, end: Callable[[], None], *, has_keys: bool) -> None:
        self.screen: Screen | None = None
        self._look = look
        self._every_s = every_s
        self._end = end
        self._has_keys = has_keys
        self._stale = self._paused = self._helps = False
        self._order: Order = "cost"
        self._steady = Steady()
        self._took_s = 0.0
        self._changed = anyio.Event()

    def draw(self) -> None:
        """Draw it for the size that the terminal has now."""
        if self.screen is not None:
            width, height = self.screen.size
            self.screen.draw(
                top_text(
                    self._look,
                    width,
                    height,
                    stale=self._stale,
                    foot=self._foot(),
                    order=self._order,
                    steady=self._steady,
                )
            )

    async def wait(self) -> None:
        """Wait until it is time for the next look: at once where it goes on; anew where how often was changed."""
        while True:
            self._changed = anyio.Event()
            was_paused = self._paused
            with anyio.move_on_after(None if was_paused else max(self._every_s, _SHARE * self._took_s)):
                await self._changed.wait()
                if was_paused and not self._paused:
                    return
                continue
            return

    async def look_anew(self, reader: TopReader) -> None:
        """Look, and show it; a look that was under way when it was paused is not shown."""
        began_s = time.monotonic()
        try:
            look, stale = await reader.read(), False
        except SidestreamError:
            look, stale = self._look, True
        self._took_s = time.monotonic() - began_s
        if not self._paused:
            self._look, self._stale = look, stale
            self.draw()

    def press(self, key: str) -> None:
        """Do what a key says."""
        match key.lower():
            case "q":
                self._end()
            case "p" | " ":
                self._paused = not self._paused
                self._changed.set()
            case "s":
                self._order = ORDERS[(ORDERS.index(self._order) + 1) % len(ORDERS)]
            case "+" | "=":
                self._pace(max((pace for pace in _PACES_S if pace < self._every_s), default=self._every_s))
            case "-" | "_":
                self._pace(min((pace for pace in _PACES_S if pace > self._every_s), default=self._every_s))
            case "?":
                self._helps = not self._helps
            case "\x0c" if self.screen is not None:
                self.screen.clear()
            case _:
                return
        self.draw()

    def _pace(self, every_s: int) -> None:
        self._every_s = every_s
        self._changed.set()

    def _foot(self) -> str | Text:
        if not self._has_keys:
            return f"Looks every {self._every_s} s; Ctrl-C ends it"
        if self._helps:
            return f"Paused; {_KEYS}" if self._paused else _KEYS
        if self._paused:
            return Text(
                f"Paused at {clock(self._look.now_s)} UTC; p goes on, q ends it, ? shows the keys", "bold yellow"
            )
        return f"Looks every {self._every_s} s; q ends it, p pauses, s sorts, + - how often, ? shows the keys"
