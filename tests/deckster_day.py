"""A day of an application as events: sessions that walk through states, agents that answer, fail and cost.

The same every time, but for the instant that it ends at.
"""

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from support import Appender

from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.keys import partition_of

US: Final = 1_000_000
HOUR_US: Final = 3_600 * US
PARTITIONS: Final = 4

AGENTS: Final = {
    "greeting": ("director", "gpt-4o-mini", 900, 1.1),
    "outlining": ("outliner", "gpt-4o", 2_600, 3.2),
    "drafting": ("writer", "claude-sonnet-4-5", 6_400, 7.5),
    "illustrating": ("illustrator", "gpt-4o", 1_800, 5.0),
    "review": ("reviewer", "deck-writer-7b", 3_900, 2.4),
}
"""State -> who answers, with which model, tokens and seconds in the mean; nobody knows the price of the last."""

PROVIDERS: Final = {"gpt-4o": "openai", "gpt-4o-mini": "openai", "claude-sonnet-4-5": "anthropic"}

NEXT: Final = {
    "greeting": (("outlining", 0.9), ("done", 0.1)),
    "outlining": (("drafting", 0.85), ("greeting", 0.05), ("outlining", 0.1)),
    "drafting": (("illustrating", 0.4), ("review", 0.6)),
    "illustrating": (("review", 1.0),),
    "review": (("done", 0.55), ("drafting", 0.35), ("outlining", 0.1)),
}
ERRORS: Final = ("ModelHTTPError", "TemplateLibraryError", "TimeoutError")


@dataclass
class Day:
    """Makes the events of a day that ends at `now_us`."""

    now_us: int
    sessions: int = 400
    hours: int = 24
    dice: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - repeatable on purpose

    def events(self) -> Iterator[tuple[str, Event]]:
        """Give the events with the version that reports them, session by session."""
        for number in range(self.sessions):
            # More of them the nearer to its end, and in waves.
            share = self.dice.random() ** 0.8
            start_us = self.now_us - int(self.hours * HOUR_US * (1 - share))
            version = "1.5.0" if start_us > self.now_us - 9 * HOUR_US else "1.4.2"
            for event in self._session(f"deck-{number:04d}", start_us, faster=version == "1.5.0"):
                if event.time_us <= self.now_us:
                    yield version, event

    def _session(self, session: str, start_us: int, *, faster: bool) -> Iterator[Event]:
        state, at_us = "greeting", start_us
        user = f"user-{self.dice.randrange(60)}"
        yield TransitionEvent(at_us, from_state="", to_state=state, session=session, user=user)
        for _ in range(12):
            entered_us = at_us
            for _run in range(self.dice.choice((1, 1, 2))):
                at_us += int(self.dice.expovariate(1 / 25) * US)
                at_us = yield from self._run(session, user, state, at_us, faster=faster)
            at_us += int(self.dice.expovariate(1 / 40) * US)
            following = self.dice.choices(*zip(*NEXT[state], strict=True))[0]
            if self.dice.random() < 0.05:
                return
            yield TransitionEvent(
                at_us, from_state=state, to_state=following, duration_us=at_us - entered_us, session=session, user=user
            )
            state = following
            if state == "done":
                return

    def _run(self, session: str, user: str, state: str, at_us: int, *, faster: bool) -> Generator[Event, None, int]:
        agent, model, tokens, seconds = AGENTS[state]
        run_id = f"run-{session}-{self.dice.randrange(10**6)}"
        begun_us, status = at_us, "ok"
        where = {"session": session, "user": user, "state": state, "agent": agent, "run_id": run_id}
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            wide_us = int(self.dice.lognormvariate(0, 0.5) * seconds * US * (0.7 if faster else 1))
            at_us += wide_us
            status = "error" if self.dice.random() < 0.03 else "ok"
            size = 0 if status == "error" else int(self.dice.lognormvariate(0, 0.6) * tokens)
            sizes = {"input_tokens": size, "output_tokens": size * 22 // 100, "cache_read_tokens": size // 3}
            times = {"duration_us": wide_us, "ttft_us": wide_us // 5}
            provider = PROVIDERS.get(model, "")
            yield made(UsageEvent, at_us, **where, **sizes, **times, model=model, provider=provider, status=status)
            if status == "error":
                kind = self.dice.choices(ERRORS, (6, 2, 1))[0]
                yield made(ErrorEvent, at_us, **where, type=kind, message="said by a test", model=model)
                break
        ended = {"name": agent, "kind": "run", "duration_us": at_us - begun_us, "status": status}
        yield made(OperationEvent, at_us, **where, **ended, operation_id=run_id)
        return at_us


Made = TypeVar("Made", bound=Event)


def made(kind: type[Made], time_us: int, /, **fields: object) -> Made:
    """Return an event of plain values."""
    return msgspec.convert({"event": kind.__struct_config__.tag, "time_us": time_us, **fields}, kind)


async def append_day(append: Appender, day: Day) -> int:
    """Append a day, as the application would have; return how many events it has."""
    gathered: dict[tuple[str, int], list[Event]] = {}
    for version, event in day.events():
        gathered.setdefault((version, partition_of(event.session, PARTITIONS)), []).append(event)
    total = 0
    for (version, partition), events in sorted(gathered.items()):
        append.resource = Resource(service="deckster", version=version, environment="production")
        events.sort(key=lambda event: event.time_us)
        for first in range(0, len(events), 250):
            await append(events[first : first + 250], partition=partition)
        total += len(events)
    return total
