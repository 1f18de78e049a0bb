"""Doors: functions of pydantic-ai's that hand out what a run works with, exchanged for ours while we watch.

Keeps:
- A door whose function is not the one we know stays as it is, and is said to be shut.
- What is put in place is taken out again; where someone else has wrapped it meanwhile, ours only passes through.
- A fault of ours hands out what pydantic-ai would have handed out.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Final, cast

Exchange = Callable[[Any], Any]
"""Takes what pydantic-ai hands out; returns what a run shall work with."""


class Door:
    """One function, known by its place and its parameters.

    Args:
        owner: The class or module it stands in.
        name: Its name there.
        parameters: The names of its parameters, in order.
        behind: What is not observed while it is shut.
        exchange: What is done with its result.
    """

    def __init__(
        self, owner: type | ModuleType, name: str, parameters: tuple[str, ...], *, behind: str, exchange: Exchange
    ) -> None:
        self.behind: Final = behind
        self.is_open = False
        self._owner = owner
        self._name = name
        self._parameters = parameters
        self._exchange = exchange
        self._original: object = None
        self._ours: object = None

    def open(self) -> bool:
        """Put ours in place; False where the function is not the one we know."""
        original: object = vars(self._owner).get(self._name)
        if not inspect.isfunction(original) or tuple(inspect.signature(original).parameters) != self._parameters:
            return False
        self._original = original
        self._ours = self._awaited(original) if inspect.iscoroutinefunction(original) else self._called(original)
        setattr(self._owner, self._name, self._ours)
        self.is_open = True
        return True

    def close(self) -> None:
        """Take ours out, where it still stands there."""
        if self.is_open and vars(self._owner).get(self._name) is self._ours:
            setattr(self._owner, self._name, self._original)
        self.is_open = False

    def _called(self, original: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(original)
        def ours(*args: object, **kwargs: object) -> object:
            handed_out = original(*args, **kwargs)
            return self._exchange(handed_out) if self.is_open else handed_out

        return ours

    def _awaited(self, original: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(original)
        async def ours(*args: object, **kwargs: object) -> object:
            handed_out = await cast("Awaitable[object]", original(*args, **kwargs))
            return self._exchange(handed_out) if self.is_open else handed_out

        return ours
