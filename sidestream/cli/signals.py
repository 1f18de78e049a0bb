"""How commands that go on until they are told to stop are told: by SIGINT or SIGTERM, with time to hand over."""

import signal
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from pipeline.errors import SidestreamError

T = TypeVar("T")

GRACE_S: Final = 15.0
"""After a signal: what is in hand is finished or given up within it."""


async def until_signal(run: Callable[[], Awaitable[T]], stop: Callable[[], None]) -> T | None:
    """Run something to its end, which `stop` asks for; return None where it did not come to it in time.

    Raises:
        SidestreamError: From `run`.
    """
    failed: SidestreamError | None = None
    result: T | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_stop_on_signal, stop, group.cancel_scope)
        try:
            result = await run()
        except SidestreamError as error:
            # Raised from here it would come in a group, which nobody expects.
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return result


async def _stop_on_signal(stop: Callable[[], None], scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop()
            # A second signal does not move the deadline.
            scope.deadline = min(scope.deadline, anyio.current_time() + GRACE_S)
