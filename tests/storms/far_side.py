"""Where the sink delivers: an OTLP endpoint that says no, now and then, and remembers what it said yes to."""

import gzip
import random
from collections import Counter
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidestream.receiver import Receiver, Reply

REFUSES: Final = 0.1
"""Part of the requests that are answered with 503."""

ASKS_TO_WAIT: Final = 0.05
"""Part of the requests that are answered with 429."""


class FarSide(Receiver):
    """A receiver that refuses some requests, and knows which spans it took; of a span it reads the id alone.

    Args:
        seed: Of the dice.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.delivered: set[str] = set()
        """Ids of the spans that were answered with 2xx."""
        self.repeated = 0
        self.happened: Counter[str] = Counter()
        self.calm = False
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        # Workers are killed in the middle of requests: nobody wants to read that on a terminal.
        self._server.handle_error = _say_nothing

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:  # noqa: ARG002 - it has one path
        """Refuse a request, or take it."""
        draw = 1.0 if self.calm else self._dice.random()
        if draw < REFUSES:
            self.happened["export 503"] += 1
            return Reply(503)
        if draw < REFUSES + ASKS_TO_WAIT:
            self.happened["export 429"] += 1
            return Reply(429, retry_after="0.05")
        sent = ExportTraceServiceRequest.FromString(gzip.decompress(body))
        scopes = (scope for group in sent.resource_spans for scope in group.scope_spans)
        ids = {span.span_id.hex() for scope in scopes for span in scope.spans}
        self.repeated += len(ids & self.delivered)
        self.delivered |= ids
        return Reply()


def _say_nothing(request: object, client_address: object) -> None:
    """Take a connection's error for what it is here."""
