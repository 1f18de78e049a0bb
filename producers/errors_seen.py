"""One exception object, one ErrorEvent: the mark that says "already reported".

Whoever sees an exception first, at the innermost place, asks `report_once`; everyone further out gets False.
"""

import contextlib
import weakref
from collections import OrderedDict

MARK = "__sidestream_reported__"
"""The attribute a reported exception carries."""

_MOST_REMEMBERED = 1_024
"""Exceptions that refuse the mark are rare; enough for the few that are in flight at once."""

_remembered: OrderedDict[int, weakref.ref[BaseException]] = OrderedDict()


def report_once(exc: BaseException) -> bool:
    """Mark `exc` as reported; return True for the first caller only.

    An exception that can be neither marked nor remembered gives True each time: counted twice is better than never.
    """
    if _is_marked(exc):
        return False
    try:
        setattr(exc, MARK, True)
    except Exception:  # noqa: BLE001 - a vendor's __setattr__ may raise anything
        return _remember(exc)
    return True


def _is_marked(exc: BaseException) -> bool:
    with contextlib.suppress(Exception):
        # `is True`: a class whose __getattr__ invents attributes has not been reported.
        return getattr(exc, MARK, False) is True
    return False


def _remember(exc: BaseException) -> bool:
    key = id(exc)
    known = _remembered.get(key)
    # The id of a dead exception may be given to a new one, so the reference decides.
    if known is not None and known() is exc:
        return False
    with contextlib.suppress(TypeError):
        _remembered[key] = weakref.ref(exc)
        while len(_remembered) > _MOST_REMEMBERED:
            _remembered.popitem(last=False)
    return True
