"""Every Redis key of Sidestream, built here and nowhere else.

Keeps:
- All keys of one partition share its hash tag `{<namespace>:NN}`, so that any script about it runs in one slot.
- Every key of a handler's state carries the version of that state.
- Two namespaces never share a key.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

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

    def versions(self) -> str:
        """String: the document of `consumers.versions`, which version answers for what."""
        return f"{{{self.namespace}:meta}}:versions"

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

    def workers_behind(self, handler: str) -> str:
        """Sorted set: those of them that may not carry every unit of it, for a newer recipe is in force."""
        return f"{{{self.namespace}:workers}}:behind:{handler}"

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

    def housekeeping_lease(self) -> str:
        """String with TTL: the worker that trims the streams and watches memory."""
        return f"{{{self.namespace}:housekeeping}}:lease"

    def pattern(self) -> str:
        """What SCAN finds all keys of the namespace with."""
        return f"{{{self.namespace}:*"

    def owns(self, key: str) -> bool:
        """Return whether a key is of this namespace, and not of one whose name merely begins alike."""
        return key.startswith(f"{{{self.namespace}:")

    def partition(self, number: int) -> "PartitionKeys":
        """Return the keys of one partition's slot."""
        return PartitionKeys(f"{{{self.namespace}:{number:02d}}}", number)

    def unit_pattern(self, unit: str) -> str:
        """What SCAN finds all keys of a unit with, in whatever partition; `UnitKeys.owns` says which they are."""
        return f"{{{self.namespace}:*}}:{unit}:*"


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

    def ledger(self, day: str) -> str:
        """Hash with TTL: the digests of the backfilled events of a day (`YYYYMMDD`, UTC), packed."""
        return f"{self.tag}:ledger:{day}"

    def unit(self, handler: str, version: int = LIVE_VERSION) -> "UnitKeys":
        """Return the keys of one handler's state of one version in this partition."""
        return self.named_unit(f"v{version}:{handler}")

    def named_unit(self, name: str) -> "UnitKeys":
        """Return the keys of a unit by its name: as `handlers` has it, or as an operator says it."""
        return UnitKeys(f"{self.tag}:{name}", name)


@dataclass(frozen=True, slots=True)
class UnitKeys:
    """The keys of a unit: one handler, one version of its state, one partition."""

    prefix: str
    name: str

    def pattern(self) -> str:
        """What SCAN finds all keys of the unit with."""
        return f"{self.prefix}:*"

    def owns(self, key: str) -> bool:
        """Return whether a key is of this unit."""
        return key.startswith(f"{self.prefix}:")

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
        """Hash: cell number -> value (`consumers.values`), of the window that starts at `start_s` (0 for lifetime)."""
        return f"{self.prefix}:w:{resolution}:{start_s}"

    def marginal(self, dimension: str, resolution: str, start_s: int) -> str:
        """Hash: name -> value, of one dimension alone; its fields but `__other__` are the names admitted."""
        return f"{self.prefix}:by:{dimension}:{resolution}:{start_s}"

    def ranking(self, dimension: str, resolution: str, start_s: int) -> str:
        """Sorted set: the names that rank highest in `marginal` -> their rank measure."""
        return f"{self.prefix}:rank:{dimension}:{resolution}:{start_s}"

    def slowest(self, resolution: str, start_s: int) -> str:
        """Sorted set: the slowest operations of a window -> duration in microseconds."""
        return f"{self.prefix}:slow:{resolution}:{start_s}"


_OF_UNITS: Final = {
    "cursor": "cursors",
    "recipes": "recipes",
    "dlq": "dead letters",
    "lease": "leases",
    "cells": "cells",
    "w": "windows",
    "by": "marginals",
    "rank": "rankings",
    "slow": "slow operations",
}
_OF_PARTITIONS: Final = {
    "stream": "streams",
    "fence": "fences",
    "counters": "counters",
    "handlers": "declarations",
    "ledger": "ledgers",
}
_OF_NAMESPACES: Final = {"meta", "presence", "workers", "alerts", "housekeeping"}
_KEY: Final = re.compile(r"\{[^:}]+:(?P<tag>[^}]+)\}(?::(?P<first>[^:]+)(?::[^:]+:(?P<state>[^:]+))?)?", re.DOTALL)
_UNIT: Final = re.compile(r"v[0-9]+")


def kind_of(key: str) -> str:
    """Return, in a word or two, what a key of ours holds; "other" of one that this version does not know."""
    found = _KEY.match(key)
    if found is None:
        return "other"
    if found["tag"] in _OF_NAMESPACES:
        return found["tag"]
    if _UNIT.fullmatch(found["first"] or ""):
        return _OF_UNITS.get(found["state"] or "", "other")
    return _OF_PARTITIONS.get(found["first"] or "", "other")
