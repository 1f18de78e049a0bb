"""What publishing needs to know; the front door composes it from files, environment and arguments."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipeline.errors import SettingsError
from pipeline.events import Resource
from pipeline.keys import DEFAULT_NAMESPACE, DEFAULT_PARTITIONS, MAX_PARTITIONS, Keys
from pipeline.redact import Redactor
from producers.pseudonyms import LEAST_KEY_CHARS

if TYPE_CHECKING:
    from pipeline.wire import Codec

MIN_BUFFER_EVENTS = 100
MAX_BUFFER_EVENTS = 10_000_000
MIN_BUFFER_BYTES = 1 << 20
MAX_BUFFER_BYTES = 1 << 40
MAX_LINGER_MS = 10_000
MAX_CLOSE_TIMEOUT_S = 300.0
MIN_SPOOL_BYTES = 1 << 18
MAX_SPOOL_BYTES = 1 << 40

_APPEND_LEVEL = re.compile(r"appended|replicated\(([1-9])\)")


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """How events are buffered, framed and sent.

    Args:
        namespace: Keeps applications and environments on one Redis apart.
        partitions: Streams to spread sessions over; the namespace's number holds where it is larger (1-1024).
        linger_ms: How long an event waits for others of its frame at most; less where a frame fills sooner (0-10,000).
        buffer_events: Events held at most while Redis is slow or away (100-10,000,000).
        buffer_bytes: What they may take, as estimated by `producers.buffer` (1 MiB to 1 TiB); None: as much as so many
            small events take, 1,664 bytes each.
        codec: `mz` (msgpack, zstd) or `json`.
        close_timeout_s: How long `close`, also at exit, waits for Redis (0-300).
        resource: Who speaks.
        spool_dir: Folder on a local disk for frames that Redis has not got yet; empty: there is no spool.
        spool_bytes: What one producer's file may take there (256 KiB to 1 TiB).
        spool_fsync: `always` (before a frame is sent) or `interval` (about once a second).
        append_level: When an event counts as appended: `appended` (Redis has answered) or `replicated(n)` (and so many
            replicas, 1-9, have said that they have it).
        user_key: A secret of at least 16 characters: users' ids are stored as hashes keyed by it; empty: as they are.
        redact: Takes secrets out of messages of errors.

    Raises:
        SettingsError: A value is out of its range; the message begins with the name of the field.
    """

    namespace: str = DEFAULT_NAMESPACE
    partitions: int = DEFAULT_PARTITIONS
    linger_ms: int = 200
    buffer_events: int = 50_000
    buffer_bytes: int | None = None
    codec: "Codec" = "mz"
    close_timeout_s: float = 2.0
    resource: Resource = Resource()  # noqa: RUF009 - frozen
    spool_dir: str = ""
    spool_bytes: int = 256 << 20
    spool_fsync: Literal["always", "interval"] = "always"
    append_level: str = "appended"
    user_key: str = field(default="", repr=False)
    redact: Redactor = Redactor()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        Keys(self.namespace)
        _in_range("partitions", self.partitions, 1, MAX_PARTITIONS)
        _in_range("linger_ms", self.linger_ms, 0, MAX_LINGER_MS)
        _in_range("buffer_events", self.buffer_events, MIN_BUFFER_EVENTS, MAX_BUFFER_EVENTS)
        if self.buffer_bytes is not None:
            _in_range("buffer_bytes", self.buffer_bytes, MIN_BUFFER_BYTES, MAX_BUFFER_BYTES)
        _in_range("close_timeout_s", self.close_timeout_s, 0, MAX_CLOSE_TIMEOUT_S)
        if self.codec not in {"mz", "json"}:
            raise SettingsError(f"codec {self.codec!r}: use mz or json")
        _in_range("spool_bytes", self.spool_bytes, MIN_SPOOL_BYTES, MAX_SPOOL_BYTES)
        if self.spool_fsync not in {"always", "interval"}:
            raise SettingsError(f"spool_fsync {self.spool_fsync!r}: use always or interval")
        if not _APPEND_LEVEL.fullmatch(self.append_level):
            raise SettingsError(f"append_level {self.append_level!r}: use appended or replicated(n), n from 1 to 9")

        if self.user_key and len(self.user_key) < LEAST_KEY_CHARS:
            raise SettingsError(f"user_key has {len(self.user_key)} characters: use at least {LEAST_KEY_CHARS}")

    @property
    def replicas(self) -> int:
        """How many replicas must have an event before it counts as appended."""
        level = _APPEND_LEVEL.fullmatch(self.append_level)
        return int(level[1] or 0) if level else 0


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise SettingsError(f"{name} {value}: use a number from {least:,} to {most:,}")
