"""The two kinds of effect a unit can have, under one face: a fold into Redis, or a delivery to somewhere else."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias

from consumers.contract import Sink, Slice
from consumers.folding import Folded, FoldHandler
from consumers.state import Caps, Delta

Kind: TypeAlias = Literal["fold", "sink"]
Start: TypeAlias = Literal["oldest", "end"]

VALUE_BUDGET: Final = 5_000
"""Values one commit may set (a cell's has some 400 bytes): nobody else is served while the server does so."""

UNLIMITED: Final = 10**9


class Effect(Protocol):
    """What a unit does with the events it reads."""

    name: str
    kind: Kind
    start: Start
    caps: Caps
    ranked_by: Mapping[str, str]

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
    """A fold: its effect is the values of the commit itself, and so happens exactly once."""

    kind: Kind = "fold"
    start: Start = "oldest"

    def __init__(self, handler: FoldHandler) -> None:
        self.name = handler.name
        self.caps = handler.caps
        self.ranked_by = handler.ranked_by
        self._handler = handler
        recipe = handler.recipe()
        self._recipe = recipe.hash(), recipe.text()

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
