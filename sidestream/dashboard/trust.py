"""Whether the figures of a view can be trusted, in a word and in sentences."""

from msgspec.structs import replace

from sidestream.cli.trust import Trust, judged
from sidestream.dashboard.view import View


def trust_of(view: View) -> Trust:
    """Return how far the figures of a view can be trusted."""
    from_s, is_stale = view.cells.covered.from_s, view.error is not None
    found = judged(view.look.completeness, from_s, view.now_s, is_stale=is_stale, letters="see Pipeline")
    totals = view.totals
    requests = totals.priced_requests + totals.unpriced_requests
    return replace(found, priced_ratio=totals.priced_requests / requests if requests else None)
