"""Tasks that prepare talks: `celery -A examples.celery_app.tasks worker`, with a BROKER_URL and an OPENAI_API_KEY.

Two lines are about telemetry, in the application that sends as in the worker, for both import this module: `configure`
and `instrument_celery`. What a task reports is then about the session of whoever sent it.
"""

import os
from functools import cache

import openai
from celery import Celery
from openai import OpenAI

import sidestream

MODEL = "gpt-4o"

sidestream.configure(service="talks")
sidestream.instrument_celery()

app = Celery("talks", broker=os.environ.get("BROKER_URL", "redis://127.0.0.1"))


@cache
def client() -> OpenAI:
    """Return the client of this process; made at its first task, after the worker has forked."""
    return OpenAI()


@app.task(autoretry_for=(openai.RateLimitError,), max_retries=3)  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator] - Celery has no types
def outline(topic: str) -> str:
    """Outline a talk."""
    with sidestream.model_request("outliner", MODEL) as request:
        response = client().responses.create(model=MODEL, input=f"Outline a talk about {topic}.")
        request.answered(sidestream.openai_usage(response))
    return response.output_text
