"""A price book of the storm that differs from the shipped one, in a place where a trial's process finds it too."""

from msgspec.structs import replace

from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.pricing import PriceBook, Priced
from pipeline.events import UsageEvent
from sidestream import compose


class DoublePricer(Pricer):
    """Asks twice what the catalogue does."""

    def price(self, event: UsageEvent) -> Priced:
        """Price one request."""
        priced = super().price(event)
        if priced.nano_usd is None or priced.provider_nano_usd is not None:
            return priced
        return replace(priced, nano_usd=2 * priced.nano_usd)


def double_pricer() -> DoublePricer:
    """Return what prices by the other book."""
    return DoublePricer(Catalogue(), PriceBook("double"))


def double_cost_handler() -> CostHandler:
    """Return the handler that prices by the other book."""
    pricer = double_pricer()
    return CostHandler(pricer, pricer.catalogue.version, pricer.book.hash)


def use_book(name: str) -> None:
    """Price by another book in this process."""
    if name == "double":
        compose._pricer = double_pricer  # pyright: ignore[reportPrivateUsage] # noqa: SLF001
        compose.cost_handler = double_cost_handler
