"""The neighbours `pipeline`, `producers` and `consumers`: are they the ones that were installed with this package?

Their names are common. An application with a `pipeline` of its own, or another distribution that installs one, would
otherwise hide ours, and the first import inside would fail with a puzzling message, or worse, succeed.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Final

NEIGHBOURS: Final = {
    "pipeline": "wire.py",
    "producers": "telemetry.py",
    "consumers": "windows.py",
}
"""Each with a file that only ours has: another distribution may have been installed over it, into the same folder."""


def check_neighbours(home: Path | None = None) -> None:
    """See that each neighbour is found beside this package.

    Args:
        home: The folder that holds the packages; by default the one this file's package is in.

    Raises:
        ImportError: Another package of that name comes first; says which, where it is, and what to do.
    """
    folder = home or Path(__file__).resolve().parent.parent
    for name, own_file in NEIGHBOURS.items():
        found = _folder_of(name)
        if found is None:
            raise ImportError(f"{_opening(name)} is missing beside it, in {folder}. {_REINSTALL}")
        if found != folder / name:
            raise ImportError(f"{_opening(name)} is hidden by another package of that name: {found}. {_way_out(name)}")
        if not (found / own_file).is_file():
            raise ImportError(f"{_opening(name)} was overwritten by another distribution: {found}. {_REINSTALL}")


_REINSTALL: Final = (
    "Reinstall it in an environment of its own: "
    "python -m venv .venv && .venv/bin/pip install --force-reinstall sidestream"
)


def _opening(name: str) -> str:
    return f"sidestream cannot be imported: its package {name!r}"


def _way_out(name: str) -> str:
    return (
        f"Rename that package, put it inside your application's own package (yourapp.{name}), or start the application "
        f"from a folder that does not hold it."
    )


def _folder_of(name: str) -> Path | None:
    """Return the folder of a package, or the file of a module, of that name: loaded, or else what would be."""
    loaded = sys.modules.get(name)
    origin = getattr(loaded, "__file__", None)
    places = list(getattr(loaded, "__path__", []))
    if loaded is None:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        origin, places = spec.origin, list(spec.submodule_search_locations or [])
    if origin:
        path = Path(origin).resolve()
        return path.parent if path.name == "__init__.py" else path
    return Path(places[0]).resolve() if places else None
