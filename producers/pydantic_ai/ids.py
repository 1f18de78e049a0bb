"""Ids that make a tree: run span over request span and tool span, nested runs under the tool that started them."""

import os
from hashlib import blake2b


def new_trace_id() -> str:
    """Return 32 random hex digits; from the system, so that an application's `random.seed` cannot repeat them."""
    return os.urandom(16).hex()


def new_span_id() -> str:
    """Return 16 random hex digits."""
    return os.urandom(8).hex()


def span_id_of(operation_id: str) -> str:
    """Return the span id of an operation: anyone who knows an event's `parent_id` knows its parent's span."""
    return blake2b(operation_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
