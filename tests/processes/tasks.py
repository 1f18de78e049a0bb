"""The Celery application of the tests: each task reports one event, which stays in memory until someone drains."""

import os

from celery import Celery

import sidestream

sidestream.configure("tasks")
sidestream.instrument_celery()

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])


@app.task(name="tell")  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator] - it has no types
def tell() -> int:
    """Report one event; return the process that did."""
    sidestream.usage("writer", "gpt-4o", 1, 2)
    return os.getpid()


@app.task(name="fail")  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator] - as above
def fail() -> None:
    """Report one event, and fail."""
    sidestream.usage("failer", "gpt-4o", 1, 2)
    raise LookupError("no such deck")
