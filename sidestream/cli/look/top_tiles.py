"""The figures at the top of `sidestream top`: of the last minutes, below them those of the last hour."""

from collections.abc import Sequence
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from consumers.views.figures import Figures, error_ratio_of, speaks_by_requests, time_of
from consumers.views.pace import NOW_MINUTES
from consumers.views.top import Top
from sidestream.cli.tables import MEDIUM, UNKNOWN, has_cost, is_unpriced, money
from sidestream.wording.human import amount, dollars, duration, per_second, percent

_PAIRS_WIDTH: Final = 40
"""Columns that two figures beside each other take."""


def tiles_of(top: Top, width: int, *, is_low: bool) -> RenderableType:
    """Return the figures that people look for first: of the last minutes, below them those of the last hour."""
    tiles = [
        ("COST NOW", *_cost_tile(top)),
        ("LAST HOUR", _cost_of(top.hour, top), _unpriced(top)),
        *_counted_tiles(top),
    ]
    grid = Table.grid(expand=width >= MEDIUM, padding=(0, 2, 0, 0))
    for _ in tiles:
        grid.add_column(no_wrap=True, overflow="ellipsis")
    if width >= MEDIUM:
        for texts in zip(*tiles, strict=True):
            grid.add_row(*(Text(text, style="dim") if isinstance(text, str) else text for text in texts))
        return grid
    if is_low and width >= _PAIRS_WIDTH:
        return _pairs(tiles)
    for name, first, second in tiles:
        grid.add_row(Text(name, style="dim"), first, second)
    return grid


def _pairs(tiles: Sequence[tuple[str, Text, Text]]) -> RenderableType:
    """Return what is now alone, in three lines of two figures: for terminals that are narrow and low."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    for _ in range(4):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    for (name, first, _), (other, second, _) in zip(tiles[::2], tiles[1::2], strict=True):
        names = (Text(text.partition(" OF ")[0], style="dim") for text in (name, other))
        grid.add_row(next(names), first, next(names), second)
    return grid


def _cost_tile(top: Top) -> tuple[Text, Text]:
    below = Text(f"last {NOW_MINUTES} min", style="dim")
    if not top.cost_known:
        return Text(UNKNOWN, style="bold"), Text()
    if top.hourly_nano_usd is None or is_unpriced(top.hourly_nano_usd, top.now.unpriced_requests):
        return Text("unpriced", style="bold yellow"), below
    more = "+" if top.now.unpriced_requests else ""
    return Text.assemble((f"{dollars(top.hourly_nano_usd)}{more}/h", "bold green")), below


def _cost_of(figures: Figures, top: Top) -> Text:
    if not top.cost_known:
        return Text(UNKNOWN, style="bold")
    if not has_cost(figures):
        return Text("$0", style="bold")
    return Text.assemble(money(figures.known_cost_nano_usd, figures.unpriced_requests), style="bold")


def _unpriced(top: Top) -> Text:
    if not top.cost_known:
        return Text("never counted", style="dim")
    unpriced = top.hour.unpriced_requests
    return Text(f"+ {amount(unpriced)} unpriced", style="yellow") if unpriced else Text("spent", style="dim")


def _counted_tiles(top: Top) -> list[tuple[str, Text, Text]]:
    names = ("REQUESTS", "TOKENS", "FAILED", "P95")
    if not top.metrics_known:
        return [(name, Text(UNKNOWN, style="bold"), Text()) for name in names]
    now, hour = top.now, top.hour
    # Of one kind in both, or the two could not be compared.
    by_requests = speaks_by_requests(hour)
    failed = now.request_error_ratio if by_requests else now.run_error_ratio
    time = now.request_time if by_requests else now.run_time
    of = "REQUESTS" if by_requests else "RUNS"
    return [
        ("REQUESTS", _bold(per_second(now.requests / top.seconds)), _dim(f"{amount(hour.requests)}/h")),
        ("TOKENS", _bold(per_second(now.total_tokens / top.seconds)), _dim(f"{amount(hour.total_tokens)}/h")),
        ("FAILED", Text(percent(failed), "bold red" if failed else "bold"), _hour(percent(error_ratio_of(hour)))),
        (f"P95 OF {of}", _bold(duration(time.p95_us)), _hour(duration(time_of(hour).p95_us))),
    ]


def _hour(text: str) -> Text:
    return _dim(f"hour {text}")


def _bold(text: str) -> Text:
    return Text(text, style="bold")


def _dim(text: str) -> Text:
    return Text(text, style="dim")
