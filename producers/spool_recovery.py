"""Recovery: a successor sends what dead producers left in the spool.

Keeps:
- A file is drained by one process, which holds its lock; the frames go out as they were sealed, under the id of the
  producer that sealed them, so the fence takes each once, whoever sent it before.
- The events stay the dead producer's: in the end its presence is written once more, with what became of them. They
  never enter the successor's own account, so both stay true.
- A file is removed only when every frame of it was answered OK or DUP; what cannot be sent is kept beside, by a name
  that says why: `.expired`, `.refused`, `.broken`.

The dead producer's account. Its last word may be older than its death, and says where its events were then. Now the
fences say what was appended: everything below `next`, so

    appended  = sum of `next` over its partitions, less what was set aside here and counted as lost there
    unknown   = what was set aside: never to be sent, by us at least
    buffered  = what is left of `offered`: it was in memory, and died there (`at_risk` in `sidestream status`)
    offered   = as it said; more, where it had sealed more than it had said

Events that it took after its last word and had not sealed are known to nobody.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from pipeline.errors import SidestreamError
from pipeline.keys import Keys
from pipeline.log import say
from pipeline.presence import Acknowledged, Presence, PresenceWriter, agree_partitions, read_last_word
from producers import clock
from producers.appending import append_frames
from producers.delivery import Delivery, Outcome, Sending
from producers.spool import SPOOL_AGE_S, finish_file, keep_aside, read_back
from producers.spool_file import Owner, SpoolError, SpoolFile, SpoolFullError, spool_files

if TYPE_CHECKING:
    from pipeline.connection import Server

LOG: Final = logging.getLogger("sidestream")

LOOK_EVERY_S: Final = 30.0
"""How often a process looks for files whose owner is gone."""


class Recovered(Struct, frozen=True):
    """What became of one file: `kept` is the path of what could not be sent, with the number of its events."""

    producer: str
    service: str
    events: int
    lost: int
    aside: int
    kept: str


@dataclass(slots=True)
class _Estate:
    """A file being drained."""

    file: SpoolFile
    owner: Owner
    delivery: Delivery
    max_partition: int
    appended: int = 0
    lost: int = 0
    aside: list[Sending] | None = None
    missing: int = 0


class Recovery:
    """Looks for files whose owner is gone, and sends their frames, one batch a step.

    Args:
        folder: Of the namespace.
        keys: Of the namespace.
        age_s: How old a frame may be and still be sent.
        replicas: How many must have a frame before it leaves the file.
    """

    def __init__(self, folder: Path, keys: Keys, age_s: float = SPOOL_AGE_S, *, replicas: int = 0) -> None:
        self.done: list[Recovered] = []
        self._folder = folder
        self._keys = keys
        self._age_s = age_s
        self._replicas = replicas
        self._estate: _Estate | None = None
        self._look_at_s = float("-inf")
        self._candidates: list[Path] = []
        self._passed_over: set[str] = set()

    def step(self, server: "Server", now_s: float) -> bool:
        """Do a little; return whether there is more to do at once.

        Args:
            server: Where the frames go.
            now_s: A monotonic clock.

        Raises:
            SidestreamError: Of the server: nothing is forgotten, the next step tries again.
        """
        if self._estate is None:
            self._estate = self._next(server, now_s)
        if self._estate is None:
            return bool(self._candidates)
        try:
            self._advance(server, self._estate, now_s)
        except SpoolError as error:
            self._condemn(self._estate.file, error)
            self._estate = None
        return True

    def _next(self, server: "Server", now_s: float) -> _Estate | None:
        if not self._candidates and now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            self._candidates = [path for path in spool_files(self._folder) if path.name not in self._passed_over]
        while self._candidates:
            path = self._candidates[0]
            estate = self._open(server, path)
            self._candidates.pop(0)
            if estate is not None:
                return estate
        return None

    def _open(self, server: "Server", path: Path) -> _Estate | None:
        try:
            file = SpoolFile.adopt(path)
        except SidestreamError as error:
            self._pass_over(path, error)
            return None
        if file is None:
            return None
        try:
            file.check()
            owner, totals, partitions = file.owner(), file.totals(), file.partitions()
            agree_partitions(server, self._keys, max(1, owner.partitions, partitions))
        except SpoolError as error:
            if error.code == "spool_empty":
                file.remove()
            elif error.code == "spool_format":
                file.close()
                self._pass_over(path, error)
            else:
                self._condemn(file, error)
            return None
        except BaseException:
            file.close()
            raise
        delivery = Delivery(owner.producer, age_s=self._age_s)
        delivery.inherit(totals.first, totals.last, totals.frames, totals.events)
        say(LOG, logging.INFO, "a producer that is gone left frames in the spool", frames=totals.frames)
        return _Estate(file, owner, delivery, partitions, aside=[])

    def _advance(self, server: "Server", estate: _Estate, now_s: float) -> None:
        delivery = estate.delivery
        estate.missing += read_back(estate.file, delivery, now_s)
        self._keep(estate, delivery.expire(now_s), "expired")
        sendings = delivery.to_send()
        if sendings:
            self._send(server, estate, sendings, now_s)
        if delivery.outstanding_frames() == 0:
            self._finish(server, estate)

    def _send(self, server: "Server", estate: _Estate, sendings: Sequence[Sending], now_s: float) -> None:
        delivery = estate.delivery
        answers = append_frames(server, self._keys, sendings, by_text=delivery.need_text, replicas=self._replicas)
        outcome = delivery.answered(sendings, answers, now_s)
        self._note(estate, outcome)
        if outcome.trouble is not None and outcome.trouble.code != "script_missing":
            raise outcome.trouble

    def _note(self, estate: _Estate, outcome: Outcome) -> None:
        estate.appended += outcome.appended
        estate.lost += outcome.lost
        self._keep(estate, outcome.refused, "refused")
        with contextlib.suppress(SpoolFullError):
            # Not fsynced, and a full disk does not matter: what is not forgotten now is answered DUP later.
            estate.file.write([], trim_to=estate.delivery.acknowledged_to(), sync=False)

    def _keep(self, estate: _Estate, sendings: Sequence[Sending], reason: str) -> None:
        if sendings and estate.aside is not None:
            keep_aside(estate.file, sendings, reason)
            estate.aside += sendings

    def _finish(self, server: "Server", estate: _Estate) -> None:
        """Say what became of the events, and let go of the file."""
        self._restate(server, estate)
        kept = finish_file(estate.file)
        self._estate = None
        aside = sum(sending.frame.count for sending in estate.aside or ()) + estate.missing
        done = Recovered(
            estate.owner.producer,
            estate.owner.service,
            estate.appended,
            estate.lost,
            aside,
            str(kept) if kept is not None else "",
        )
        self.done.append(done)
        if aside:
            say(LOG, logging.ERROR, "frames in the spool can never be sent", **msgspec.structs.asdict(done))
        else:
            say(LOG, logging.INFO, "the spool of a producer that is gone was sent", **msgspec.structs.asdict(done))

    def _restate(self, server: "Server", estate: _Estate) -> None:
        owner = estate.owner
        last, revision = read_last_word(server, self._keys, owner.producer)
        if last is None:
            if not estate.appended:
                return
            last = Presence(
                owner.producer,
                owner.service,
                owner.version,
                owner.environment,
                owner.instance,
                owner.pid,
                started_ms=owner.started_ms,
                partitions=owner.partitions,
            )
        numbers = set(last.acknowledged) | set(range(estate.max_partition)) | set(estate.delivery.acknowledged())
        nexts = {number: self._fence_next(server, owner.producer, number) for number in sorted(numbers)}
        for number, known in last.acknowledged.items():
            nexts[number] = max(nexts[number], known.next)
        word = restated(last, nexts, estate.aside or [], estate.appended, estate.lost)
        PresenceWriter(self._keys, owner.producer, revision).write(server, word)

    def _fence_next(self, server: "Server", producer: str, number: int) -> int:
        return int(server.call("HGET", self._keys.partition(number).fence(producer), "next") or 0)

    def _condemn(self, file: SpoolFile, error: SidestreamError) -> None:
        about: dict[str, object] = {"file": file.path, "error": error}
        try:
            about["kept"] = file.rename("broken")
        except SidestreamError:
            self._passed_over.add(file.path.name)
        say(
            LOG,
            logging.ERROR,
            "a file of the spool is damaged; it is kept aside, and what it held is not sent",
            **about,
        )

    def _pass_over(self, path: Path, error: SidestreamError) -> None:
        self._passed_over.add(path.name)
        say(LOG, logging.WARNING, "a file of the spool is not for this process", file=path, error=error)

    def close(self) -> None:
        """Let go of the file that is being drained; the next process goes on."""
        if self._estate is not None:
            self._estate.file.close()
            self._estate = None


def drain(recovery: Recovery, server: "Server") -> list[Recovered]:
    """Send everything that dead producers left; return what became of it.

    Raises:
        SidestreamError: Of the server; what was not sent stays.
    """
    try:
        while recovery.step(server, clock.now_s()):
            pass
    finally:
        recovery.close()
    return recovery.done


def restated(last: Presence, nexts: "dict[int, int]", aside: Sequence[Sending], recovered: int, lost: int) -> Presence:
    """Return the word of a dead producer whose spool was drained; see the top of this module.

    Args:
        last: Its last word.
        nexts: What its fence expects next, by partition.
        aside: Frames of its file that can never be sent.
        recovered: Events of its file that are appended now.
        lost: Events that the server turned out to have lost.
    """
    passed = sum(s.frame.count for s in aside if s.frame.next_seq <= nexts.get(s.frame.partition, 0))
    appended = max(0, sum(nexts.values()) - passed)
    unknown = sum(s.frame.count for s in aside)
    known = last.invalid + last.shed + appended + unknown
    losses = dict(last.losses)
    if last.lost + lost:
        losses["lost"] = last.lost + lost
    return msgspec.structs.replace(
        last,
        offered=max(last.offered, known),
        buffered=max(0, last.offered - known),
        spooled=0,
        in_flight=0,
        unknown=unknown,
        appended=appended,
        lost=last.lost + lost,
        losses=losses,
        acknowledged={number: Acknowledged(following) for number, following in nexts.items() if following},
        open_operations=(),
        recovered=last.recovered + recovered,
        closed=1,
    )
