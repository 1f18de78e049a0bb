"""Telemetry: what an application calls, synchronous, in about a microsecond.

Keeps:
- No call waits for anything, touches the network, or raises, whatever the arguments hold; what cannot be stored is
  counted `invalid`, what finds no room is counted `shed`.
- Every call that is counted as offered is found again in `statistics()`.
- A forked child speaks for itself: it drops the buffer it inherited (those events are the parent's), and gets an id,
  a buffer and a thread of its own at its first event.
"""

import atexit
import dataclasses
import importlib
import itertools
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Literal, TypedDict, Unpack

import msgspec

from pipeline import limits
from pipeline.events import ErrorEvent, Event, OperationEvent, Status, TransitionEvent, UsageEvent
from pipeline.redact import Redactor
from producers import propagation
from producers.buffer import SMALL_EVENT_CHARS, Buffer
from producers.context import CONTEXT, RUN, Context, move_state
from producers.errors_seen import report_once
from producers.exceptions import own_words, type_name
from producers.inflight import OpenOperations
from producers.ledger import Counts, Ledger
from producers.publisher import Publisher
from producers.refusals import what_is_wrong
from producers.requests import ModelRequest
from producers.scopes import Operation, SessionContexts
from producers.sessions import SessionMemory
from producers.settings import PublishSettings

_now_ns = time.time_ns
_context = CONTEXT.get
_run = RUN.get


class EventDetails(TypedDict, total=False):
    """Who an event is about, where the running context does not say it."""

    time_us: int
    session: str
    user: str
    tenant: str
    state: str
    tags: Sequence[str]
    run_id: str
    parent_id: str
    trace_id: str
    span_id: str


class UsageDetails(EventDetails, total=False):
    """The fields of a request that few callers give; see `pipeline.events.UsageEvent`."""

    operation: str
    error_type: str
    cache_write_tokens: int
    cache_write_1h_tokens: int
    input_audio_tokens: int
    cache_audio_read_tokens: int
    output_audio_tokens: int
    attempt: int
    service_tier: str
    cost_nano_usd: int | None
    tools: Sequence[str]


def _nowhere() -> str | None:
    return None


def _stay_asleep() -> None:
    return None


class Telemetry:
    """Takes events and publishes them from a thread of its own.

    Without settings it is switched off: every call returns at once. `configure` switches it on, in place, so that
    whoever holds one of its methods holds it still.

    Args:
        settings: How to publish; None leaves it off.
        find_url: Says where Redis is, or None while nobody knows; asked at each connection.
    """

    def __init__(self, settings: PublishSettings | None = None, find_url: Callable[[], str | None] = _nowhere) -> None:
        self._settings = self._before_held = settings or PublishSettings()
        self._find_url = find_url
        self.session_context = SessionContexts(self)
        """Makes contexts that tag events with a session and a user; see there."""
        self.holding = False
        """Whether what is reported is held for a test."""
        self.when_forgotten: Callable[[], None] | None = None
        """Called once, by the first call that reports while nobody has configured anything."""
        self._on = False
        self._begin()
        self._on = settings is not None
        _LIVING.add(self)

    def _begin(self) -> None:
        """Start afresh, with nothing buffered and nobody running."""
        settings = _instance_of_this_process(self._settings)
        self.open_operations = OpenOperations(lambda: self._buffer.wake())  # noqa: PLW0108 - `hold` changes it
        self._sessions = SessionMemory()
        self._id_prefix = os.urandom(6).hex()
        self._next_id = itertools.count(1).__next__
        self._buffer = Buffer(settings.buffer_events, settings.buffer_bytes, ledger=Ledger(settings.redact))
        self._count = self._buffer.ledger.offered.count
        self._publisher = Publisher(settings, self._find_url, self._buffer, self.open_operations.older_than)

    def configure(self, settings: PublishSettings, find_url: Callable[[], str | None]) -> None:
        """Switch it on with these settings; one that is on already is closed first."""
        # Here and not on the publisher's thread: an import under way there would break in a child forked meanwhile, and
        # cannot be begun when the interpreter ends.
        importlib.import_module("producers.shipping")
        if settings.spool_dir:
            importlib.import_module("producers.spool_recovery")  # SQLite is for those who spool

        self.close()
        self.when_forgotten = None
        self._settings = settings
        self._find_url = find_url
        self._begin()
        self._on = True

    def hold(self) -> None:
        """Switch it on without publishing: what is reported stays in the buffer, for tests to look at.

        No thread begins, and until `release` nothing that waits for Redis waits.
        """
        self.close()
        self._before_held = self._settings
        self._begin()
        self._buffer.wake = _stay_asleep
        self.holding = True
        self._on = True

    def redact_with(self, redactor: Redactor) -> None:
        """Let what is held look as it would if this had been configured."""
        self._settings = dataclasses.replace(self._settings, redact=redactor)

    def held(self) -> list[Event]:
        """Return the events that are buffered, oldest first."""
        return list(self._buffer.incoming)

    def release(self) -> None:
        """Forget what was held, and switch it off."""
        self._on = self.holding = False
        self.when_forgotten = None  # what is tested need not be configured
        self._settings = self._before_held
        self._begin()

    def after_fork(self) -> None:
        """Begin as a process of its own; called in the forked child, which has no other thread."""
        self._begin()

    def notice_off(self) -> None:
        """Tell, the first time that something would be reported, if nobody has configured anything."""
        tell, self.when_forgotten = self.when_forgotten, None
        if tell is not None and not self._on:
            with suppress(Exception):  # a logger of the application's may do anything
                tell()

    @property
    def enabled(self) -> bool:
        """Whether events are taken."""
        return self._on

    @property
    def service(self) -> str:
        """The application's name, as it was configured."""
        return self._settings.resource.service

    @property
    def redactor(self) -> Redactor:
        """What takes secrets out of messages, as it was configured."""
        return self._settings.redact

    @property
    def producer(self) -> str:
        """The id its frames are appended under; empty before the first event."""
        return self._publisher.producer

    def new_id(self) -> str:
        """Return an id for an operation, unique in this process and, by its random part, beyond."""
        return f"{self._id_prefix}{self._next_id():012x}"

    # Reporting

    def usage(  # noqa: PLR0913 - each names a field of the event
        self,
        agent: str,
        model: str,
        input_tokens: int = 0,
        output_tokens: int = 0,
        *,
        duration_us: int | None = None,
        ttft_us: int | None = None,
        provider: str = "",
        response_model: str = "",
        finish_reason: str = "",
        status: Status = "ok",
        cache_read_tokens: int = 0,
        reasoning_tokens: int = 0,
        **details: Unpack[UsageDetails],
    ) -> bool:
        """Report one request to a model.

        Args:
            agent: Who asked; empty stands for the agent of the running operation.
            model: What was asked for.
            input_tokens: All that went in, cached included.
            output_tokens: All that came out, reasoning included.
            duration_us: Microseconds from request to the end of the answer.
            ttft_us: Microseconds to the first token.
            provider: Who runs the model.
            response_model: What answered, if it differs.
            finish_reason: Why the answer ended.
            status: How the request ended.
            cache_read_tokens: The part of the input that came from a cache.
            reasoning_tokens: The part of the output that was reasoning.
            **details: Any other field of `UsageEvent`.

        Returns:
            Whether it was buffered. Numbers are looked at when it is sent: what is buffered may still be refused, and
            is counted `invalid` then.
        """
        if not self._on:
            if self.when_forgotten is not None:
                self.notice_off()
            return False
        # The fields most calls fill are parameters, the others come as a dictionary: Python pays for each parameter
        # that a call leaves out. `Buffer.offer` stands here in line for the same reason.
        buffer = self._buffer
        try:
            self._count()
            context = _context()
            run = _run()
            if details or (
                len(agent) + len(model) + len(provider) + len(response_model) + len(finish_reason) + len(status)
                > SMALL_EVENT_CHARS - context.chars - run.chars
            ):
                return self._usage_in_full(
                    (agent, model, input_tokens, output_tokens, duration_us, ttft_us, provider, response_model),
                    (finish_reason, status, cache_read_tokens, reasoning_tokens),
                    details,
                )
            event = UsageEvent(
                _now_ns() // 1000,
                agent or run.agent,
                model,
                input_tokens,
                output_tokens,
                duration_us,
                context.session,
                context.user,
                context.tenant,
                context.state,
                context.tags,
                run.run_id,
                run.operation_id,
                run.trace_id,
                "",
                provider,
                response_model,
                "chat",
                status,
                "",
                finish_reason,
                ttft_us,
                cache_read_tokens,
                0,
                0,
                reasoning_tokens,
            )
            incoming = buffer.incoming
            waiting = len(incoming)
            if waiting < buffer.usage_room:
                incoming.append(event)
                if waiting >= buffer.ring_at:
                    buffer.wake()
                return True
        except Exception as error:  # noqa: BLE001 - the application's call must not fail for its telemetry
            texts = {
                "agent": agent,
                "model": model,
                "provider": provider,
                "response_model": response_model,
                "finish_reason": finish_reason,
                "status": status,
            }
            buffer.ledger.invalid("usage", "arguments", why=what_is_wrong(error, texts))
            return False
        buffer.refuse("usage")
        return False

    def _usage_in_full(self, first: tuple[object, ...], second: tuple[object, ...], details: UsageDetails) -> bool:
        agent, model, input_tokens, output_tokens, duration_us, ttft_us, provider, response_model = first
        finish_reason, status, cache_read_tokens, reasoning_tokens = second
        fields = _about(details)
        fields |= {
            "agent": agent or _run().agent,
            "model": model,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "duration_us": duration_us,
            "ttft_us": ttft_us,
            "provider": provider,
            "response_model": response_model,
            "finish_reason": finish_reason,
            "status": status,
            "cache_read_tokens": cache_read_tokens,
            "reasoning_tokens": reasoning_tokens,
        }
        if "tools" in fields:
            fields["tools"] = _strings("tools", fields["tools"])
        return self._buffer.offer(UsageEvent(**fields))  # pyright: ignore[reportArgumentType] - proven when sealed

    def emit(self, event: Event) -> bool:
        """Take an event as it is, but for secrets in the message of an error; return whether it was buffered."""
        if not self._on:
            self.notice_off()
            return False
        self._count()
        return self._offer_error(event) if isinstance(event, ErrorEvent) else self._buffer.offer(event)

    def error(  # noqa: PLR0913 - each names a field of the event
        self,
        error: BaseException | type[BaseException] | str,
        message: str | None = None,
        *,
        code: str = "",
        agent: str = "",
        model: str = "",
        operation: str = "",
        **details: Unpack[EventDetails],
    ) -> bool:
        """Report an error; an exception object that was reported before is passed over.

        Args:
            error: The exception, its type, or the type's name.
            message: What happened, for a person; by default what the exception says, but for what it may quote of a
                provider's answer or a refused input. Secrets are taken out.
            code: A word of low cardinality.
            agent: Whose work failed; empty stands for the agent of the running operation.
            model: The model asked.
            operation: The step that failed.
            **details: Who it is about, where the running context does not say it.

        Returns:
            Whether it was buffered.
        """
        if not self._on:
            self.notice_off()
            return False
        try:
            if isinstance(error, BaseException) and not report_once(error):
                return False
        except Exception:  # noqa: BLE001 - an exception's own attributes may do anything
            return False
        self._count()
        try:
            fields = _about(details)
            fields |= {
                "type": _cut(error if isinstance(error, str) else type_name(error)),
                "message": _message(error, message),
                "code": _cut(code),
                "agent": _cut(agent or _run().agent),
                "model": _cut(model),
                "operation": _cut(operation),
            }
            event = ErrorEvent(**fields)  # pyright: ignore[reportArgumentType] - proven when sealed
        except Exception as fault:  # noqa: BLE001 - see usage
            texts = {"code": code, "agent": agent, "model": model, "operation": operation}
            self._refuse("error", fault, texts)
            return False
        return self._offer_error(event)

    def _offer_error(self, event: ErrorEvent) -> bool:
        """Buffer an error without the secrets in its message: every error comes in here, and none is held as it was."""
        try:
            message = self._settings.redact.redact(event.message, limits.MAX_MESSAGE_CHARS)
            if message != event.message:
                event = msgspec.structs.replace(event, message=message)
        except Exception as fault:  # noqa: BLE001 - see usage
            self._refuse("error", fault, {"message": event.message})
            return False
        return self._buffer.offer(event)

    def _refuse(self, kind: str, fault: Exception, texts: Mapping[str, object]) -> None:
        self._buffer.ledger.invalid(kind, "arguments", why=what_is_wrong(fault, texts))

    def refusals(self) -> list[str]:
        """Return what was refused as invalid, and why, each mistake once with how often: `2 x usage:arguments: …`."""
        return [
            f"{events} x {kind}:{reason}" + (f": {why}" if why else "")
            for (kind, reason, why), events in self._buffer.ledger.refusals().items()
        ]

    def track_state_transition(self, from_state: str, to_state: str, session_id: str | None = None) -> bool:
        """Report that a session left one state for another; its later events say the new one.

        The new state is seen by events of this session in the running context, in every task that shares it, and in
        contexts of the session that are entered later. The event itself says the state it enters.

        Args:
            from_state: The state it leaves.
            to_state: The state it enters.
            session_id: The session; by default that of the running context.

        Returns:
            Whether it was buffered.
        """
        if not self._on:
            self.notice_off()
            return False
        self._count()
        try:
            context = _context()
            session = context.session if session_id is None else _cut(session_id)
            now_us = _now_ns() // 1000
            event = self._transition(_cut(from_state), _cut(to_state), session, context, now_us)
        except Exception as fault:  # noqa: BLE001 - see usage
            texts: dict[str, object] = {"from_state": from_state, "to_state": to_state}
            self._refuse("transition", fault, texts if session_id is None else {**texts, "session_id": session_id})
            return False
        return self._buffer.offer(event)

    def _transition(self, from_state: str, to_state: str, session: str, context: Context, now_us: int) -> Event:
        if not session:
            raise ValueError("there is no session: give session_id, or use session_context")
        if not to_state:
            raise ValueError("to_state: it is empty")
        lasted_us, visit = self._sessions.move(session, from_state, to_state, now_us)
        same = context.session == session
        move_state(session, to_state)
        run = _run()
        return TransitionEvent(
            now_us,
            from_state,
            to_state,
            lasted_us,
            visit,
            session,
            context.user if same else "",
            context.tenant if same else "",
            to_state,
            context.tags if same else (),
            run.run_id,
            run.operation_id,
            run.trace_id,
        )

    def operation_done(  # noqa: PLR0913 - each names a field of the event
        self,
        name: str,
        *,
        duration_us: int,
        kind: Literal["run", "tool", "step"] = "step",
        status: Status = "ok",
        agent: str = "",
        error_type: str = "",
        operation_id: str = "",
        **details: Unpack[EventDetails],
    ) -> bool:
        """Report an operation that was timed elsewhere; return whether it was buffered.

        Args:
            name: What was done.
            duration_us: How long it took, in microseconds.
            kind: An agent's run, a tool, or a step that the application names.
            status: How it ended.
            agent: Whose work it was; empty stands for the agent of the running operation.
            error_type: The type of the exception that ended it.
            operation_id: Its id; a new one by default.
            **details: Who it is about, where the running context does not say it.
        """
        if not self._on:
            self.notice_off()
            return False
        self._count()
        try:
            fields = _about(details)
            fields |= {
                "name": _cut(name),
                "kind": kind,
                "duration_us": duration_us,
                "status": status,
                "agent": _cut(agent or _run().agent),
                "error_type": _cut(error_type),
                "operation_id": operation_id or self.new_id(),
            }
            event = OperationEvent(**fields)  # pyright: ignore[reportArgumentType] - proven when sealed
        except Exception as fault:  # noqa: BLE001 - see usage
            self._refuse("operation", fault, {"name": name, "agent": agent, "error_type": error_type})
            return False
        return self._buffer.offer(event)

    # Scopes

    def operation(self, name: str, *, kind: Literal["run", "tool", "step"] = "step", agent: str = "") -> Operation:
        """Return what times what happens inside it, and is the parent of its events: `with`, `async with`, a decorator.

            with sidestream.operation("render") as step:
                ...

            @sidestream.operation("render")  # each call by itself; of an async function until it is awaited
            def render(deck): ...

        An exception ends it as `error` and is reported once, at the innermost operation; a cancelled one is no error.

        Args:
            name: What is done.
            kind: An agent's run, a tool, or a step that the application names.
            agent: Whose work it is; events inside say the same.
        """
        return Operation(self, name, kind, agent)

    def model_request(self, agent: str, model: str, *, provider: str = "", operation: str = "chat") -> ModelRequest:
        """Return a context manager around one request to a model, which reports it once, however it ends.

            with sidestream.model_request("writer", "gpt-4o") as request:
                response = client.chat.completions.create(model="gpt-4o", messages=messages)
                request.answered(sidestream.openai_usage(response))

        An exception that leaves it makes it a failed request, and is reported once; cancelled, or left by the reader of
        a stream, it is neither. While it is open it is seen by `sidestream status`.

        Args:
            agent: Who asks; empty stands for the agent of the running operation.
            model: What is asked for.
            provider: Who runs it; by default what the answer's reader says.
            operation: What is asked for, by the semantic conventions: `chat`, `embeddings`, `image_generation`.
        """
        return ModelRequest(self, agent, model, provider, operation)

    def context_headers(self) -> dict[str, str]:
        """Return the headers (W3C baggage) that carry the running context to another process of yours.

        See `session_context.from_headers` for the other side. Empty outside of any context.
        """
        return propagation.to_headers(_context())

    def enter_state(self, session: str, state: str | None) -> str:
        """Return the state of a session that begins in `state`, or that of a known one."""
        if state is None:
            return self._sessions.state(session)
        if self._on and session and state:
            self._sessions.begin(session, state, _now_ns() // 1000)
        return state

    # Waiting

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until Redis has answered for everything offered before; return whether it did, in time.

        Args:
            timeout_s: Seconds; by default the setting `close_timeout_s`.
        """
        if self.holding:
            return True
        return self._publisher.flush(self._settings.close_timeout_s if timeout_s is None else timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Take no more events, publish those that are in, say goodbye; return whether all were appended in time.

        Args:
            timeout_s: Seconds; by default the setting `close_timeout_s`.
        """
        if self.holding or not self._on:
            return True
        self._on = False
        return self._publisher.close(self._settings.close_timeout_s if timeout_s is None else timeout_s)

    async def aflush(self, timeout_s: float | None = None) -> bool:
        """Do what `flush` does, without holding up the event loop."""
        return await _in_thread(self.flush, self._settings.close_timeout_s if timeout_s is None else timeout_s)

    async def aclose(self, timeout_s: float | None = None) -> bool:
        """Do what `close` does, without holding up the event loop."""
        return await _in_thread(self.close, self._settings.close_timeout_s if timeout_s is None else timeout_s)

    def statistics(self) -> Counts:
        """Return where this process's events are: one snapshot whose terms add up."""
        return self._publisher.statistics()


def _instance_of_this_process(settings: PublishSettings) -> PublishSettings:
    """Return the settings with an instance, host and process id, where none was given: a forked child has its own."""
    if settings.resource.instance:
        return settings
    here = f"{socket.gethostname()}:{os.getpid()}"
    return dataclasses.replace(settings, resource=msgspec.structs.replace(settings.resource, instance=here))


async def _in_thread(call: Callable[[float], bool], timeout_s: float) -> bool:
    # The time runs from here: the first import, and the wait for a thread, are part of it.
    deadline_s = time.monotonic() + timeout_s
    import anyio  # noqa: PLC0415 - only those who await pay for it
    import anyio.to_thread  # noqa: PLC0415

    # A limiter of our own: the application may have taken every thread of the common one.
    return await anyio.to_thread.run_sync(
        lambda: call(max(0.0, deadline_s - time.monotonic())), abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
    )


def _about(details: UsageDetails | EventDetails) -> dict[str, object]:
    """Return the fields that say who an event is about: as given, else as the running context says."""
    context, run = _context(), _run()
    fields: dict[str, object] = {
        "time_us": _now_ns() // 1000,
        "session": context.session,
        "user": context.user,
        "tenant": context.tenant,
        "state": context.state,
        "tags": context.tags,
        "run_id": run.run_id,
        "parent_id": run.operation_id,
        "trace_id": run.trace_id,
    }
    fields |= details
    fields["tags"] = _strings("tags", fields["tags"])
    return fields


def _strings(name: str, value: object) -> tuple[object, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: several texts are wanted, not {type(value).__name__}")
    return tuple(itertools.islice(value, limits.MAX_TOOLS))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _cut(name: str) -> str:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - an application may pass anything
        raise TypeError
    return name[: limits.MAX_NAME_CHARS]


def _message(error: BaseException | type[BaseException] | str, message: str | None) -> str:
    if message is not None:
        return message
    return own_words(error) if isinstance(error, BaseException) else ""


_LIVING: Final[weakref.WeakSet[Telemetry]] = weakref.WeakSet()


def _in_child() -> None:
    for telemetry in list(_LIVING):
        telemetry.after_fork()


def _at_exit() -> None:
    for telemetry in list(_LIVING):
        telemetry.close()


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)

__all__ = ["EventDetails", "Telemetry", "UsageDetails"]
