"""What `handler retire` and `purge` show: what would go, or went, by kind."""

import msgspec
from rich.console import Console
from rich.table import Table

from consumers.removal import Survey
from sidestream.wording.human import size

SCHEMA = "sidestream.removal/1"


def removal_json(what: str, survey: Survey, *, done: bool, held_by: list[str]) -> bytes:
    """Return the document: `keys` and `bytes` are what was there before."""
    document = {
        "schema": SCHEMA,
        "what": what,
        "done": done,
        "held_by": held_by,
        "keys": survey.keys,
        "bytes": survey.bytes,
        "kinds": survey.kinds,
    }
    return msgspec.json.encode(document)


def print_survey(out: Console, survey: Survey) -> None:
    """Print keys and bytes by kind, the largest first."""
    table = Table(box=None, header_style="dim", pad_edge=False, show_edge=False)
    for name in ("KIND", "KEYS", "MEMORY"):
        table.add_column(name, justify="left" if name == "KIND" else "right")
    for name, kind in sorted(survey.kinds.items(), key=lambda row: (-row[1].bytes, row[0])):
        table.add_row(name, f"{kind.keys:,}", size(kind.bytes))
    table.add_row("all", f"{survey.keys:,}", size(survey.bytes), style="bold")
    out.print(table)
