"""What really happened in a session, written down by those who did it: the models, the tools and the server.

A real application has no such thing. Here it is the independent witness: it knows nothing of Sidestream, the server
hands its entries to the clients, and what the clients add up must equal what the handlers committed.

Keeps:
- An entry is written when the thing it tells of has ended, whether it succeeded, failed or was cancelled.
- Entries are never changed or removed; their index is their number, so a client can see that it missed none.
- One exception object is one error, however many hands it passes through.
- A turn is cancelled only while a model or a tool is at work. In between, PydanticAI hands over from task to task, and
  of a request that had been prepared but not sent no witness could say whether it happened.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, TypedDict

Status = Literal["ok", "error", "cancelled"]


class RequestEntry(TypedDict):
    """One request to a model; the tokens are what the provider had reported when it ended."""

    kind: Literal["request"]
    provider: str
    model: str
    status: Status
    input_tokens: int
    output_tokens: int


class RunEntry(TypedDict):
    """One run of an agent."""

    kind: Literal["run"]
    agent: str
    status: Status


class ToolEntry(TypedDict):
    """One call of a tool."""

    kind: Literal["tool"]
    tool: str
    status: Status


class TransitionEntry(TypedDict):
    """One change of state."""

    kind: Literal["transition"]
    from_state: str
    to_state: str


class ErrorEntry(TypedDict):
    """One exception object, where it was first seen."""

    kind: Literal["error"]
    error: str


Entry = RequestEntry | RunEntry | ToolEntry | TransitionEntry | ErrorEntry


@dataclass
class Outcome:
    """How something ended; a request also notes the tokens reported so far."""

    status: Status = "ok"
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class Journal:
    """The entries of one session, and what the session is called."""

    session_id: str
    entries: list[Entry] = field(default_factory=list[Entry])
    requests_begun: int = 0
    _last_error: BaseException | None = None
    _at_work: int = 0
    _unwanted: asyncio.Task[None] | None = None

    @contextmanager
    def request(self, provider: str, model: str) -> Generator[Outcome]:
        """Write down a request to a model when it ends."""
        self.requests_begun += 1
        outcome = Outcome()
        try:
            with self._watch(outcome):
                yield outcome
        finally:
            self.entries.append(
                {
                    "kind": "request",
                    "provider": provider,
                    "model": model,
                    "status": outcome.status,
                    "input_tokens": outcome.input_tokens,
                    "output_tokens": outcome.output_tokens,
                }
            )

    @contextmanager
    def run(self, agent: str) -> Generator[None]:
        """Write down a run of an agent when it ends."""
        outcome = Outcome()
        try:
            with self._watch(outcome):
                yield
        finally:
            self.entries.append({"kind": "run", "agent": agent, "status": outcome.status})

    @contextmanager
    def tool(self, tool: str) -> Generator[None]:
        """Write down a call of a tool when it ends."""
        outcome = Outcome()
        try:
            with self._watch(outcome):
                yield
        finally:
            self.entries.append({"kind": "tool", "tool": tool, "status": outcome.status})

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Mark that a model or a tool is busy: the moment at which a turn can be cancelled."""
        self._at_work += 1
        if self._unwanted:
            self.cancel(self._unwanted)
        try:
            yield
        finally:
            self._at_work -= 1

    def cancel(self, turn: asyncio.Task[None]) -> None:
        """Cancel a turn now, or as soon as something is at work; a turn that ends before that has ended in time."""
        self._unwanted = None if self._at_work else turn
        if self._at_work:
            turn.cancel()

    def transition(self, from_state: str, to_state: str) -> None:
        """Write down a change of state."""
        self.entries.append({"kind": "transition", "from_state": from_state, "to_state": to_state})

    def error(self, error: BaseException) -> None:
        """Write down an error, unless it is the one that was written down last."""
        if error is not self._last_error:
            self._last_error = error
            self.entries.append({"kind": "error", "error": type(error).__name__})

    @contextmanager
    def _watch(self, outcome: Outcome) -> Generator[None]:
        try:
            yield
        except asyncio.CancelledError:
            # A stream whose provider failed is torn down by cancellation: it has already noted the error.
            outcome.status = "cancelled" if outcome.status == "ok" else outcome.status
            raise
        except Exception as error:
            outcome.status = "error"
            self.error(error)
            raise


JOURNAL: ContextVar[Journal] = ContextVar("deckster_journal")
"""The journal of the session whose turn is running: how a model, which knows no session, finds where to write."""
