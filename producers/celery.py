"""Celery: drain telemetry in every child that a worker ends or recycles.

A prefork child runs neither `atexit` nor any other hook of the interpreter, only `worker_process_shutdown`; a child
starts afresh by itself, in `producers.telemetry`, when it is forked. A worker without children (the pools solo and
threads) ends as any script does: `atexit` drains it.
"""

from typing import Final, Protocol, cast

from celery import signals

from producers.telemetry import Telemetry

_UID: Final = "sidestream-drain"


class _Signal(Protocol):
    """What is used of Celery's signals, which have no types."""

    def connect(self, receiver: object, *, weak: bool, dispatch_uid: str) -> object: ...


def instrument(telemetry: Telemetry, timeout_s: float | None = None) -> bool:
    """Close `telemetry` when a child of a worker ends; calling it again changes nothing.

    Args:
        telemetry: What to close.
        timeout_s: Seconds a process may wait for Redis; by default the setting `close_timeout_s`.

    Returns:
        True: it is connected.
    """

    def drain(**_: object) -> None:
        telemetry.close(timeout_s)

    cast("_Signal", signals.worker_process_shutdown).connect(drain, weak=False, dispatch_uid=_UID)
    return True


__all__ = ["instrument"]
