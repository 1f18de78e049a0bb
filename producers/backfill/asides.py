"""What could not be taken, set aside in a file of the same kind: it can be mended, and fed again."""

from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, BinaryIO

from producers.backfill.lines import MAX_LINE_BYTES, BadLine
from producers.backfill.sources import Source

if TYPE_CHECKING:
    from pathlib import Path


class Aside:
    """The file beside a source; made with the first line, never over another one.

    Args:
        source: Whose lines these are.
    """

    def __init__(self, source: Source) -> None:
        self.path: Path | None = None
        """Where it is, once there is one."""
        self.trouble = ""
        """Why there is none, where one could not be written."""
        self._source = source
        self._file: BinaryIO | None = None

    def keep(self, bad: BadLine) -> None:
        """Write a line, as it stood in its file."""
        if not bad.raw or self.trouble:
            return
        try:
            if self._file is None:
                self._file = self._made()
            goes_on = bad.raw.endswith(b"\n") or len(bad.raw) >= MAX_LINE_BYTES
            self._file.write(bad.raw if goes_on else bad.raw + b"\n")
        except OSError as error:
            self.trouble = error.strerror or str(error)

    def _made(self) -> BinaryIO:
        of = self._source.path
        for number in count():
            # A suffix tells the kind: what is mended is read as its source was.
            path = of.with_name(f"{of.stem}.bad{f'-{number}' if number else ''}{of.suffix}")
            with suppress(FileExistsError):
                file = path.open("xb")
                file.write(self._source.header())
                self.path = path
                return file
        raise AssertionError

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
