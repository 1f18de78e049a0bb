"""One session as JSON, the same wherever it is said; null is "unknown", never 0."""

from collections.abc import Sequence
from typing import Final

import msgspec

from consumers.views.documents import instant_document, instant_ms_document, range_document
from consumers.views.inflight import InFlight
from consumers.views.live import LiveSession
from consumers.views.states_json import session_document
from consumers.views.timeline import OneSession
from pipeline.units import US_PER_S

SCHEMA: Final = "sidestream.session/1"
"""Raised with any change that could break who reads it."""


def one_session_json(namespace: str, look: OneSession, row: LiveSession | None, open_now: Sequence[InFlight]) -> bytes:
    """Return one session as its JSON document (docs/json.md), in one line."""
    head = {
        "schema": SCHEMA,
        "namespace": namespace,
        "generated_at": instant_document(look.now_us // US_PER_S),
    }
    return msgspec.json.encode({**head, **one_session_document(look, row, open_now)})


def one_session_document(look: OneSession, row: LiveSession | None, open_now: Sequence[InFlight]) -> dict[str, object]:
    """Return one session as plain values.

    Args:
        look: What is known of it.
        row: Where it stands; None where nothing tells of it.
        open_now: What it has begun and not ended.
    """
    return {
        "session": look.session,
        "since": instant_ms_document(look.since_ms),
        "whole": look.whole,
        "counted": range_document(look.counted_range.from_s, look.counted_range.until_s),
        "resource": msgspec.to_builtins(look.resource),
        "stands": row and session_document(row),
        "stays": look.stays,
        "open": open_now,
        "events": [msgspec.to_builtins(event) for event in look.events],
        "left_out": look.left_out,
    }
