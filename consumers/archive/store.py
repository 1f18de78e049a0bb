"""Where segments lie: a folder or an object store; the one door to obstore.

Keeps:
- What was written is never written again, and never changed: a put of a name that is there does nothing.
- A put that has returned is durable as far as the store is: a folder's file and its directories are fsynced.

Paths are `<namespace>/<partition>/<name>`, and `<namespace>/aside/<partition>/<name>` of what was set aside.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio.to_thread
import obstore
import obstore.exceptions
import obstore.store
from msgspec import Struct

from pipeline.errors import PermanentError, SettingsError, UnavailableError
from pipeline.segments import TAIL_BYTES, DamagedError, Footer, SegmentName, footer_offset, parse_footer

T = TypeVar("T")

# Both are overloaded for Arrow's tables, whose types are not here.
_listing = cast("Callable[[Any, str], Any]", obstore.list_with_delimiter)  # pyright: ignore[reportUnknownMemberType]
_pages = cast("Callable[[Any, str], Any]", obstore.list)  # pyright: ignore[reportUnknownMemberType]

_HEAD_BYTES: Final = 8
_ASIDE: Final = "aside"
_ATTEMPT_S: Final = "10s"
_REFUSALS: Final = (
    obstore.exceptions.UnauthenticatedError,
    obstore.exceptions.PermissionDeniedError,
    obstore.exceptions.NotSupportedError,
    obstore.exceptions.InvalidPathError,
)


class StoreRefusedError(PermanentError):
    """The store refuses: repeating will not help until somebody changes a right or a setting."""

    code = "archive_refused"


class StoredSegment(Struct, frozen=True):
    """A segment as the store lists it: `size` in bytes."""

    partition: int
    name: SegmentName
    size: int


class Leftover(Struct, frozen=True):
    """What lies among the segments and is none: a write that was killed half-way, or a stranger's file."""

    path: str
    size: int


class ArchiveStore:
    """The segments of one namespace.

    Args:
        url: `file:///folder`, `s3://bucket/prefix`, `gs://…`, `az://…`; credentials as obstore reads them from the
            environment (https://developmentseed.org/obstore).
        namespace: Whose.
        create: Make a folder that is not there; who only reads must not, or a typo looks like an empty archive.

    Raises:
        SettingsError: The url is none that obstore knows; the folder is not there, or cannot be made.
    """

    def __init__(self, url: str, namespace: str, *, create: bool = True) -> None:
        self.url = url
        self.namespace = namespace
        try:
            self._store = _open(url, create=create)
        except (ValueError, OSError, obstore.exceptions.BaseError) as error:
            raise SettingsError(f"archive url {url!r}: {_first_line(error)}") from error
        prefix = getattr(self._store, "prefix", None)
        self._folder = Path(prefix) if url.startswith("file:") and prefix else None

    async def put(self, partition: int, name: SegmentName, data: bytes) -> bool:
        """Write a segment; return False where it is there already.

        Raises:
            UnavailableError: The store is away; the segment is there, or it is not.
            StoreRefusedError: It refuses.
        """
        path = self._path(partition, name)
        return await self._ask(partial(self._put, path, data))

    def _put(self, path: str, data: bytes) -> bool:
        try:
            obstore.put(self._store, path, data, mode="create", use_multipart=False)
            written = True
        except obstore.exceptions.AlreadyExistsError:
            written = False
        if self._folder is not None:
            _sync(self._folder, path)
        return written

    async def segments(self, partition: int) -> tuple[list[StoredSegment], list[Leftover]]:
        """List a partition's segments in the order of their entries, and what else lies among them.

        Raises:
            UnavailableError: See `put`.
            StoreRefusedError: See `put`.
        """
        return await self._list(self._prefix(partition), partition)

    async def aside(self, partition: int) -> list[StoredSegment]:
        """List what was set aside of a partition.

        Raises:
            UnavailableError: See `put`.
            StoreRefusedError: See `put`.
        """
        return (await self._list(self._prefix(partition, _ASIDE), partition))[0]

    async def partitions(self) -> list[int]:
        """Return the partitions that have segments.

        Raises:
            UnavailableError: See `put`.
            StoreRefusedError: See `put`.
        """
        listed: Any = await self._ask(lambda: _listing(self._store, f"{self.namespace}/"))
        names = [prefix.rstrip("/").rpartition("/")[2] for prefix in listed["common_prefixes"]]
        return sorted(int(name) for name in names if name.isdigit())

    async def read(self, partition: int, name: SegmentName) -> bytes:
        """Return a segment's bytes.

        Raises:
            DamagedError: It is not there.
            UnavailableError: See `put`.
            StoreRefusedError: See `put`.
        """
        path = self._path(partition, name)
        try:
            return await self._ask(lambda: bytes(obstore.get(self._store, path).bytes()))
        except FileNotFoundError as error:
            raise DamagedError(f"{path} is not there") from error

    async def footer(self, partition: int, segment: StoredSegment) -> Footer:
        """Return what a segment says of itself; only its end is fetched.

        Raises:
            DamagedError: It is not there, or its end is damaged.
            UnavailableError: See `put`.
            StoreRefusedError: See `put`.
        """
        path, size = self._path(partition, segment.name), segment.size
        tail = await self._range(path, max(0, size - TAIL_BYTES), size)
        start = footer_offset(tail)
        if not 0 < start < size:
            raise DamagedError(f"{path}: its footer would begin at byte {start:,} of {size:,}")
        # As much is left before it as a segment has there, so that its offset says what it says.
        return parse_footer(bytes(_HEAD_BYTES) + await self._range(path, start, size), _HEAD_BYTES)

    async def _range(self, path: str, start: int, end: int) -> bytes:
        try:
            return await self._ask(lambda: bytes(obstore.get_range(self._store, path, start=start, end=end)))
        except FileNotFoundError as error:
            raise DamagedError(f"{path} is not there") from error

    async def set_aside(self, partition: int, name: SegmentName) -> None:
        """Move a segment out of the archive, beside it.

        Raises:
            UnavailableError: See `put`.
            StoreRefusedError: See `put`.
        """
        source, target = self._path(partition, name), f"{self._prefix(partition, _ASIDE)}{name}"
        await self._ask(lambda: obstore.rename(self._store, source, target))

    async def delete(self, partition: int, name: SegmentName) -> None:
        """Delete a segment, for good.

        Raises:
            UnavailableError: See `put`.
            StoreRefusedError: See `put`.
        """
        path = self._path(partition, name)
        await self._ask(lambda: obstore.delete(self._store, path))

    async def _list(self, prefix: str, partition: int) -> tuple[list[StoredSegment], list[Leftover]]:
        if self._folder is not None and not self._folder.is_dir():
            raise UnavailableError(f"the archive at {self.url} is gone: there is no such folder")
        listed: list[Any] = await self._ask(lambda: [meta for some in _pages(self._store, prefix) for meta in some])
        found: list[StoredSegment] = []
        others: list[Leftover] = []
        for meta in listed:
            name = SegmentName.parse(meta["path"].rpartition("/")[2])
            if name is None or meta["path"] != f"{prefix}{name}":
                others.append(Leftover(meta["path"], meta["size"]))
            else:
                found.append(StoredSegment(partition, name, meta["size"]))
        return sorted(found, key=lambda one: (one.name.first, one.name.last, one.name.hash)), others

    def _prefix(self, partition: int, *within: str) -> str:
        return "/".join([self.namespace, *within, f"{partition:04d}", ""])

    def _path(self, partition: int, name: SegmentName) -> str:
        return f"{self._prefix(partition)}{name}"

    async def _ask(self, question: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(question)
        except FileNotFoundError:
            raise
        except _REFUSALS as error:
            raise StoreRefusedError(f"the archive at {self.url} refuses: {_first_line(error)}") from error
        except (obstore.exceptions.BaseError, OSError) as error:
            raise UnavailableError(f"the archive at {self.url} does not answer: {_first_line(error)}") from error


def _open(url: str, *, create: bool) -> Any:  # noqa: ANN401 - obstore's stores have no common type at run time
    if url.startswith("file:"):
        if not create and not Path(url2pathname(urlsplit(url).path)).is_dir():
            raise ValueError("there is no such folder")
        return obstore.store.from_url(url, mkdir=True)
    return obstore.store.from_url(url, client_options={"timeout": _ATTEMPT_S}, retry_config={"max_retries": 2})


def _sync(folder: Path, path: str) -> None:
    """Make a file durable, and the entries of the directories that lead to it."""
    file = folder / path
    for one in (file, *(parent for parent in file.parents if parent.is_relative_to(folder))):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
