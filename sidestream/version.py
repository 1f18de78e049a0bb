"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed() -> str:
    try:
        return version("sidestream")
    except PackageNotFoundError:
        return "0+unknown"


VERSION: Final = _installed()
