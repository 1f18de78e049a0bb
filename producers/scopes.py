"""What stands around events: a session, and an operation that is timed.

Keeps: entering and leaving never raise, and never swallow what the application raises.
"""

import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, ParamSpec, Self, TypeVar, cast

from pipeline import limits
from pipeline.presence import OpenOperation
from producers import propagation
from producers.context import (
    CONTEXT,
    RUN,
    Context,
    RunContext,
    enter_context,
    enter_run,
    leave_context,
    leave_run,
)
from producers.exceptions import status_of, type_name
from producers.inflight import storable

if TYPE_CHECKING:
    from contextvars import Token

    from producers.telemetry import Telemetry


class SessionContext:
    """Tags the events inside with a session and a user; may be entered once."""

    __slots__ = ("_given", "_telemetry", "_token")

    def __init__(  # noqa: PLR0913, PLR0917 - what `Telemetry.session_context` takes, unread
        self,
        telemetry: "Telemetry",
        session_id: str,
        user_id: str | None,
        tenant: str | None,
        tags: Iterable[str] | None,
        state: str | None,
    ) -> None:
        self._telemetry = telemetry
        self._given = (session_id, user_id, tenant, tags, state)
        self._token: Token[Context] | None = None

    def __enter__(self) -> Context:
        outer = CONTEXT.get()
        try:
            context = self._context(outer)
        except Exception:  # noqa: BLE001 - the application's block must run, whatever it passed
            context = outer
        self._token = enter_context(context)
        return context

    def _context(self, outer: Context) -> Context:
        session_id, user_id, tenant, tags, state = self._given
        session = _text(session_id)
        same = session == outer.session
        if state is None and same:
            state = outer.state
        return Context(
            session,
            outer.user if user_id is None else _text(user_id),
            outer.tenant if tenant is None else _text(tenant),
            _text(self._telemetry.enter_state(session, None if state is None else _text(state))),
            outer.tags if tags is None else _words(tags),
            outer if same else None,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is None:
            return
        if error is not None and status_of(error) == "error":
            self._telemetry.error(error)  # inside the context, so that it says whose it is
        leave_context(self._token)
        self._token = None


class SessionContexts:
    """Makes session contexts: from arguments when it is called, or `from_headers`.

    Args:
        telemetry: Whose events they tag.
    """

    def __init__(self, telemetry: "Telemetry") -> None:
        self._telemetry = telemetry

    def __call__(
        self,
        session_id: str,
        user_id: str | None = None,
        *,
        tenant: str | None = None,
        tags: Iterable[str] | None = None,
        state: str | None = None,
    ) -> SessionContext:
        """Return a context manager whose events name this session and user.

        It nests: what is not given is taken from the context outside, the state only if that is of the same session. An
        exception that leaves it is reported, once.

        Args:
            session_id: The session.
            user_id: Whose it is.
            tenant: The customer, where there are several.
            tags: Words to group by, at most 16.
            state: The state the session is in; by default the last one that this process heard of.
        """
        return SessionContext(self._telemetry, session_id, user_id, tenant, tags, state)

    def from_headers(self, headers: object) -> SessionContext:
        """Return the context that `Telemetry.context_headers` put into headers, in another process of yours.

        What they do not say is taken from the context outside. Do not believe the headers of strangers.

        Args:
            headers: A mapping of names, in any case, or pairs; names and values may be bytes.
        """
        carried = propagation.from_headers(headers)
        session = CONTEXT.get().session if carried.session is None else carried.session
        return SessionContext(self._telemetry, session, carried.user, carried.tenant, carried.tags, carried.state)


P = ParamSpec("P")
R = TypeVar("R")


class Operation:
    """Times what happens inside; may be entered once. `operation_id` and `run_id` are there once it has been.

    As a decorator it times each call of a function, async or not, as an operation of its own.
    """

    __slots__ = (
        "__weakref__",
        "_agent",
        "_name",
        "_outer",
        "_session",
        "_started_ns",
        "_telemetry",
        "_token",
        "kind",
        "operation_id",
        "run_id",
        "started_us",
    )

    def __init__(self, telemetry: "Telemetry", name: str, kind: Literal["run", "tool", "step"], agent: str) -> None:
        self._telemetry = telemetry
        self._name = storable(name)
        self.kind: Literal["run", "tool", "step"] = kind
        self._agent = storable(agent)
        self._token: Token[RunContext] | None = None
        self.operation_id = ""
        self.run_id = ""

    def __enter__(self) -> Self:
        telemetry = self._telemetry
        if not telemetry.enabled:
            telemetry.notice_off()
            return self
        outer = self._outer = RUN.get()
        self._agent = self._agent or outer.agent
        self.operation_id = telemetry.new_id()
        # A run begins a run; a step or tool belongs to the one it is in, or else is one by itself.
        self.run_id = self.operation_id if self.kind == "run" else outer.run_id or self.operation_id
        self._token = enter_run(RunContext(self.run_id, self.operation_id, self._agent, outer.trace_id))
        self._session = CONTEXT.get().session
        self.started_us = time.time_ns() // 1000
        telemetry.open_operations.begin(self)
        self._started_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is None:
            return
        duration_us = (time.perf_counter_ns() - self._started_ns) // 1000
        telemetry = self._telemetry
        status = status_of(error)
        if error is not None and status == "error":
            telemetry.error(error, agent=self._agent, operation=self._name)
        leave_run(self._token)
        self._token = None
        telemetry.open_operations.end(self)
        telemetry.operation_done(
            self._name,
            duration_us=duration_us,
            kind=self.kind,
            status=status,
            agent=self._agent,
            error_type=type_name(error) if error is not None and status == "error" else "",
            operation_id=self.operation_id,
            run_id=self.run_id,
            parent_id=self._outer.operation_id,
        )

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function` with each of its calls timed.

        Raises:
            TypeError: It is a generator, whose call only makes it: put `with` around what it does.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("operation: a generator's call only makes it; use `with operation(…):` inside")

        def again() -> Operation:
            return Operation(self._telemetry, self._name, self.kind, self._agent)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
                with again():
                    return await cast("Awaitable[object]", function(*args, **kwargs))

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with again():
                return function(*args, **kwargs)

        return called

    def open_operation(self) -> OpenOperation:
        """Say what it is, while it is open."""
        return OpenOperation(
            self._name,
            self._agent,
            self.started_us,
            kind=self.kind,
            operation_id=self.operation_id,
            run_id=self.run_id,
            parent_id=self._outer.operation_id,
            session=self._session,
        )


def _text(value: str) -> str:
    return str(value)[: limits.MAX_NAME_CHARS]


def _words(tags: Iterable[str]) -> tuple[str, ...]:
    some = [tags] if isinstance(tags, str) else list(tags)
    return tuple(_text(tag) for tag in some[: limits.MAX_TAGS])
