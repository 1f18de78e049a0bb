"""Who an event is about: session, user, tenant, tags and state, carried by a context variable.

Keeps: a context never changes; entering a narrower one builds a new one, so a task that was started inside keeps its own.
"""

from contextvars import ContextVar, Token

from msgspec import Struct


class Context(Struct, frozen=True, gc=False):
    """What every event of the running task is tagged with; empty strings mean "not said"."""

    session: str = ""
    user: str = ""
    tenant: str = ""
    state: str = ""
    tags: tuple[str, ...] = ()


class RunContext(Struct, frozen=True, gc=False):
    """The operation that is running: what events inside it name as `run_id` and `parent_id`, and its trace."""

    run_id: str = ""
    operation_id: str = ""
    agent: str = ""
    trace_id: str = ""


_EMPTY = Context()
_NO_RUN = RunContext()
CONTEXT: ContextVar[Context] = ContextVar("sidestream_context", default=_EMPTY)
"""Read by the hot path directly; everything else uses the functions below."""
RUN: ContextVar[RunContext] = ContextVar("sidestream_run", default=_NO_RUN)


def current_context() -> Context:
    """Return the context of the running task or thread."""
    return CONTEXT.get()


def enter_context(context: Context) -> Token[Context]:
    """Make `context` the current one; hand the token to `leave_context`."""
    return CONTEXT.set(context)


def leave_context(token: Token[Context]) -> None:
    """Restore what was current before; from another task or thread than it was entered in, do nothing."""
    try:
        CONTEXT.reset(token)
    except ValueError:
        # A generator closed by the garbage collector, or by another task, runs in a context that never saw the token.
        return
