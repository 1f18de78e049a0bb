"""What an exception says of how something ended."""

from pipeline.events import Status

_CANCELLED = frozenset({"CancelledError", "Cancelled", "KeyboardInterrupt", "SystemExit"})
"""By name, so that neither asyncio nor trio is imported for it."""

_CLIENT_LEFT = frozenset({"WebSocketDisconnect", "ClientDisconnect", "ClientDisconnected", "ConnectionClosedOK"})
"""What Starlette, uvicorn and websockets raise when the other side goes; by name too."""

_ANSWERS = frozenset({"HTTPException", "WebSocketException"})
"""How Starlette and FastAPI answer by an exception: below 500 it says what the client did, not that we failed."""

_SERVER_ERROR = 500


def status_of(error: BaseException | None) -> Status:
    """Return how something ended that raised `error`: cancelled, left by its client, or answered is no error."""
    if error is None:
        return "ok"
    if isinstance(error, GeneratorExit):
        return "interrupted"
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _CANCELLED:
        return "cancelled"
    if names & _CLIENT_LEFT:
        return "interrupted"
    if names & _ANSWERS and _is_an_answer(error):
        return "ok"
    return "error"


def _is_an_answer(error: BaseException) -> bool:
    status: object = getattr(error, "status_code", None)
    return not isinstance(status, int) or status < _SERVER_ERROR


def type_name(error: BaseException | type[BaseException]) -> str:
    """Return the name of an exception's type, without its module: all that a vendor's saved attempts carry of it."""
    return (error if isinstance(error, type) else type(error)).__name__
