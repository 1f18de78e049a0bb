"""Sources: files of events, each of a kind that its beginning tells.

Keeps: a file is read twice, first to look and then to feed; one that changed in between is not fed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pipeline.errors import SettingsError
from pipeline.segments import MAGIC, DamagedError
from producers.backfill.csv_lines import csv_lines
from producers.backfill.lines import BOM, Read, json_lines
from producers.backfill.segment_lines import segment_lines

Kind: TypeAlias = Literal["JSON lines", "CSV", "archive segment"]

_BY_SUFFIX: Final[dict[str, Kind]] = {
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON lines",
    ".csv": "CSV",
}
_LOOKED_AT_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """A file of events, as it was when it was opened first."""

    path: Path
    kind: Kind
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Look at a file.

        Raises:
            SettingsError: It cannot be read, or is none.
        """
        try:
            facts = path.stat()
            if not path.is_file():
                raise SettingsError(f"{path}: is no file; what is fed is read twice")
            with path.open("rb") as file:
                begins = file.read(_LOOKED_AT_BYTES)
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
        return cls(path, _kind_of(path, begins), facts.st_size, facts.st_mtime_ns)

    def read(self) -> Iterator[Read]:
        """Read its events.

        Raises:
            SettingsError: As a whole it is no such file.
        """
        try:
            if self.kind == "archive segment":
                yield from segment_lines(self.path.read_bytes())
                return
            with self.path.open("rb") as file:
                yield from csv_lines(file) if self.kind == "CSV" else json_lines(file)
        except (SettingsError, DamagedError) as error:
            raise SettingsError(f"{self.path}: {error}") from None
        except OSError as error:
            raise SettingsError(f"{self.path}: cannot be read: {error.strerror}") from error

    def header(self) -> bytes:
        """Return what a part of it must begin with to be a file of its own."""
        if self.kind != "CSV":
            return b""
        with self.path.open("rb") as file:
            return file.readline()

    def check_unchanged(self) -> None:
        """See that it is still the file that was looked at.

        Raises:
            SettingsError: It is not.
        """
        now = Source.of(self.path)
        if now != self:
            raise SettingsError(f"{self.path}: has changed while it was read; try again when nobody writes to it")


def _kind_of(path: Path, begins: bytes) -> Kind:
    if begins.startswith(MAGIC):
        return "archive segment"
    by_suffix = _BY_SUFFIX.get(path.suffix.lower())
    if by_suffix is not None:
        return by_suffix
    return "JSON lines" if begins.removeprefix(BOM).lstrip().startswith(b"{") else "CSV"
