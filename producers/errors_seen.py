"""One exception object, one ErrorEvent: the mark that says "already reported".

Whoever sees an exception first, at the innermost place, asks `report_once`; everyone further out gets False. A group
(`ExceptionGroup`, as a `TaskGroup` raises) is what its leaves are: with all of them reported, so is the group, and one
that is reported speaks for all of its leaves.
"""

import contextlib
import weakref
from collections import OrderedDict

from producers.exceptions import leaves_of, status_of

MARK = "__sidestream_reported__"
"""The attribute a reported exception carries."""

_MOST_REMEMBERED = 1_024
"""Exceptions that refuse the mark are rare; enough for the few that are in flight at once."""

_remembered: OrderedDict[int, weakref.ref[BaseException]] = OrderedDict()


def report_once(exc: BaseException) -> bool:
    """Mark `exc`, and the leaves of a group, as reported; return True for the first caller only.

    An exception that can be neither marked nor remembered gives True each time: counted twice is better than never.
    """
    if _is_reported(exc):
        return False
    leaves = leaves_of(exc)
    is_new = not _is_covered(leaves)
    for one in (exc, *leaves):
        _mark(one)
    return is_new


def _is_covered(leaves: list[BaseException]) -> bool:
    """Tell whether some leaves have been reported, and the others are no errors (cancelled beside one that failed)."""
    left = [leaf for leaf in leaves if not _is_reported(leaf)]
    return len(left) < len(leaves) and all(status_of(leaf) != "error" for leaf in left)


def _is_reported(exc: BaseException) -> bool:
    with contextlib.suppress(Exception):
        # `is True`: a class whose __getattr__ invents attributes has not been reported.
        if getattr(exc, MARK, False) is True:
            return True
    known = _remembered.get(id(exc))
    # The id of a dead exception may be given to a new one, so the reference decides.
    return known is not None and known() is exc


def _mark(exc: BaseException) -> None:
    try:
        setattr(exc, MARK, True)
    except Exception:  # noqa: BLE001 - a vendor's __setattr__ may raise anything
        with contextlib.suppress(TypeError):
            _remembered[id(exc)] = weakref.ref(exc)
            while len(_remembered) > _MOST_REMEMBERED:
                _remembered.popitem(last=False)
