"""The kinds of effect a unit can have, under one face: a fold into Redis, a delivery to somewhere else, an archive."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias

from consumers.contract import Archive, Sink, Slice
from consumers.folding import Folded, FoldHandler
from consumers.state import Caps, Delta

Kind: TypeAlias = Literal["fold", "sink", "archive"]
Start: TypeAlias = Literal["oldest", "end"]

VALUE_BUDGET: Final = 8_000
"""Values one commit may set (a cell's has some 400 bytes): 5 to 10 ms in which the server serves nobody else."""

UNLIMITED: Final = 10**9


class Effect(Protocol):
    """What a unit does with the events it reads."""

    name: str
    kind: Kind
    start: Start
    caps: Caps
    ranked_by: Mapping[str, str]
    factory: str
    """What builds its handler, as `module:name`, for another interpreter; empty where that cannot be done."""

    def recipe(self) -> tuple[str, str]:
        """Return the hash and the text of the recipe."""
        ...

    async def apply(self, slices: Sequence[Slice], budget: int = ...) -> Folded:
        """Take a batch, or its beginning within a budget of values; what is returned is committed with the cursor."""
        ...

    async def aclose(self) -> None:
        """Let go of what it holds."""
        ...


class FoldEffect:
    """A fold: its effect is the values of the commit itself, and so happens exactly once.

    Args:
        handler: The fold.
        factory: See `Effect`; `of` gives both.
    """

    kind: Kind = "fold"
    start: Start = "oldest"

    def __init__(self, handler: FoldHandler, factory: str = "") -> None:
        self.name = handler.name
        self.caps = handler.caps
        self.ranked_by = handler.ranked_by
        self.factory = factory
        self._handler = handler
        recipe = handler.recipe()
        self._recipe = recipe.hash(), recipe.text()

    @classmethod
    def of(cls, factory: Callable[[], FoldHandler]) -> "FoldEffect":
        """Return the fold of a handler that any interpreter can build: by a function or class of a module.

        Raises:
            ValueError: Another interpreter would not find `factory` under its name.
        """
        return cls(factory(), _name_of(factory))

    def recipe(self) -> tuple[str, str]:
        """Return the hash and the text of the recipe."""
        return self._recipe

    async def apply(self, slices: Sequence[Slice], budget: int = VALUE_BUDGET) -> Folded:
        """Fold a batch within the budget of one commit."""
        return self._handler.fold(slices, budget)

    async def aclose(self) -> None:
        """Hold nothing, let go of nothing."""


class SinkEffect:
    """A delivery: at least once, under identities that let the far side see a repeat."""

    kind: Kind = "sink"
    start: Start = "end"
    caps = Caps()
    ranked_by: Mapping[str, str] = MappingProxyType({})
    factory = ""
    """A delivery is never tried in another process: it would be one more."""

    def __init__(self, sink: Sink) -> None:
        self.name = sink.name
        self._sink = sink

    def recipe(self) -> tuple[str, str]:
        """Return one fixed recipe: a sink keeps no state that a recipe could change."""
        return "none", "{}"

    async def apply(self, slices: Sequence[Slice], budget: int = UNLIMITED) -> Folded:
        """Deliver a batch; the cursor moves after it."""
        del budget
        dead = list(await self._sink.deliver(slices)) if slices else []
        return Folded(Delta(), dead, whole=len(slices))

    async def aclose(self) -> None:
        """Close the sink."""
        await self._sink.aclose()


class ArchiveEffect:
    """An archive: entries are kept as they are, readable or not (`consumers.runtime.archiving`)."""

    kind: Kind = "archive"
    start: Start = "oldest"
    caps = Caps()
    ranked_by: Mapping[str, str] = MappingProxyType({})
    factory = ""
    """Nothing of an entry but the times of its events is looked at."""

    def __init__(self, archive: Archive) -> None:
        self.name = archive.name
        self.archive = archive

    def recipe(self) -> tuple[str, str]:
        """Return one fixed recipe: what is kept hangs on nothing."""
        return "none", "{}"

    async def apply(self, slices: Sequence[Slice], budget: int = UNLIMITED) -> Folded:
        """Take a batch as it is: nothing of it is folded."""
        del budget
        return Folded(Delta(), whole=len(slices))

    async def aclose(self) -> None:
        """Close the archive."""
        await self.archive.aclose()


def _name_of(factory: Callable[[], FoldHandler]) -> str:
    name = f"{factory.__module__}:{getattr(factory, '__qualname__', '')}"
    try:
        found = pkgutil.resolve_name(name)
    except (AttributeError, ImportError, ValueError):
        found = None
    if found is not factory or factory.__module__ == "__main__":
        raise ValueError(f"{name}: another interpreter cannot import it; give a function or class of a module")
    return name
