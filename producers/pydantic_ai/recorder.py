"""The recorder: where events leave for the telemetry, and where faults of ours end."""

import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeVar

from pipeline.events import Event
from pipeline.log import say
from producers.exceptions import fault
from producers.inflight import OpenOperations
from producers.pydantic_ai.facts import Asked
from producers.pydantic_ai.watches import Request, Run, Tool, Watch

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("sidestream.pydantic_ai")


class SupportsEmit(Protocol):
    """What takes the events, and follows what is open: it never blocks and never raises."""

    @property
    def enabled(self) -> bool:
        """Whether anything is taken."""
        ...

    @property
    def open_operations(self) -> OpenOperations:
        """What has begun and not ended."""
        ...

    def emit(self, event: Event) -> bool:
        """Take one event; False when it was shed or is invalid."""
        ...


class Recorder:
    """Open watches as operations start; every call into it goes through `safely`."""

    def __init__(self, telemetry: SupportsEmit) -> None:
        self.faults = 0
        self._telemetry = telemetry
        # Weak: a run that a durable engine replays is dropped without an end.
        self._runs: weakref.WeakValueDictionary[str, Run] = weakref.WeakValueDictionary()
        self._waiting = _Waiting()

    def emit(self, event: Event) -> None:
        """Hand `event` to the telemetry."""
        self._telemetry.emit(event)

    def safely(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Call `function`; None when it raises, which is counted and logged once, and never reaches the application."""
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the application's run is protected here, and only here
            self.faults += 1
            if self.faults == 1:
                say(_log, logging.WARNING, "capturing from pydantic-ai failed, the run goes on", fault=fault(error))
            return None

    def start(self, name: str, attributes: dict[str, object]) -> Watch | None:
        """Watch what pydantic-ai opens a span for, by its semantic convention; None for anything else."""
        watch = self._open(name, attributes)
        if watch is not None:
            self._follow(watch)
        return watch

    def _follow(self, watch: Watch) -> None:
        if self._telemetry.enabled:
            # By itself: a watch that is not followed still reports.
            self.safely(self._telemetry.open_operations.begin, watch)

    def _open(self, name: str, attributes: dict[str, object]) -> Watch | None:
        match attributes.get("gen_ai.operation.name"):
            case "invoke_agent":
                run = Run(self.emit, attributes)
                self._runs[run.run_id] = run
                return run
            case "chat":
                self.settle_waiting()
                return Request(self.emit, attributes, Asked(model=name.removeprefix("chat ")), self._runs)
            case "execute_tool":
                return Tool(self.emit, attributes)
            case _:
                return None

    def finish(self, watch: Watch, error: BaseException | None) -> None:
        """Close `watch`; a request that got its response waits for `account`, which follows at once."""
        self.safely(self._telemetry.open_operations.end, watch)
        watch.finish(error)
        if isinstance(watch, Request):
            self.settle_waiting()
            if watch.response is not None:
                self._waiting.request = watch
            else:
                watch.settle(None)

    def account(self, response: object, ttft_s: object) -> None:
        """Settle the request that just ended in this thread with the response as it was billed.

        Hooks may have changed what the agent got; pydantic-ai reports what the provider counted only here, right after
        the span's end.
        """
        request, self._waiting.request = self._waiting.request, None
        if request is not None:
            request.set_ttft(ttft_s)
            request.settle(response)

    async def watch_request(self, operation: str, model: object, answering: Awaitable[R]) -> R:
        """Await an answer that no span of pydantic-ai's stands around, and report the request.

        Args:
            operation: What is asked for, by the semantic conventions: `embeddings`, `image_generation`.
            model: Says its `model_name` and `system`, the provider.
            answering: Gives the response.
        """
        request = self.safely(self._open_request, operation, model)
        try:
            response = await answering
        except BaseException as error:
            self.safely(self._close_request, request, None, error)
            raise
        self.safely(self._close_request, request, response, None)
        return response

    def _open_request(self, operation: str, model: object) -> Request:
        attributes: dict[str, object] = {
            "gen_ai.request.model": getattr(model, "model_name", ""),
            "gen_ai.provider.name": getattr(model, "system", ""),
        }
        request = Request(self.emit, attributes, Asked(operation=operation), self._runs)
        self._follow(request)
        return request

    def _close_request(self, request: Request | None, response: object, error: BaseException | None) -> None:
        if request is None:
            return  # it could not be opened
        self.safely(self._telemetry.open_operations.end, request)
        request.finish(error)
        request.settle(response)

    def settle_waiting(self) -> None:
        """Settle a request whose account never came with the response it got."""
        request, self._waiting.request = self._waiting.request, None
        if request is not None:
            request.settle(request.response)


class _Waiting(threading.local):
    """The request of this thread that has ended and waits for its account."""

    request: Request | None = None
