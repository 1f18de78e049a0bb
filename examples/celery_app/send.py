"""Whoever sends tasks: `python -m examples.celery_app.send TOPIC…`, with a BROKER_URL."""

import sys
from collections.abc import Sequence

import sidestream
from examples.celery_app import tasks


def send(user: str, topics: Sequence[str]) -> None:
    """Send a task for each topic; each is a session of this user."""
    for number, topic in enumerate(topics, start=1):
        with sidestream.session_context(f"{user}-talk-{number}", user, state="outlining"):
            tasks.outline.delay(topic)  # pyright: ignore[reportFunctionMemberAccess] - Celery has no types


if __name__ == "__main__":
    send("ada", sys.argv[1:])
