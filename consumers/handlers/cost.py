"""The `cost` handler: nano-dollars by cell and by marginal, at the price of the event's own time.

An unknown price is *unpriced*: counted, with its tokens, and never 0.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from consumers.contract import Slice
from consumers.folding import Folded, fold_slices
from consumers.histogram import UPPER_BOUNDS, bucket_names
from consumers.measures import COST, PRICED, PROVIDER_COST, REQUESTS, UNPRICED, UNPRICED_TOKENS
from consumers.pricing import Priced
from consumers.recipe import Recipe
from consumers.state import Caps, Delta, add, cell_of
from consumers.windows import HOUR_S, finest_start_s
from pipeline.events import Event, UsageEvent
from pipeline.wire import Frame

FOLD_REVISION: Final = 2

_COST_BUCKETS: Final = bucket_names(COST)
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
        return fold_slices(slices, budget, self._fold_event)

    def _fold_event(self, delta: Delta, frame: Frame, event: Event) -> None:
        if not isinstance(event, UsageEvent):
            return
        priced = self._pricer.price(event)
        start_s = finest_start_s(event.time_us)
        model = event.model or event.response_model
        cell = delta.cell(
            start_s, cell_of(frame.resource, event.tenant, (event.agent, model, event.state, event.status))
        )
        if priced.nano_usd is None:
            add(cell, UNPRICED, 1)
            add(cell, UNPRICED_TOKENS, event.input_tokens + event.output_tokens)
        else:
            add(cell, COST, priced.nano_usd)
            add(cell, PRICED, 1)
            add(cell, _COST_BUCKETS[bisect_left(UPPER_BOUNDS, priced.nano_usd)], 1)
        if priced.provider_nano_usd is not None:
            add(cell, PROVIDER_COST, priced.provider_nano_usd)
        _add_marginals(delta, event, start_s, priced.nano_usd)


def _add_marginals(delta: Delta, event: UsageEvent, start_s: int, nano_usd: int | None) -> None:
    hour_s = start_s - start_s % HOUR_S
    for dimension, name in _marginals(event):
        measures = delta.name(dimension, hour_s, name)
        add(measures, REQUESTS, 1)
        if nano_usd is None:
            add(measures, UNPRICED, 1)
        else:
            add(measures, COST, nano_usd)


def _marginals(event: UsageEvent) -> list[tuple[str, str]]:
    found = [("tag", tag) for tag in dict.fromkeys(event.tags)]
    if event.session:
        found.append(("session", event.session))
    if event.user:
        found.append(("user", event.user))
    if event.run_id:
        found.append(("run", msgspec.json.encode((event.agent, event.run_id, event.session)).decode()))
    return found
