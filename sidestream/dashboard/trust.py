"""Whether the figures of a view can be trusted, in a word and in sentences."""

from typing import Final

from msgspec.structs import replace

from sidestream.dashboard.view import View
from sidestream.wording.trust import Trust, judged

_MS_PER_S: Final = 1_000


def trust_of(view: View) -> Trust:
    """Return how far the figures of a view can be trusted; how old they are is said of this moment, not of the read."""
    from_s, is_stale = view.cells.covered.from_s, view.error is not None
    found = judged(view.look.completeness, from_s, view.now_s, is_stale=is_stale, letters="see Pipeline")
    totals = view.totals
    requests = totals.priced_requests + totals.unpriced_requests
    late_ms = None if found.late_ms is None else found.late_ms + round(view.held.age_s * _MS_PER_S)
    return replace(found, late_ms=late_ms, priced_ratio=totals.priced_requests / requests if requests else None)
