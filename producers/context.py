"""Who an event is about: session, user, tenant, tags and state, carried by a context variable.

Keeps:
- Of a context only `state` ever changes: whoever shares it (every task started inside it) sees the session move on.
- Entering a narrower context builds a new one, so a task that was started outside keeps its own.
"""

from contextvars import ContextVar, Token

from msgspec import Struct
from msgspec.structs import force_setattr


class Context(Struct, gc=False):
    """What every event of the running task is tagged with; empty strings mean "not said".

    `outer` is the context this one was entered in, if it is of the same session: both hear of a transition. `chars` is
    how many characters its strings have, for the bound of the buffer.
    """

    session: str = ""
    user: str = ""
    tenant: str = ""
    state: str = ""
    tags: tuple[str, ...] = ()
    outer: "Context | None" = None
    chars: int = 0

    def __post_init__(self) -> None:
        self.chars = sum(map(len, (self.session, self.user, self.tenant, self.state, *self.tags)))


class RunContext(Struct, frozen=True, gc=False):
    """The operation that is running: what events inside it name as `run_id` and `parent_id`, and its trace.

    `chars` is as that of `Context`.
    """

    run_id: str = ""
    operation_id: str = ""
    agent: str = ""
    trace_id: str = ""
    chars: int = 0

    def __post_init__(self) -> None:
        chars = len(self.run_id) + len(self.operation_id) + len(self.agent) + len(self.trace_id)
        force_setattr(self, "chars", chars)


_EMPTY = Context()
_NO_RUN = RunContext()
CONTEXT: ContextVar[Context] = ContextVar("sidestream_context", default=_EMPTY)
"""Read by the hot path directly; everything else uses the functions below."""
RUN: ContextVar[RunContext] = ContextVar("sidestream_run", default=_NO_RUN)


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


def enter_run(run: RunContext) -> Token[RunContext]:
    """Make `run` the running operation; hand the token to `leave_run`."""
    return RUN.set(run)


def leave_run(token: Token[RunContext]) -> None:
    """Restore the operation that ran before; from another task or thread than it was entered in, do nothing."""
    try:
        RUN.reset(token)
    except ValueError:
        return


def move_state(session: str, state: str) -> None:
    """Let the later events of the current context say `state`, if the context is of `session`."""
    context: Context | None = CONTEXT.get()
    while context is not None and session and context.session == session:
        context.chars += len(state) - len(context.state)
        context.state = state
        context = context.outer
