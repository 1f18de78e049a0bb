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
    """Return the name of an exception's type, without its module: all that a vendor's saved attempts carry of it."""
    return (error if isinstance(error, type) else type(error)).__name__
