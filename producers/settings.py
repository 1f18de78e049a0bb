"""What publishing needs to know; the front door composes it from files, environment and arguments."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.errors import SettingsError
from pipeline.events import Resource
from pipeline.keys import DEFAULT_NAMESPACE, DEFAULT_PARTITIONS, MAX_PARTITIONS, Keys

if TYPE_CHECKING:
    from pipeline.wire import Codec

MIN_BUFFER_EVENTS = 100
MAX_BUFFER_EVENTS = 10_000_000
MAX_LINGER_MS = 10_000
MAX_CLOSE_TIMEOUT_S = 300.0
MIN_SPOOL_BYTES = 1 << 18
MAX_SPOOL_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """How events are buffered, framed and sent.

    Args:
        namespace: Keeps applications and environments on one Redis apart.
        partitions: Streams to spread sessions over; the namespace's number holds where it is larger (1-1024).
        linger_ms: How long an event waits for others of its frame (0-10,000).
        buffer_events: Events held at most while Redis is slow or away (100-10,000,000).
        codec: `mz` (msgpack, zstd) or `json`.
        close_timeout_s: How long `close`, also at exit, waits for Redis (0-300).
        resource: Who speaks.
        spool_dir: Folder on a local disk for frames that Redis has not got yet; empty: there is no spool.
        spool_bytes: What one producer's file may take there (256 KiB to 1 TiB).
        spool_fsync: `always` (before a frame is sent) or `interval` (about once a second).

    Raises:
        SettingsError: A value is out of its range; the message begins with the name of the field.
    """

    namespace: str = DEFAULT_NAMESPACE
    partitions: int = DEFAULT_PARTITIONS
    linger_ms: int = 50
    buffer_events: int = 50_000
    codec: "Codec" = "mz"
    close_timeout_s: float = 2.0
    resource: Resource = Resource()  # noqa: RUF009 - frozen
    spool_dir: str = ""
    spool_bytes: int = 256 << 20
    spool_fsync: Literal["always", "interval"] = "always"

    def __post_init__(self) -> None:
        Keys(self.namespace)
        _in_range("partitions", self.partitions, 1, MAX_PARTITIONS)
        _in_range("linger_ms", self.linger_ms, 0, MAX_LINGER_MS)
        _in_range("buffer_events", self.buffer_events, MIN_BUFFER_EVENTS, MAX_BUFFER_EVENTS)
        _in_range("close_timeout_s", self.close_timeout_s, 0, MAX_CLOSE_TIMEOUT_S)
        if self.codec not in {"mz", "json"}:
            raise SettingsError(f"codec {self.codec!r}: use mz or json")
        _in_range("spool_bytes", self.spool_bytes, MIN_SPOOL_BYTES, MAX_SPOOL_BYTES)
        if self.spool_fsync not in {"always", "interval"}:
            raise SettingsError(f"spool_fsync {self.spool_fsync!r}: use always or interval")


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise SettingsError(f"{name} {value}: use a number from {least:g} to {most:g}")
