"""What a fold gathers before it adds it up: a list a cell or name, so that what is summed is summed as a column.

Keeps: a cell or name enters the delta with its first event, so a cap admits the same names as without gathering.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from consumers.state import Delta, Measures, cell_of
from consumers.windows import TEN_SECONDS, hour_start_s
from pipeline.events import Resource, UsageEvent
from pipeline.units import US_PER_S

T = TypeVar("T")

_FINEST_US: Final = TEN_SECONDS.width_s * US_PER_S


class ByCell(Generic[T]):
    """Lists by the cell and window of a request.

    Args:
        delta: Where cells are entered.
    """

    def __init__(self, delta: Delta) -> None:
        self._delta = delta
        self._resource: Resource | None = None
        self._lists: dict[tuple[int, str, str, str, str, str], list[T]] = {}
        """Of the resource that is being looked at: (window, tenant, agent, model, state, status) -> list."""
        self._by_resource: dict[Resource, dict[tuple[int, str, str, str, str, str], list[T]]] = {}
        self._gathered: list[tuple[Measures, list[T]]] = []

    def of(self, resource: Resource, event: UsageEvent) -> list[T]:
        """Return the list of a request's cell, to be appended to."""
        if resource is not self._resource:
            self._resource = resource
            self._lists = self._by_resource.setdefault(resource, {})
        model = event.model or event.response_model
        place = event.time_us // _FINEST_US, event.tenant, event.agent, model, event.state, event.status
        found = self._lists.get(place)
        if found is None:
            found = self._lists[place] = []
            window, tenant, agent, model, state, status = place
            cell = cell_of(resource, tenant, (agent, model, state, status))
            self._gathered.append((self._delta.cell(window * TEN_SECONDS.width_s, cell), found))
        return found

    def __iter__(self) -> Iterator[tuple[Measures, list[T]]]:
        """Iterate over the lists, each with the measures of its cell."""
        return iter(self._gathered)


class ByName(Generic[T]):
    """Lists by the name and hour of a marginal.

    Args:
        delta: Where names are entered.
    """

    def __init__(self, delta: Delta) -> None:
        self._delta = delta
        self._lists: dict[tuple[str, int, str], list[T]] = {}

    def of(self, dimension: str, hour_s: int, name: str) -> list[T]:
        """Return the list of a name, to be appended to."""
        place = dimension, hour_s, name
        found = self._lists.get(place)
        if found is None:
            found = self._lists[place] = []
            self._delta.name(dimension, hour_s, name)
        return found

    def note(self, event: UsageEvent, value: T) -> None:
        """Append a value to the lists of a request's tags, its session and its user."""
        hour_s = hour_start_s(event.time_us)
        if event.tags:
            for tag in dict.fromkeys(event.tags):
                self.of("tag", hour_s, tag).append(value)
        if event.session:
            self.of("session", hour_s, event.session).append(value)
        if event.user:
            self.of("user", hour_s, event.user).append(value)

    def __iter__(self) -> Iterator[tuple[Measures, list[T]]]:
        """Iterate over the lists, each with the measures of its name."""
        return ((self._delta.marginals[place], found) for place, found in self._lists.items())
