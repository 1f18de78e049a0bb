"""The `cost` handler: nano-dollars by cell and by marginal, at the price of the event's own time.

An unknown price is *unpriced*: counted, with its tokens, and never 0.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from consumers.contract import Slice
from consumers.folding import Folded, fold_slices
from consumers.gathering import ByCell, ByName
from consumers.histogram import observe
from consumers.measures import COST, PRICED, PROVIDER_COST, REQUESTS, UNPRICED, UNPRICED_TOKENS
from consumers.pricing import Priced
from consumers.recipe import Recipe
from consumers.state import Caps, Delta, Measures, add
from consumers.windows import hour_start_s
from pipeline.events import Event, UsageEvent
from pipeline.wire import Frame

FOLD_REVISION: Final = 3
"""3: workers before it do not know what a frame says is known (backfill)."""

RANKED_BY: Final = MappingProxyType({"session": COST, "user": COST, "tag": COST, "run": COST})


class PricesEvents(Protocol):
    """Says what a request costs (`consumers.catalogue.Pricer`)."""

    def price(self, event: UsageEvent) -> Priced:
        """Price one request; never raises."""
        ...


class CostHandler:
    """Folds requests into money.

    Args:
        pricer: Prices one request.
        catalogue: Which catalogue it prices by, a part of the recipe.
        book: Which price book, likewise.
        caps: How many names a window holds.
    """

    name = "cost"
    ranked_by: Mapping[str, str] = RANKED_BY

    def __init__(self, pricer: PricesEvents, catalogue: str, book: str, caps: Caps | None = None) -> None:
        self.caps = caps or Caps()
        self._catalogue = catalogue
        self._book = book
        self._pricer = pricer

    def recipe(self) -> Recipe:
        """Return what the state depends on besides the events."""
        return Recipe(FOLD_REVISION, self.caps, catalogue=self._catalogue, book=self._book)

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold a batch; see `FoldHandler.fold`."""
        return fold_slices(slices, budget, partial(_CostFold, self._pricer))


class _CostFold:
    """The fold of one batch; see `consumers.folding.Fold`."""

    def __init__(self, pricer: PricesEvents) -> None:
        self.delta = Delta()
        self._pricer = pricer
        self._requests: ByCell[tuple[Priced, int]] = ByCell(self.delta)
        self._money: ByName[int | None] = ByName(self.delta)
        self._runs: dict[tuple[int, str, str, str], list[int | None]] = {}

    def add(self, frame: Frame, event: Event) -> None:
        if not isinstance(event, UsageEvent):
            return
        priced = self._pricer.price(event)
        self._requests.of(frame.resource, event).append((priced, event.input_tokens + event.output_tokens))
        self._money.note(event, priced.nano_usd)
        if event.run_id:
            self._of_run(event).append(priced.nano_usd)

    def _of_run(self, event: UsageEvent) -> list[int | None]:
        hour_s = hour_start_s(event.time_us)
        place = hour_s, event.agent, event.run_id, event.session
        found = self._runs.get(place)
        if found is None:
            name = msgspec.json.encode(place[1:]).decode()
            found = self._runs[place] = self._money.of("run", hour_s, name)
        return found

    def close(self) -> None:
        for cell, requests in self._requests:
            _sum_up(cell, requests)
        for names, money in self._money:
            costs = [nano_usd for nano_usd in money if nano_usd is not None]
            add(names, REQUESTS, len(money))
            if costs:
                add(names, COST, sum(costs))
            if len(money) > len(costs):
                add(names, UNPRICED, len(money) - len(costs))


def _sum_up(cell: Measures, requests: Sequence[tuple[Priced, int]]) -> None:
    costs = [priced.nano_usd for priced, _ in requests if priced.nano_usd is not None]
    if costs:
        add(cell, PRICED, len(costs))
        observe(cell, COST, costs)
    unpriced = [tokens for priced, tokens in requests if priced.nano_usd is None]
    if unpriced:
        add(cell, UNPRICED, len(unpriced))
        add(cell, UNPRICED_TOKENS, sum(unpriced))
    told = [priced.provider_nano_usd for priced, _ in requests if priced.provider_nano_usd is not None]
    if told:
        add(cell, PROVIDER_COST, sum(told))
