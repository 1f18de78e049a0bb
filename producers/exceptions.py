"""What an exception says of how something ended."""

from pipeline.events import Status

_CANCELLED = frozenset({"CancelledError", "Cancelled", "KeyboardInterrupt", "SystemExit"})
"""By name, so that neither asyncio nor trio is imported for it."""


def status_of(error: BaseException | None) -> Status:
    """Return how something ended that raised `error`: a cancelled or interrupted one is no error."""
    if error is None:
        return "ok"
    if isinstance(error, GeneratorExit):
        return "interrupted"
    if any(kind.__name__ in _CANCELLED for kind in type(error).__mro__):
        return "cancelled"
    return "error"


def type_name(error: BaseException | type[BaseException]) -> str:
    """Return the qualified name of an exception's type, without the module of the built-in ones."""
    kind = error if isinstance(error, type) else type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
