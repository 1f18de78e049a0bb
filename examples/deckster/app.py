"""The Deckster server, and everything an application does to be watched by Sidestream.

Four calls are all there is: `configure` and `instrument_pydantic_ai` when it starts, `session_context` and
`track_state_transition` around a turn, `aclose` when it stops. Agents, models and tools know nothing of it.

Run it with `python -m examples.deckster.app`, and send `{"say": "…"}` or `{"cancel": true}` to
`ws://127.0.0.1:PORT/ws/{session_id}?user=…`.
"""

import argparse
import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import uvicorn
from pydantic_ai.exceptions import ModelAPIError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

import sidestream
from examples.deckster.agents import Deck, Team, TemplateLibraryError
from examples.deckster.conversation import State, next_state
from examples.deckster.journal import JOURNAL, Journal
from examples.deckster.models import Conditions

_PATIENCE_S = 60.0
"""How long a user waits for a turn, in real seconds; the pace of the day shortens it like all else."""
_DRAIN_S = 10.0
"""How long a stopping server may take to hand over the events it still holds."""

TurnStatus = Literal["ok", "failed", "cancelled", "timed_out"]


@dataclass
class Session:
    """A presentation in the making; its lock admits one connection at a time."""

    session_id: str
    user_id: str
    journal: Journal
    state: State = State.GREETING
    deck: Deck = field(default_factory=Deck)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Deckster:
    """The sessions, and the agents that serve them."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.team = Team(conditions)
        self.sessions: dict[str, Session] = {}

    async def converse(self, websocket: WebSocket) -> None:
        """Serve one connection of a session, after an earlier one has ended."""
        session_id = websocket.path_params["session_id"]
        user_id = websocket.query_params.get("user", "anonymous")
        session = self.sessions.setdefault(session_id, Session(session_id, user_id, Journal(session_id)))
        async with session.lock:
            await websocket.accept()
            await _Connection(self, session, websocket).serve()

    async def ledger(self, request: Request) -> Response:
        """Tell a client, once its connection has ended, what happened after the entry it heard of last."""
        session = self.sessions.get(request.path_params["session_id"])
        if session is None:
            return JSONResponse({"error": "unknown session"}, status_code=404)
        async with session.lock:
            after = int(request.query_params.get("after", "0"))
            return JSONResponse({"first": after, "entries": session.journal.entries[after:]})


class _Connection:
    """One connection: reads what the user wants, and runs one turn at a time beside it."""

    def __init__(self, deckster: Deckster, session: Session, websocket: WebSocket) -> None:
        self._deckster = deckster
        self._session = session
        self._websocket = websocket
        self._is_late = False

    async def serve(self) -> None:
        """Talk until the user leaves; a turn that is still running then is cancelled and waited for."""
        turn: asyncio.Task[None] | None = None
        await self._tell({"type": "hello", "state": self._session.state})
        async with asyncio.TaskGroup() as turns:
            async for command in self._websocket.iter_json():
                is_busy = turn is not None and not turn.done()
                match command:
                    case {"say": str(words)} if not is_busy and self._session.state is not State.DONE:
                        turn = turns.create_task(self._turn(words))
                    case {"cancel": True} if turn is not None and is_busy:
                        self._session.journal.cancel(turn)
                    case _:
                        await self._tell({"type": "refused"})
            if turn is not None and not turn.done():
                self._session.journal.cancel(turn)

    async def _turn(self, words: str) -> None:
        session, first, text = self._session, len(self._session.journal.entries), ""
        status: TurnStatus = "ok"
        self._is_late = False
        try:
            text = await self._work(words)
        except asyncio.CancelledError:
            status = "timed_out" if self._is_late else "cancelled"
        except (ModelAPIError, TemplateLibraryError) as error:
            status, text = "failed", str(error)
        did = session.journal.entries[first:]
        reply = {"status": status, "state": session.state, "text": text, "first": first, "entries": did}
        await self._tell({"type": "turn", **reply})

    async def _work(self, words: str) -> str:
        session = self._session
        JOURNAL.set(session.journal)
        with sidestream.session_context(session.session_id, session.user_id, state=session.state):
            with self._patience():
                result = await self._deckster.team.work(session.state, session.deck, words, self._say)
            self._move(next_state(session.state, is_satisfied=result.is_satisfied))
        return result.text

    def _move(self, state: State) -> None:
        session = self._session
        if state is session.state:
            return
        sidestream.track_state_transition(session.state, state, session.session_id)
        session.journal.transition(session.state, state)
        session.state = state

    @contextmanager
    def _patience(self) -> Generator[None]:
        """Give up a turn that takes longer than a user would wait."""
        turn = cast("asyncio.Task[None]", asyncio.current_task())
        patience_s = _PATIENCE_S * self._deckster.conditions.pace
        timer = asyncio.get_running_loop().call_later(patience_s, self._give_up, turn)
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self, turn: asyncio.Task[None]) -> None:
        self._is_late = True
        self._session.journal.cancel(turn)

    async def _say(self, piece: str) -> None:
        await self._tell({"type": "piece", "text": piece})

    async def _tell(self, reply: dict[str, Any]) -> None:
        # A user who has left hears nothing; the reading side sees it too, and cancels the turn.
        if self._websocket.client_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect):
                await self._websocket.send_json(reply)


def create_app(conditions: Conditions) -> Starlette:
    """Build the server: its routes, and Sidestream switched on while it runs."""
    deckster = Deckster(conditions)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        sidestream.configure(service="deckster")
        sidestream.instrument_pydantic_ai()
        try:
            yield
        finally:
            # Under uvicorn the lifespan is the only thing that runs at SIGTERM: drain here.
            await sidestream.aclose(_DRAIN_S)

    routes = [
        WebSocketRoute("/ws/{session_id}", deckster.converse),
        Route("/ledger/{session_id}", deckster.ledger),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.deckster = deckster
    return app


class _Server(uvicorn.Server):
    """Uvicorn, telling whoever started it where it listens once it does."""

    def __init__(self, config: uvicorn.Config, ready_file: Path | None) -> None:
        super().__init__(config)
        self._ready_file = ready_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started or not sockets:
            return
        port = sockets[0].getsockname()[1]
        if self._ready_file:
            # Renamed into place: whoever waits for the file never reads half of it.
            draft = self._ready_file.with_suffix(".draft")
            draft.write_text(str(port))
            draft.replace(self._ready_file)
        print(f"Deckster listens on ws://127.0.0.1:{port}/ws/SESSION?user=USER", flush=True)


def main() -> None:
    """Serve Deckster until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m examples.deckster.app", description="The Deckster server.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port")
    parser.add_argument("--ready-file", type=Path, help="gets the port once the server listens")
    parser.add_argument("--seed", type=int, default=Conditions.seed, help="what every draw of chance starts from")
    parser.add_argument("--pace", type=float, default=Conditions.pace, help="seconds waited for each real second")
    options = parser.parse_args()
    app = create_app(Conditions(seed=options.seed, pace=options.pace))
    try:
        listener = socket.create_server(("127.0.0.1", options.port))
    except OSError as error:
        parser.error(f"cannot listen on port {options.port} ({error.strerror}); choose another with --port")
    with listener:
        _Server(uvicorn.Config(app, log_level="warning"), options.ready_file).run(sockets=[listener])


if __name__ == "__main__":
    main()
