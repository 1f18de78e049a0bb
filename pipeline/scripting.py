"""The Lua scripts, loaded from `pipeline/scripts/`, each under the hash the server knows it by."""

import hashlib

# `resources` would import it at the first script: see pipeline.connection.
import importlib.readers  # noqa: F401  # pyright: ignore[reportUnusedImport]
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and its SHA-1, by which EVALSHA finds it."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """Return the script `pipeline/scripts/<name>.lua`."""
    text = (resources.files("pipeline") / "scripts" / f"{name}.lua").read_text("utf-8")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
