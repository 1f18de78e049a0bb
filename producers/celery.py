"""Celery: a task's events are about its caller's session, and every process drains when a worker ends or recycles it.

A prefork child runs neither `atexit` nor any other hook of the interpreter, only `worker_process_shutdown`; a child
starts afresh by itself, in `producers.telemetry`, when it is forked. A worker without children (the pools solo and
threads) ends as any script does: `atexit` drains it.

Keeps:
- What a task sends, returns and raises is unchanged; a fault of ours fails no task and loses no message.
- The context travels in a header of its own in the message, and is left behind when the task ends, however it ends.
- A task that fails gives one error, unless a place further in has reported it; a retry gives none.
"""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from celery import signals

from producers import propagation
from producers.context import CONTEXT
from producers.exceptions import fault
from producers.telemetry import Telemetry

if TYPE_CHECKING:
    from producers.scopes import SessionContext

LOG: Final = logging.getLogger("sidestream")

_UID: Final = "sidestream"
HEADER: Final = "sidestream_baggage"
"""Not `baggage`: OpenTelemetry's own instrumentation writes that one."""


class _Signal(Protocol):
    """What is used of Celery's signals, which have no types."""

    def connect(self, receiver: object, *, weak: bool, dispatch_uid: str) -> object: ...
    def disconnect(self, *, dispatch_uid: str) -> object: ...


class _Tasks:
    """What happens to tasks, on both sides.

    Args:
        telemetry: What reports.
        timeout_s: Seconds a process may wait for Redis at its end.
    """

    def __init__(self, telemetry: Telemetry, timeout_s: float | None) -> None:
        self._telemetry = telemetry
        self._timeout_s = timeout_s
        self._entered: dict[str, SessionContext] = {}

    def publish(self, headers: object = None, **_: object) -> None:
        """Send the context of the caller with the task."""
        found = propagation.to_headers(CONTEXT.get()).get(propagation.HEADER)
        if found is not None and isinstance(headers, MutableMapping):
            cast("MutableMapping[str, object]", headers)[HEADER] = found

    def begin(self, task_id: str = "", task: object = None, **_: object) -> None:
        """Enter the context that came with a task."""
        carried = _carried(getattr(task, "request", None))
        if carried is not None:
            context = self._telemetry.session_context.from_headers({propagation.HEADER: carried})
            context.__enter__()
            self._entered[task_id] = context

    def fail(self, sender: object = None, exception: object = None, **_: object) -> None:
        """Report what a task raised, while its context stands."""
        if isinstance(exception, BaseException):
            self._telemetry.error(_raised(exception), operation=str(getattr(sender, "name", "")))

    def end(self, task_id: str = "", **_: object) -> None:
        """Leave the context."""
        context = self._entered.pop(task_id, None)
        if context is not None:
            context.__exit__(None, None, None)

    def drain(self, **_: object) -> None:
        """Publish what is buffered, and say goodbye."""
        self._telemetry.close(self._timeout_s)


def _raised(exception: BaseException) -> BaseException:
    """Return what the task raised.

    Of an exception that cannot be pickled Celery (5.7, `get_pickleable_exception`) hands on a copy: of one of its base
    classes or wrapped, and not marked as reported.
    """
    raised = sys.exception()
    copied = isinstance(raised, type(exception)) or type(exception).__name__ == "UnpickleableExceptionWrapper"
    return raised if raised is not None and copied else exception


def instrument(telemetry: Telemetry, timeout_s: float | None = None) -> bool:
    """Follow Celery's tasks, and close `telemetry` when a child of a worker ends; again, the later call holds.

    Args:
        telemetry: What reports.
        timeout_s: Seconds a process may wait for Redis; by default the setting `close_timeout_s`.

    Returns:
        True: it is connected.
    """
    tasks = _Tasks(telemetry, timeout_s)
    for name, receiver in {
        "before_task_publish": tasks.publish,
        "task_prerun": tasks.begin,
        "task_failure": tasks.fail,
        "task_postrun": tasks.end,
        "worker_process_shutdown": tasks.drain,
    }.items():
        signal = cast("_Signal", getattr(signals, name))
        uid = f"{_UID}-{name}"
        signal.disconnect(dispatch_uid=uid)
        signal.connect(_guarded(receiver), weak=False, dispatch_uid=uid)
    return True


def _carried(request: object) -> object:
    """Return what came with a task: workers make attributes of a message's headers, or keep them as headers."""
    headers: object = getattr(request, "headers", None)
    kept = cast("Mapping[str, object]", headers).get(HEADER) if isinstance(headers, Mapping) else None
    return getattr(request, HEADER, None) or kept


def _guarded(receiver: Callable[..., None]) -> Callable[..., None]:
    def guarded(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - whatever Celery passes
        try:
            receiver(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the task goes on
            LOG.error("telemetry met an error of its own beside a task, which goes on: %s", fault(error))  # noqa: TRY400

    return guarded


__all__ = ["instrument"]
