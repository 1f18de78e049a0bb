"""The export sink: batches of events to spans, sampled, sent, and known to have arrived.

Keeps:
- `deliver` returns only after each span of the batch was answered with 2xx, or refused and named as a dead letter.
- In every batch: events = delivered + sampled out + too old + too new + refused.
- A batch that comes again sends only what was not answered before, so a far side that takes a little at a time is
  caught up with. Span ids do not change, so what does arrive twice is the same span.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import anyio.lowlevel

from consumers.contract import Slice
from consumers.letters import DeadLetter, letter_of_event
from consumers.sinks.export.settings import ExportSettings
from consumers.sinks.export.spans import EncodedSpan, Price, encode_request, encode_span, keeps, started_us
from consumers.sinks.export.transport import Answer, Transport
from pipeline.errors import PermanentError
from pipeline.events import Event
from pipeline.wire import Frame

MAX_REQUEST_BYTES: Final = 5_000_000
"""Bytes of a request before compression: what Logfire's own SDK keeps to."""

MAX_REQUEST_SPANS: Final = 2_000
"""Spans of a request: about 1.5 MB, and a second answer is soon there."""

_MAX_SUSPICIOUS: Final = 16
"""Spans refused alone, none taken: after so many it is the request that is wrong, and no event is blamed for it."""

_MAX_REMEMBERED: Final = 100_000
"""Spans remembered as taken from batches that did not end well; older memory only saves double sending."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportStatistics:
    """Counters since the start; all but the last two count each event once, when its batch is done.

    `rejected` spans are those of `delivered` that the far side says it did not keep (`partial_success`).
    """

    events: int = 0
    delivered: int = 0
    sampled_out: int = 0
    too_old: int = 0
    too_new: int = 0
    refused: int = 0
    rejected: int = 0
    requests: int = 0


@dataclass(slots=True)
class _Batch:
    """One batch on its way: what is to be sent, and what became of the rest."""

    spans: list[EncodedSpan]
    dead: list[DeadLetter]
    taken: int = 0
    events: int = 0
    sampled_out: int = 0
    too_old: int = 0
    too_new: int = 0


class ExportSink:
    """Sends events as spans to an OTLP endpoint.

    Args:
        settings: Where to, and which.
        price: Nano-dollars of a request that brought no cost of its own.
        clock_us: Microseconds since 1970, for the age of events.
    """

    name: str = "export"

    def __init__(
        self, settings: ExportSettings, *, price: Price | None = None, clock_us: Callable[[], int] | None = None
    ) -> None:
        self._settings = settings
        self._price = price
        self._clock_us = clock_us or _now_us
        self._transport = Transport(settings)
        self._statistics = ExportStatistics()
        self._taken: dict[tuple[str, int, bytes], None] = {}

    def statistics(self) -> ExportStatistics:
        """Return the counters."""
        return self._statistics

    async def deliver(self, slices: Sequence[Slice]) -> Sequence[DeadLetter]:
        """Send a batch; return the events that the far side refused for good.

        Raises:
            NotDeliveredError: Not all of it is known to have arrived; the same batch comes again.
            PermanentError: The far side refuses us, not these events.
        """
        batch = await self._encoded(slices)
        waiting = [span for span in batch.spans if _key(span) not in self._taken]
        batch.taken = len(batch.spans) - len(waiting)
        for part in _requests(waiting):
            await self._send(batch, part)
        self._count(batch)
        for span in batch.spans:
            self._taken.pop(_key(span), None)
        return batch.dead

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._transport.aclose()

    async def _encoded(self, slices: Sequence[Slice]) -> _Batch:
        batch = _Batch([], [])
        now_us = self._clock_us()
        for part in slices:
            for index, event in part.events():
                batch.events += 1
                if self._wanted(batch, part.frame, index, event, now_us):
                    self._encode(batch, part.frame, index, event)
            # A frame is up to 10 ms of work: let the other loops of the worker run in between.
            await anyio.lowlevel.checkpoint()
        return batch

    def _wanted(self, batch: _Batch, frame: Frame, index: int, event: Event, now_us: int) -> bool:
        settings = self._settings
        if settings.max_age_us is not None and started_us(event) < now_us - settings.max_age_us:
            batch.too_old += 1
            return False
        if settings.max_ahead_us is not None and event.time_us > now_us + settings.max_ahead_us:
            batch.too_new += 1
            return False
        if not keeps(frame, index, event, sample_rate=settings.sample_rate, slow_us=settings.slow_us):
            batch.sampled_out += 1
            return False
        return True

    def _encode(self, batch: _Batch, frame: Frame, index: int, event: Event) -> None:
        try:
            batch.spans.append(encode_span(frame, index, event, self._price))
        except (ValueError, TypeError, OverflowError) as error:
            batch.dead.append(letter_of_event(frame, index, event, "no_span", f"cannot be a span: {error}"))

    async def _send(self, batch: _Batch, spans: list[EncodedSpan]) -> None:
        """Send spans; halve what is refused with 400 or 413 until the span that is to blame stands alone."""
        parts = [spans]
        while parts:
            part = parts.pop()
            answer = await self._transport.post(encode_request(part))
            self._statistics = replace(
                self._statistics,
                requests=self._statistics.requests + 1,
                rejected=self._statistics.rejected + min(answer.rejected, len(part)),
            )
            if not answer.refused:
                self._remember(batch, part, answer)
            elif len(part) > 1:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            else:
                _refuse(batch, part[0], answer)

    def _remember(self, batch: _Batch, spans: list[EncodedSpan], answer: Answer) -> None:
        batch.taken += len(spans)
        if len(self._taken) > _MAX_REMEMBERED:
            self._taken.clear()
        self._taken.update((_key(span), None) for span in spans)
        if answer.rejected:
            _logger.warning(
                "The far side took a request of spans but kept only a part of it.",
                extra={"rejected_spans": answer.rejected, "sent_spans": len(spans), "reason": answer.reason},
            )

    def _count(self, batch: _Batch) -> None:
        before = self._statistics
        left_out = batch.sampled_out + batch.too_old + batch.too_new + len(batch.dead)
        self._statistics = replace(
            before,
            events=before.events + batch.events,
            delivered=before.delivered + batch.events - left_out,
            sampled_out=before.sampled_out + batch.sampled_out,
            too_old=before.too_old + batch.too_old,
            too_new=before.too_new + batch.too_new,
            refused=before.refused + len(batch.dead),
        )


def _refuse(batch: _Batch, span: EncodedSpan, answer: Answer) -> None:
    """Make a dead letter of a span that was refused alone.

    Raises:
        PermanentError: So far every span of the batch was refused: the request is wrong, not the events.
    """
    reason = f"the far side refused this span ({answer.refused}): {answer.reason or 'it gave no reason'}"
    batch.dead.append(letter_of_event(span.frame, span.index, span.event, f"refused_{answer.refused}", reason))
    if not batch.taken and len(batch.dead) >= _MAX_SUSPICIOUS:
        raise PermanentError(
            f"the far side refuses every span ({answer.refused}): {answer.reason or 'it gave no reason'}",
            code=f"refused_{answer.refused}",
        )


def _requests(spans: list[EncodedSpan]) -> Iterator[list[EncodedSpan]]:
    """Cut spans into requests of at most `MAX_REQUEST_SPANS` and `MAX_REQUEST_BYTES`."""
    part: list[EncodedSpan] = []
    size = 0
    for span in spans:
        if part and (len(part) == MAX_REQUEST_SPANS or size + span.size > MAX_REQUEST_BYTES):
            yield part
            part, size = [], 0
        part.append(span)
        size += span.size
    if part:
        yield part


def _key(span: EncodedSpan) -> tuple[str, int, bytes]:
    # The entry too: an application may give two events the same span id, and both must leave.
    return span.frame.entry_id, span.index, span.ids.trace + span.ids.span


def _now_us() -> int:
    return time.time_ns() // 1_000
