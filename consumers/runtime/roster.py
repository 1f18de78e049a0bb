"""Which units a worker has: of each partition and handler the base, and what has been replayed beside it.

Keeps: a unit stays the same as long as it is wanted; what the document of versions has no more is let go.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from consumers.contract import Archive
from consumers.register import read_versions
from consumers.runtime.archiving import ArchivingUnit
from consumers.runtime.batch import Decoder
from consumers.runtime.effects import ArchiveEffect, Effect
from consumers.runtime.replaying import ReplayUnit, Version
from consumers.runtime.unit import Unit, UnitOptions
from consumers.versions import ALL_DAYS, Replay, Versions
from pipeline.connection import AsyncServer
from pipeline.keys import LIVE_VERSION, Keys, PartitionKeys
from pipeline.presence import read_partitions

log: Final = logging.getLogger("sidestream.worker")


class Roster:
    """The units of one worker, by the keys of their leases.

    Args:
        server: Where they are.
        keys: The namespace's.
        effects: What they do.
        options: What all of them share; each version has a decoder of its own.
        only: The one version to have, where it is not all that workers carry.
        history: The archive that replays begin with.
    """

    def __init__(  # noqa: PLR0913 - what, with what
        self,
        server: AsyncServer,
        keys: Keys,
        effects: Sequence[Effect],
        options: UnitOptions,
        *,
        only: int | None = None,
        history: Archive | None = None,
    ) -> None:
        self.units: dict[str, Unit] = {}
        self._server = server
        self._keys = keys
        self._effects = list(effects)
        self._options = options
        self._only = only
        self._history = history
        self._of_version: dict[int, UnitOptions] = {}
        self._left: frozenset[tuple[str, int]] = frozenset()
        """Handlers of replays that are left to workers with their recipe."""

    async def refresh(self) -> tuple[list[Unit], set[str]]:
        """Learn the partitions and versions; return the units that are new, and the leases of those that are gone.

        Raises:
            SidestreamError: Redis is away or refuses.
        """
        count = await read_partitions(self._server, self._keys)
        versions = await read_versions(self._server, self._keys)
        carried = [(effect, *which) for effect in self._effects for which in self._carried(effect, versions)]
        wanted: dict[str, Unit] = {}
        new: list[Unit] = []
        for partition in map(self._keys.partition, range(count)):
            for effect, number, replay in carried:
                key = partition.unit(effect.name, number).lease()
                unit = self.units.get(key)
                if unit is None:
                    unit = self._unit(partition, effect, number, replay)
                    new.append(unit)
                elif isinstance(unit, ReplayUnit):
                    unit.version = self._version(effect.name, number, replay)
                wanted[key] = unit
        gone = self.units.keys() - wanted.keys()
        self.units = wanted
        return new, gone

    def _carried(self, effect: Effect, versions: Versions) -> list[tuple[int, Replay | None]]:
        """Return the versions of an effect that the worker carries, a base without its replay."""
        only = self._only
        if effect.kind != "fold":
            return [] if only else [(LIVE_VERSION, None)]
        recipe_hash, _ = effect.recipe()
        base = versions.base(effect.name)
        found: list[tuple[int, Replay | None]] = [(base, None)] if only in {None, base} else []
        for one in versions.replays:
            mine = one.number == only if only else one.progress != "building"
            if mine and one.takes(effect.name, recipe_hash):
                found.append((one.number, one))
            elif mine and effect.name in one.handlers:
                self._leave_version(effect.name, one.number)
        return found

    def _leave_version(self, handler: str, number: int) -> None:
        if (handler, number) not in self._left:
            self._left |= {(handler, number)}
            about = {"unit": f"v{number}:{handler}"}
            log.warning("A replayed version is left to workers with the recipe that it is computed with", extra=about)

    def _unit(self, partition: PartitionKeys, effect: Effect, version: int, replay: Replay | None) -> Unit:
        options = self._of_version.get(version)
        if options is None:
            decoder = Decoder(len(self._effects))
            options = self._of_version[version] = replace(self._options, version=version, decoder=decoder)
        if isinstance(effect, ArchiveEffect):
            return ArchivingUnit(self._server, partition, effect, options)
        if version != LIVE_VERSION:
            return ReplayUnit(self._server, partition, effect, options, self._version(effect.name, version, replay))
        return Unit(self._server, partition, effect, options)

    def _version(self, handler: str, number: int, replay: Replay | None) -> Version:
        async def known() -> bool:
            born = replay.born if replay else ""
            return (await read_versions(self._server, self._keys)).known(handler, number, born)

        answers = replay is None or replay.progress == "swapped"
        return Version(
            days=replay.days if replay else ALL_DAYS,
            born=replay.born if replay else "",
            kind="fold" if answers else "replay",
            known=known,
            history=self._history,
        )
