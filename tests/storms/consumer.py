"""A worker of the storm: `sidestream worker` as it is, but for short leases and, in a variant, one guard less.

Run as `python -m storms.consumer VARIANT BOOK`; the rest is in its environment.
"""

import sys
from typing import Final

from storms import consuming_variants
from storms.books import use_book

from consumers.runtime import arbiter, run
from sidestream import compose
from sidestream.__main__ import main as sidestream_main

LEASE_S: Final = 1.5
"""As the product's 10 s, in a storm of seconds: a frozen worker thaws behind its lease."""

RENEW_S: Final = 0.3
REST_S: Final = 1.0
"""As the product's 60 s after an error that repeating cannot mend."""

HOUSEKEEPING_EVERY_S: Final = 1.0
"""As the product's 5 s."""


def hasten() -> None:
    """Shorten leases and rests; there is no setting for them."""
    setattr(arbiter, "LEASE_TTL_MS", int(LEASE_S * 1_000))  # noqa: B010 - final to everybody else
    setattr(run, "RENEW_S", RENEW_S)  # noqa: B010
    setattr(run, "PAUSE_S", REST_S)  # noqa: B010
    setattr(compose, "HOUSEKEEPING_EVERY_S", HOUSEKEEPING_EVERY_S)  # noqa: B010


def main() -> None:
    """Work until SIGTERM."""
    variant, book = sys.argv[1:]
    hasten()
    use_book(book)
    consuming_variants.apply(variant)
    sys.argv = ["sidestream", "worker", "--handlers", "metrics,cost,export"]
    sidestream_main()


if __name__ == "__main__":
    main()
