"""Watches: one for each open run, request and tool call; each turns into events when it ends.

Keeps:
- A request is reported once: when it is accounted for, or, where a stream was cut, when its run says who cut it.
- The context (session, user, state) is the one at the start: the state the question was asked in.
- Everything read from a response is a number, a name or a state; its parts are read for the names of tools only.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from pipeline.events import ErrorEvent, Event, OperationEvent, Status
from pipeline.presence import OpenOperation
from producers.context import CONTEXT, RUN, RunContext
from producers.errors_seen import report_once
from producers.pydantic_ai import facts
from producers.pydantic_ai.ids import new_span_id, new_trace_id, span_id_of

if TYPE_CHECKING:
    from weakref import WeakValueDictionary

Emit = Callable[[Event], None]

_CONTROL_FLOW = frozenset({"ApprovalRequired", "CallDeferred", "SkipToolExecution"})
"""How a tool call is put off or answered by someone else: no failure."""

_TOLD_TO_MODEL = frozenset({"ModelRetry", "ToolFailedError", "ToolRetryError"})
"""A tool's answer to the model in the form of an exception. Its text is content, so it gives no ErrorEvent."""


class Watch:
    """What all watches share: when and where the operation began, and the scope of what runs inside it."""

    def __init__(self, emit: Emit, kind: str) -> None:
        self.emit = emit
        self.kind = kind
        self.name = ""
        self.agent = ""
        self.operation_id = ""
        self.context = CONTEXT.get()
        self.state = self.context.state
        self.parent = RUN.get()
        self.trace_id = self.parent.trace_id or new_trace_id()
        self.run_id = self.parent.run_id
        self.span_id = ""
        self.ended_us = 0
        self.duration_us = 0
        self._scope: RunContext | None = None
        self.started_us = time.time_ns() // 1_000
        self._started_ns = time.perf_counter_ns()

    def open_operation(self) -> OpenOperation:
        """Say what it is, while it is open."""
        return OpenOperation(
            self.name,
            self.agent,
            self.started_us,
            kind=self.kind,
            operation_id=self.operation_id,
            run_id=self.run_id,
            parent_id=self.parent.operation_id,
            session=self.context.session,
        )

    def open_scope(self) -> None:
        """Make this operation the parent of all that runs inside it."""
        self._scope = RunContext(self.run_id, self.operation_id, self.agent, self.trace_id)
        RUN.set(self._scope)

    def finish(self, error: BaseException | None) -> None:
        """Stop the clock, leave the scope, and report what there is to report."""
        self.ended_us = time.time_ns() // 1_000
        self.duration_us = (time.perf_counter_ns() - self._started_ns) // 1_000
        # A stream may be closed from another task, where this scope is not the current one: then none is left.
        if self._scope is not None and RUN.get() is self._scope:
            RUN.set(self.parent)
        self.report(error)

    def report(self, error: BaseException | None) -> None:
        """Emit the events of an operation that has ended."""

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """Take what pydantic-ai says about the operation while it runs."""

    def stamp(self) -> facts.Stamp:
        """Return the fields that tie an event to its session and place in the tree."""
        context = self.context
        return facts.Stamp(
            session=context.session,
            user=context.user,
            tenant=context.tenant,
            state=self.state,
            tags=context.tags,
            run_id=self.run_id,
            parent_id=self.parent.operation_id,
            trace_id=self.trace_id,
            span_id=self.span_id,
        )

    def report_error(self, error: BaseException, *, agent: str, model: str = "", operation: str) -> None:
        """Emit one ErrorEvent for `error`, unless a place further in has done so."""
        if not report_once(error):
            return
        self.emit(
            ErrorEvent(
                time_us=self.ended_us,
                type=type(error).__name__,
                message=facts.error_message(error),
                code=facts.error_code(error),
                agent=agent,
                model=model,
                operation=operation,
                **self.stamp(),
            )
        )


class Run(Watch):
    """One run of an agent."""

    def __init__(self, emit: Emit, attributes: Mapping[str, object]) -> None:
        super().__init__(emit, "run")
        self.name = self.agent = facts.text(attributes.get("gen_ai.agent.name"))
        self.operation_id = self.run_id = facts.text(attributes.get("gen_ai.agent.call.id")) or new_trace_id()
        self.span_id = span_id_of(self.run_id)
        self.outcome: Status | None = None
        self.cut: list[Request] = []
        self.open_scope()

    def report(self, error: BaseException | None) -> None:
        """Say who cut the streams of this run, then how it ended."""
        self.outcome = "interrupted" if _reader_left(error) else _status(error)
        cut, self.cut = self.cut, []
        for request in cut:
            request.settle_cut(self.outcome, error)
        if error is not None and self.outcome == "error":
            self.report_error(error, agent=self.agent, operation="run")
        self.emit(
            OperationEvent(
                time_us=self.ended_us,
                name=self.name,
                kind="run",
                duration_us=self.duration_us,
                status=self.outcome,
                agent=self.agent,
                error_type=type(error).__name__ if error is not None and self.outcome == "error" else "",
                operation_id=self.operation_id,
                **self.stamp(),
            )
        )


class Tool(Watch):
    """One call of a tool, or of an output function."""

    def __init__(self, emit: Emit, attributes: Mapping[str, object]) -> None:
        super().__init__(emit, "tool")
        self.name = facts.word(attributes.get("gen_ai.tool.name"))
        self.agent = self.parent.agent or facts.text(attributes.get("gen_ai.agent.name"))
        # pydantic-ai opens a span of its own for a call whose arguments it refused: the tool never ran.
        self.refused = "pydantic_ai.tool.failure_stage" in attributes
        self.operation_id = new_span_id()
        self.span_id = span_id_of(self.operation_id)
        self.open_scope()

    def report(self, error: BaseException | None) -> None:
        """Report the call; an exception only where it is a failure and not the tool's answer to the model."""
        kind = "" if error is None else type(error).__name__
        status: Status = "ok" if kind in _CONTROL_FLOW else _status(error)
        if self.refused:
            kind, status = "validation", "error"
        if error is not None and status == "error" and kind not in _TOLD_TO_MODEL:
            self.report_error(error, agent=self.agent, operation=self.name)
        self.emit(
            OperationEvent(
                time_us=self.ended_us,
                name=self.name,
                kind="tool",
                duration_us=self.duration_us,
                status=status,
                agent=self.agent,
                error_type=kind if status == "error" else "",
                operation_id=self.operation_id,
                **self.stamp(),
            )
        )


class Request(Watch):
    """One request to a model, with the attempts that a fallback made before the one that answered."""

    def __init__(
        self, emit: Emit, attributes: Mapping[str, object], asked: facts.Asked, runs: "WeakValueDictionary[str, Run]"
    ) -> None:
        super().__init__(emit, "request")
        self.name = asked.operation
        self.agent = self.parent.agent or facts.text(attributes.get("gen_ai.agent.name"))
        self.run = runs.get(self.run_id)
        self.operation_id = self.span_id = new_span_id()
        self.response: object | None = None
        self._asked = asked
        # Known only once the request goes to the model: until then hooks may refuse it, and nothing is billed.
        self._sent = False
        self._ttft_us: int | None = None
        self._error: BaseException | None = None
        self.set_attributes(attributes)

    def open_operation(self) -> OpenOperation:
        """Say what it is, and which model is being asked."""
        return msgspec.structs.replace(super().open_operation(), model=self._asked.model)

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """Keep which model and provider were asked; a fallback says it again for the one that answers."""
        model = attributes.get("gen_ai.request.model")
        if isinstance(model, str):
            provider = facts.text(attributes.get("gen_ai.provider.name"))
            self._asked = facts.Asked(model=model, provider=provider, operation=self.name)
            self._sent = True

    def set_ttft(self, seconds: object) -> None:
        """Keep the time from the request to the first chunk of a stream."""
        self._ttft_us = facts.duration_us(seconds)

    def report(self, error: BaseException | None) -> None:
        """Keep the error until the request is settled."""
        self._error = error

    def settle(self, billed: object | None) -> None:
        """Report the request with the response as the provider billed it; None when there was none."""
        error, self._error = self._error, None
        if billed is None:
            self._settle_failed(error)
            return
        self.response = billed
        match facts.state_of(billed), self.run:
            case "interrupted", Run(outcome=None) as run:
                # The consumer left the stream, or the provider broke it: only the run's end can tell.
                run.cut.append(self)
            case "interrupted", Run(outcome=outcome):
                self.settle_cut(outcome, error)
            case "interrupted" | "incomplete", _:
                self.settle_cut(_status(error), error)
            case _:
                # An exception that came after the response is a hook's: the request itself went well.
                self._answered("ok")

    def settle_cut(self, outcome: Status | None, error: BaseException | None) -> None:
        """Report a stream that ended early: broken by the provider, cancelled with its run, or left by its reader."""
        if outcome == "error" and isinstance(error, Exception) and facts.raised_by_model(error):
            self._answered("error", type(error).__name__)
            self.report_error(error, agent=self.agent, model=self._asked.model, operation=self.name)
        elif outcome == "cancelled":
            self._answered("cancelled")
        else:
            self._answered("interrupted")

    def _answered(self, status: Status, error_type: str = "") -> None:
        response, self.response = self.response, None
        attempts = facts.failed_attempts(response)
        self._report_attempts(attempts)
        self.emit(
            facts.usage_event(
                self._timing(),
                self._asked,
                response,
                facts.Outcome(status, error_type, attempt=len(attempts) + 1, ttft_us=self._ttft_us),
                self.stamp(),
            )
        )

    def _settle_failed(self, error: BaseException | None) -> None:
        status = _status(error)
        attempts = facts.attempts_of(error)
        self._report_attempts(attempts)
        if self._sent and not facts.lists_every_attempt(error):
            kind = type(error).__name__ if status == "error" else ""
            outcome = facts.Outcome(status, kind, attempt=len(attempts) + 1)
            self.emit(facts.usage_event(self._timing(), self._asked, None, outcome, self.stamp()))
        if error is not None and status == "error" and type(error).__name__ not in _CONTROL_FLOW_OF_REQUESTS:
            self._report_failure(error)

    def _report_failure(self, error: BaseException) -> None:
        if facts.lists_every_attempt(error):
            # Its attempts have been reported one by one; the group around them is no further error.
            report_once(error)
            return
        self.report_error(error, agent=self.agent, model=self._asked.model, operation=self.name)

    def _report_attempts(self, attempts: list[facts.Attempt]) -> None:
        for number, attempt in enumerate(attempts, start=1):
            # Each attempt is a request of its own, beside the one that answered.
            stamp = self.stamp()
            stamp["span_id"] = new_span_id()
            timing = facts.Timing(self.agent, attempt.ended_us, attempt.duration_us)
            outcome = facts.Outcome("error", attempt.error_type, attempt=number)
            self.emit(facts.usage_event(timing, attempt.asked, attempt, outcome, stamp))
            if attempt.raised:
                self.emit(
                    ErrorEvent(
                        time_us=attempt.ended_us,
                        type=attempt.error_type,
                        code=attempt.code,
                        agent=self.agent,
                        model=attempt.asked.model,
                        operation=self.name,
                        **stamp,
                    )
                )

    def _timing(self) -> facts.Timing:
        return facts.Timing(self.agent, self.ended_us, self.duration_us)


_CONTROL_FLOW_OF_REQUESTS = frozenset({"ModelRetry", "RetryModelRequest", "SkipModelRequest"})
"""How hooks ask for another request, or for none."""


def _status(error: BaseException | None) -> Status:
    """Tell a failure from someone who stopped the operation, and from someone who stopped reading."""
    match error:
        case None:
            return "ok"
        case asyncio.CancelledError():
            return "cancelled"
        case GeneratorExit():
            return "interrupted"
        case KeyboardInterrupt() | SystemExit():
            return "cancelled"
        case _:
            return "error"


def _reader_left(error: BaseException | None) -> bool:
    """Tell a reader who left the run early from a cancelled run.

    pydantic-ai keeps a run's hooks in a task of their own: it cancels that task when the reader leaves, and throws the
    run's own cancellation into it without cancelling it.
    """
    if not isinstance(error, asyncio.CancelledError):
        return False
    with suppress(RuntimeError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return False
