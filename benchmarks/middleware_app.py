"""The trivial application of `benchmarks.middleware`: `WITH` says what stands before it."""

import os

from fastapi import FastAPI

import sidestream

api = FastAPI()


@api.get("/ws/{session_id}")
async def answer(session_id: str) -> dict[str, str]:
    """Answer at once."""
    return {"session": session_id}


def _app() -> object:
    match os.environ["WITH"]:
        case "SessionMiddleware":
            sidestream.configure("bench")
            return sidestream.SessionMiddleware(api, session="/ws/{session_id}", user="header:x-user")
        case "DrainMiddleware":
            sidestream.configure("bench")
            return sidestream.DrainMiddleware(api)
        case _:
            return api


app = _app()
