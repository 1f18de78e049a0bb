"""Whether the figures of a view can be trusted, in a word and in sentences."""

from sidestream.cli.trust import Trust, judged
from sidestream.dashboard.view import View


def trust_of(view: View) -> Trust:
    """Return how far the figures of a view can be trusted."""
    from_s, is_stale = view.cells.covered.from_s, view.error is not None
    return judged(view.look.completeness, from_s, view.now_s, is_stale=is_stale, letters="see Pipeline")
