"""A request to a model, made by hand: timed, followed while it is open, and reported once, however it ends.

Keeps: entering and leaving never raise, and never swallow what the application raises.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from pipeline.presence import OpenOperation
from producers.context import CONTEXT, RUN, RunContext
from producers.exceptions import status_of, type_name
from producers.inflight import storable

if TYPE_CHECKING:
    from producers.responses import ResponseUsage
    from producers.telemetry import Telemetry


class ModelRequest:
    """One request to a model; may be entered once. Inside it are the call and the reading of its answer."""

    __slots__ = (
        "__weakref__",
        "_agent",
        "_answer",
        "_entered",
        "_model",
        "_operation",
        "_outer",
        "_provider",
        "_session",
        "_started_ns",
        "_telemetry",
        "_ttft_us",
        "kind",
        "operation_id",
        "started_us",
    )

    def __init__(self, telemetry: "Telemetry", agent: str, model: str, provider: str, operation: str) -> None:
        self._telemetry = telemetry
        self._agent = storable(agent)
        self._model = storable(model)
        self._provider = storable(provider)
        self._operation = storable(operation)
        self._answer: Mapping[str, Any] = {}
        self._ttft_us: int | None = None
        self._entered = False
        self._outer = RunContext()
        self._session = ""
        self._started_ns = 0
        self.started_us = 0
        self.kind = "request"
        self.operation_id = ""

    def first_token(self) -> None:
        """Say that the answer begins: the first call counts as the time to the first token."""
        if self._ttft_us is None and self._entered:
            self._ttft_us = (time.perf_counter_ns() - self._started_ns) // 1000

    def answered(self, usage: "ResponseUsage") -> None:
        """Keep what the answer says, to be reported at the end; of several the last holds.

        Args:
            usage: What `openai_usage` or `anthropic_usage` read from it, or the same fields by hand.
        """
        self._answer = cast("Mapping[str, Any]", usage)

    def __enter__(self) -> Self:
        telemetry = self._telemetry
        if not telemetry.enabled:
            telemetry.notice_off()
            return self
        self._outer = RUN.get()
        self._agent = self._agent or self._outer.agent
        self._session = CONTEXT.get().session
        self.operation_id = telemetry.new_id()
        self.started_us = time.time_ns() // 1000
        telemetry.open_operations.begin(self)
        self._entered = True
        self._started_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._entered:
            return
        duration_us = (time.perf_counter_ns() - self._started_ns) // 1000
        self._entered = False
        telemetry = self._telemetry
        telemetry.open_operations.end(self)
        status = status_of(error)
        failed = error is not None and status == "error"
        if failed and error is not None:
            # Its text is not passed on: what a provider says in its errors may quote the prompt. `error` knows how.
            telemetry.error(
                error,
                code=_code(error),
                agent=self._agent,
                model=self._model,
                operation=self._operation,
                span_id=self.operation_id,
            )
        fields: dict[str, Any] = {**self._said(), "duration_us": duration_us, "status": status}
        if failed and error is not None:
            fields["error_type"] = type_name(error)
        telemetry.usage(self._agent, **fields)

    def _said(self) -> dict[str, Any]:
        """Return what the answer said; of model and provider what was asked holds, where it was told."""
        answer = _plain(self._answer)
        return {
            **answer,
            "model": self._model or answer.get("model", ""),
            "provider": self._provider or answer.get("provider", ""),
            "operation": self._operation,
            "ttft_us": self._ttft_us,
            "span_id": self.operation_id,
        }

    def open_operation(self) -> OpenOperation:
        """Say what it is, while it is open."""
        return OpenOperation(
            self._operation,
            self._agent,
            self.started_us,
            kind=self.kind,
            model=self._model,
            operation_id=self.operation_id,
            run_id=self._outer.run_id,
            parent_id=self._outer.operation_id,
            session=self._session,
        )


def _plain(answer: object) -> dict[str, Any]:
    """Return an answer's fields; none where the application passed something else."""
    if not isinstance(answer, Mapping):
        return {}
    fields = cast("Mapping[Any, Any]", answer).items()
    return {name: value for name, value in fields if isinstance(name, str) and name != "agent"}


def _code(error: BaseException) -> str:
    """Return the HTTP status that a vendor's exception carries, as a word; empty where there is none."""
    try:
        status: object = getattr(error, "status_code", None)
    except Exception:  # noqa: BLE001 - an exception's own attributes may do anything
        return ""
    return str(status) if isinstance(status, int) else ""
