"""A web service that prepares talks: `uvicorn examples.fastapi_app.app:app`, with an OPENAI_API_KEY.

Three lines are about telemetry: `configure` in the lifespan, `SessionMiddleware` at the end, and one around each
request to a model. The middleware gives every event its session and user, and drains when the server stops.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from typing import Annotated

import openai
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from openai import AsyncOpenAI

import sidestream

MODEL = "gpt-4o"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Begin with each process of the server, not when the module is imported."""
    sidestream.configure(service="talks")
    yield


api = FastAPI(lifespan=lifespan)


@cache
def openai_client() -> AsyncOpenAI:
    """Return the client that all requests share; tests put another in its place."""
    return AsyncOpenAI()


Client = Annotated[AsyncOpenAI, Depends(openai_client)]


async def ask(client: AsyncOpenAI, agent: str, words: str) -> str:
    """Ask the model, and wait for its answer."""
    with sidestream.model_request(agent, MODEL) as request:
        response = await client.responses.create(model=MODEL, input=words)
        request.answered(sidestream.openai_usage(response))
    return response.output_text


async def ask_aloud(client: AsyncOpenAI, agent: str, words: str) -> AsyncGenerator[str]:
    """Ask the model, and give its answer piece by piece."""
    with sidestream.model_request(agent, MODEL) as request:
        async with client.responses.stream(model=MODEL, input=words) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    request.first_token()
                    yield event.delta
            request.answered(sidestream.openai_usage(await stream.get_final_response()))


@api.post("/talks/{session_id}/outline")
async def outline(session_id: str, topic: str, client: Client) -> dict[str, str]:
    """Outline a talk."""
    return {"talk": session_id, "outline": await ask(client, "outliner", f"Outline a talk about {topic}.")}


@api.post("/talks/{session_id}/write")
async def write(session_id: str, plan: str, client: Client) -> StreamingResponse:
    """Write the talk, and send it while it is written."""
    if not plan:
        raise HTTPException(422, "there is no plan")
    sidestream.track_state_transition("outlining", "writing", session_id)
    return StreamingResponse(ask_aloud(client, "writer", f"Write the talk.\n{plan}"), media_type="text/plain")


@api.websocket("/talks/{session_id}/ws")
async def talk(socket: WebSocket, client: Client) -> None:
    """Answer each message, until the user leaves."""
    await socket.accept()
    async for words in socket.iter_text():
        async for piece in ask_aloud(client, "writer", words):
            await socket.send_text(piece)


@api.exception_handler(openai.APIError)
async def say_that_it_failed(_request: Request, _error: Exception) -> JSONResponse:
    """Answer what the provider refused; it has been reported where it happened."""
    return JSONResponse({"detail": "the model does not answer"}, 503)


app = sidestream.SessionMiddleware(api, session="/talks/{session_id}/{step}", user="header:x-user")
