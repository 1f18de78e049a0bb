"""Every Redis key of Sidestream, built here and nowhere else.

Keeps:
- All keys of one partition share its hash tag `{<namespace>:NN}`, so that any script about it runs in one slot.
- Every key of a handler's state carries the version of that state.
- Two namespaces never share a key.
"""

import hashlib
import re
from dataclasses import dataclass

from pipeline.errors import SettingsError

DEFAULT_NAMESPACE = "sidestream"
DEFAULT_PARTITIONS = 4
MAX_PARTITIONS = 1024
LIVE_VERSION = 1
"""The version of the state that a fresh namespace reads and writes."""

_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def partition_of(routing_key: str, partitions: int) -> int:
    """Return the partition of a session (else a run, else a producer): stable across processes and languages.

    Source: the first 8 bytes, big-endian, of BLAKE2b-64 over the UTF-8 text, modulo `partitions` (docs/wire.md).
    """
    digest = hashlib.blake2b(routing_key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace.

    Raises:
        SettingsError: The namespace is not 1-64 characters of a-z, 0-9, `_`, `.`, `-`, first a letter or digit.
    """

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise SettingsError(
                f"namespace {self.namespace!r}: use 1-64 characters of a-z, 0-9, '_', '.', '-', first a letter or digit"
            )

    def meta(self) -> str:
        """Hash: facts about the namespace, `partitions` above all."""
        return f"{{{self.namespace}:meta}}"

    def presence_index(self) -> str:
        """Sorted set: producer id -> broker time (ms) of its last word."""
        return f"{{{self.namespace}:presence}}:index"

    def presence(self, producer: str) -> str:
        """Hash with TTL: the last snapshot of one producer."""
        return f"{{{self.namespace}:presence}}:{producer}"

    def loss_window(self, hour_s: int) -> str:
        """Hash with TTL: what producers shed or found invalid in one hour (its start, seconds since 1970)."""
        return f"{{{self.namespace}:presence}}:loss:{hour_s}"

    def workers(self) -> str:
        """Sorted set: worker id -> broker time (ms) of its last word."""
        return f"{{{self.namespace}:workers}}:index"

    def workers_of(self, handler: str) -> str:
        """Sorted set: the workers that run one handler, likewise."""
        return f"{{{self.namespace}:workers}}:runs:{handler}"

    def worker(self, worker: str) -> str:
        """Hash with TTL: one worker's presence."""
        return f"{{{self.namespace}:workers}}:{worker}"

    def alert_states(self) -> str:
        """Hash: one row a rule and group, changed by compare-and-set."""
        return f"{{{self.namespace}:alerts}}:states"

    def alert_incidents(self) -> str:
        """Stream: what fired and resolved, oldest first."""
        return f"{{{self.namespace}:alerts}}:incidents"

    def alert_lease(self) -> str:
        """String with TTL: the worker that evaluates."""
        return f"{{{self.namespace}:alerts}}:lease"

    def partition(self, number: int) -> "PartitionKeys":
        """Return the keys of one partition's slot."""
        return PartitionKeys(f"{{{self.namespace}:{number:02d}}}", number)


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys of one partition; `tag` is its hash tag."""

    tag: str
    number: int

    def stream(self) -> str:
        """Stream: the frames."""
        return f"{self.tag}:stream"

    def fence(self, producer: str) -> str:
        """Hash with TTL: what one producer may append next, and what of it was accepted or lost."""
        return f"{self.tag}:fence:{producer}"

    def counters(self) -> str:
        """Hash: events appended, lost and trimmed in this partition, since its beginning."""
        return f"{self.tag}:counters"

    def handlers(self) -> str:
        """Hash: the declared handlers, `v<version>:<handler>` -> kind; trimming reads it."""
        return f"{self.tag}:handlers"

    def unit(self, handler: str, version: int = LIVE_VERSION) -> "UnitKeys":
        """Return the keys of one handler's state of one version in this partition."""
        return UnitKeys(f"{self.tag}:v{version}:{handler}", f"v{version}:{handler}")


@dataclass(frozen=True, slots=True)
class UnitKeys:
    """The keys of a unit: one handler, one version of its state, one partition."""

    prefix: str
    name: str

    def cursor(self) -> str:
        """Hash: the cursor, and the counters that move with it."""
        return f"{self.prefix}:cursor"

    def recipes(self) -> str:
        """List: `<cursor> <hash> <recipe>` for each recipe this state was computed with, oldest first."""
        return f"{self.prefix}:recipes"

    def dead_letters(self) -> str:
        """Stream: what this handler could not fold, with the reason."""
        return f"{self.prefix}:dlq"

    def lease(self) -> str:
        """String with TTL: the worker that reads; saves double work, guarantees nothing."""
        return f"{self.prefix}:lease"

    def cells(self, day: str) -> str:
        """Hash: joint cell -> its number within a day (`YYYYMMDD`, UTC; `all` for lifetime totals)."""
        return f"{self.prefix}:cells:{day}"

    def window(self, resolution: str, start_s: int) -> str:
        """Hash: `<cell number>.<measure>` -> integer, for the window that starts at `start_s` (0 for lifetime)."""
        return f"{self.prefix}:w:{resolution}:{start_s}"

    def marginal(self, dimension: str, resolution: str, start_s: int) -> str:
        r"""Hash: `<name>\x1f<measure>` -> integer of one dimension alone."""
        return f"{self.prefix}:by:{dimension}:{resolution}:{start_s}"

    def ranking(self, dimension: str, resolution: str, start_s: int) -> str:
        """Sorted set: name -> its rank measure; its members are the names that `marginal` admitted."""
        return f"{self.prefix}:rank:{dimension}:{resolution}:{start_s}"

    def slowest(self, resolution: str, start_s: int) -> str:
        """Sorted set: the slowest operations of a window -> duration in microseconds."""
        return f"{self.prefix}:slow:{resolution}:{start_s}"
