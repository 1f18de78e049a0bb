"""The events that all benchmarks use: one shape, real random ids, sizes that vary as a real model's do."""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sidestream
from pipeline.events import Event, UsageEvent

SEED: Final = 20_261
CALLS_A_SESSION: Final = 20
AGENT: Final = "director"
MODEL: Final = "gpt-4o"
ANSWERING: Final = "gpt-4o-2024-08-06"

CALL_SHAPE: Final = (
    "usage() with 12 arguments (agent, model, input, output, duration, ttft, provider, response model, finish reason, "
    "status, cache read, reasoning) inside a session context with user, tenant and state"
)
EVENT_SHAPE: Final = (
    f"{CALL_SHAPE}; {CALLS_A_SESSION} events a session; session, run, operation and trace id random; "
    "4 agents, 3 models, 5 states"
)


@dataclass(frozen=True, slots=True)
class Size:
    """What varies from one request to the next."""

    input_tokens: int
    output_tokens: int
    duration_us: int
    ttft_us: int
    cached_tokens: int
    reasoning_tokens: int


def sizes(count: int) -> list[Size]:
    """Return requests' sizes, the same in every run."""
    dice = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    return [
        Size(
            input_tokens=int(dice.lognormvariate(7, 1)) + 1024,
            output_tokens=int(dice.lognormvariate(5, 1)),
            duration_us=int(dice.lognormvariate(14, 0.7)),
            ttft_us=int(dice.lognormvariate(12.5, 0.5)),
            cached_tokens=dice.choice((0, 512, 1024)),
            reasoning_tokens=dice.randrange(200),
        )
        for _ in range(count)
    ]


def report(some: Sequence[Size]) -> int:
    """Report requests of one session through the public call; return how many were taken."""
    usage, taken = sidestream.usage, 0
    for size in some:
        taken += usage(
            AGENT,
            MODEL,
            size.input_tokens,
            size.output_tokens,
            duration_us=size.duration_us,
            ttft_us=size.ttft_us,
            provider="openai",
            response_model=ANSWERING,
            finish_reason="stop",
            status="ok",
            cache_read_tokens=size.cached_tokens,
            reasoning_tokens=size.reasoning_tokens,
        )
    return taken


def new_session() -> str:
    """Return a random session id."""
    return os.urandom(16).hex()


def events(count: int) -> list[Event]:
    """Return events as the application's context would have filled them, dated now."""
    found: list[Event] = []
    session = run_id = trace_id = ""
    for index, size in enumerate(sizes(count)):
        if index % CALLS_A_SESSION == 0:
            session, run_id, trace_id = new_session(), os.urandom(12).hex(), os.urandom(16).hex()
        found.append(
            UsageEvent(
                time.time_ns() // 1000,
                ("director", "writer", "critic", "designer")[index % 4],
                ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5")[index % 3],
                size.input_tokens,
                size.output_tokens,
                size.duration_us,
                session,
                f"user-{session[:8]}",
                "acme",
                ("greeting", "questions", "plan", "drafting", "review")[index % 5],
                run_id=run_id,
                parent_id=os.urandom(12).hex(),
                trace_id=trace_id,
                provider="openai",
                response_model=ANSWERING,
                finish_reason="stop",
                ttft_us=size.ttft_us,
                cache_read_tokens=size.cached_tokens,
                reasoning_tokens=size.reasoning_tokens,
            )
        )
    return found
