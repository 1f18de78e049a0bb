"""Whether a worker does its work: decided from what its loops tell, without a clock and without I/O.

Keeps:
- Good only while it progresses or has nothing to do. A unit that has neither committed nor found nothing to read for
  `stuck_after_s` seconds is stuck, whatever the reason is: also one that nobody has thought of.
- What repeating cannot mend is stuck at once. What another worker must carry is not, as long as another holds it.
- Live (the loop turns) and ready (everything held progresses) are two answers: a restart brings no Redis back.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from pipeline.errors import SidestreamError, UnknownOutcomeError, UnreachableError

STUCK_AFTER_S: Final = 60.0
"""Longer than a restart of Redis, a failover or the back-off of a sink that is refused once or twice."""

MAX_WHY_CHARS: Final = 300
"""Characters of a reason: it may quote what a server said."""

State: TypeAlias = Literal["ok", "waiting", "stuck"]

Place: TypeAlias = tuple[str, int | None]
"""A handler and a partition; a periodic task has none."""

_SILENT: Final = frozenset({UnreachableError.code, UnknownOutcomeError.code})


class UnitHealth(Struct, frozen=True):
    """One unit or periodic task: `ok`, `waiting` (it may go on by itself) or `stuck`; why, and for how many seconds."""

    handler: str
    partition: int | None
    state: State = "ok"
    code: str = ""
    why: str = ""
    for_s: float = 0.0

    @property
    def sentence(self) -> str:
        """What is wrong, in one line."""
        where = self.handler if self.partition is None else f"{self.handler}, partition {self.partition}"
        return f"{where}: {self.state} for {self.for_s:.0f} s: {self.why}"


class Health(Struct, frozen=True):
    """What a worker's health was at one instant.

    `why` is one line: of what is stuck where it is not ready, else of what waits; empty where all is well.
    """

    live: bool
    ready: bool
    why: str
    stuck_after_s: float
    loop_silent_s: float
    """Seconds since the worker's loop last turned."""
    redis_silent_s: float
    """Seconds since Redis last took what this worker said."""
    redis_error: str
    """The code of what is wrong with Redis; empty while it answers."""
    units: tuple[UnitHealth, ...]
    """All that this worker holds, and what it left to others."""

    @property
    def troubles(self) -> tuple[UnitHealth, ...]:
        """The units that are not ok: those that are stuck first."""
        found = (unit for unit in self.units if unit.state != "ok")
        return tuple(sorted(found, key=lambda unit: (unit.state != "stuck", -unit.for_s)))


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What stands in the way, since when (seconds), and whether repeating can mend it."""

    code: str
    why: str
    since_s: float
    permanent: bool


@dataclass(frozen=True, slots=True)
class _Watched:
    """One unit: when it last progressed, what stands in the way; `left` to others, of whom `owner` holds it."""

    progress_s: float
    trouble: _Trouble | None = None
    left: bool = False
    owner: str = ""


@dataclass(slots=True)
class HealthWatch:
    """Takes what the loops of one worker tell, and says how it is; every time is of one monotonic clock, in seconds.

    One thread tells; any may look, for each record is replaced as a whole.
    """

    started_s: float
    stuck_after_s: float = STUCK_AFTER_S
    _turned_s: float = field(init=False)
    _answered_s: float = field(init=False)
    _redis: _Trouble | None = None
    _watched: dict[Place, _Watched] = field(default_factory=dict[Place, _Watched])

    def __post_init__(self) -> None:
        self._turned_s = self._answered_s = self.started_s

    def turned(self, now_s: float) -> None:
        """Note that the worker's loop turns."""
        self._turned_s = now_s

    def answered(self, now_s: float) -> None:
        """Note that Redis took what the worker said of itself, and told who else is there."""
        self._answered_s = now_s
        self._redis = None

    def unanswered(self, error: SidestreamError, now_s: float, *, permanent: bool) -> None:
        """Note that Redis did not, and why."""
        self._redis = _trouble(self._redis, error.code, str(error), now_s, permanent=permanent)

    def holds(self, held: Collection[Place], owners: Mapping[Place, str], now_s: float) -> None:
        """Note what the worker carries from now on, and who carries the rest.

        The time of a unit begins when it is taken. One that was handed over is nobody's business here; one that was
        left to others is, until another holds it.
        """
        for place in held:
            found = self._watched.get(place)
            if found is None or found.left:
                self._watched[place] = _Watched(now_s)
        for place, found in list(self._watched.items()):
            if place in held:
                continue
            if not found.left:
                del self._watched[place]
                continue
            owner = owners.get(place, "")
            progress_s = now_s if owner else found.progress_s
            self._watched[place] = _Watched(progress_s, found.trouble, left=True, owner=owner)

    def progressed(self, place: Place, now_s: float) -> None:
        """Note that a unit has committed, or has found nothing to read."""
        self._watched[place] = _Watched(now_s)

    def failed(self, place: Place, code: str, why: str, now_s: float, *, permanent: bool = False) -> None:
        """Note an error of a unit, and whether repeating can mend it."""
        found = self._watched.get(place) or _Watched(now_s)
        trouble = _trouble(found.trouble, code, why, now_s, permanent=permanent)
        self._watched[place] = _Watched(found.progress_s, trouble)

    def left(self, place: Place, error: SidestreamError, now_s: float) -> None:
        """Note that a unit is another worker's duty, for this one must not carry it."""
        found = self._watched.get(place)
        trouble = _trouble(found.trouble if found else None, error.code, str(error), now_s, permanent=False)
        if found is None or not found.left:
            found = _Watched(now_s)
        self._watched[place] = _Watched(found.progress_s, trouble, left=True, owner=found.owner)

    def may_carry(self, place: Place) -> None:
        """Note that a unit that was left to others is like any other again."""
        self._watched.pop(place, None)

    def look(self, now_s: float) -> Health:
        """Return the health at `now_s`."""
        watched = sorted(self._watched.copy().items(), key=_order)
        units = tuple(_health_of(place, found, now_s, self.stuck_after_s) for place, found in watched)
        loop_silent_s = max(0.0, now_s - self._turned_s)
        redis_silent_s = max(0.0, now_s - self._answered_s)
        live = loop_silent_s <= self.stuck_after_s
        redis = self._redis
        away = bool(redis and redis.permanent) or redis_silent_s > self.stuck_after_s
        reasons = [
            (not live, f"the worker's loop has not turned for {loop_silent_s:.0f} s"),
            (away, _redis_sentence(redis, redis_silent_s)),
            *((True, reason) for reason in _unit_sentences(units, "stuck")),
            (redis is not None, _redis_sentence(redis, redis_silent_s)),
            *((True, reason) for reason in _unit_sentences(units, "waiting")),
        ]
        return Health(
            live=live,
            ready=live and not away and all(unit.state != "stuck" for unit in units),
            why=next((reason for holds, reason in reasons if holds), ""),
            stuck_after_s=self.stuck_after_s,
            loop_silent_s=round(loop_silent_s, 1),
            redis_silent_s=round(redis_silent_s, 1),
            redis_error=redis.code if redis else "",
            units=units,
        )


def _health_of(place: Place, watched: _Watched, now_s: float, stuck_after_s: float) -> UnitHealth:
    trouble, still_s = watched.trouble, max(0.0, now_s - watched.progress_s)
    state: State = "stuck" if still_s > stuck_after_s else "waiting"
    if trouble is None:
        code, why, for_s = "no_progress", "entries wait, or a step does not end; its cursor has not moved", still_s
        if state == "waiting":
            return UnitHealth(*place)
    else:
        code, why, for_s = trouble.code, trouble.why, max(0.0, now_s - trouble.since_s)
        if trouble.permanent:
            state = "stuck"
        if watched.left:
            why = f"left to {watched.owner}: {why}" if watched.owner else f"nobody holds it: {why}"
    return UnitHealth(*place, state, code, why, round(for_s, 1))


def _redis_sentence(redis: _Trouble | None, silent_s: float) -> str:
    if redis is None or redis.code in _SILENT:
        return f"Redis has not answered for {silent_s:.0f} s"
    return f"Redis has taken nothing for {silent_s:.0f} s: {redis.why}"


def _unit_sentences(units: Sequence[UnitHealth], state: State) -> list[str]:
    """Return the sentence of the unit that is in this state for longest, and how many more are."""
    found = sorted((unit for unit in units if unit.state == state), key=lambda unit: -unit.for_s)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return [f"{unit.sentence}{more}" for unit in found[:1]]


def _trouble(before: _Trouble | None, code: str, why: str, now_s: float, *, permanent: bool) -> _Trouble:
    """Return the trouble of now; it began when the first of a row of failures came."""
    since_s = before.since_s if before else now_s
    return _Trouble(code, " ".join(why.split())[:MAX_WHY_CHARS], since_s, permanent)


def _order(item: tuple[Place, _Watched]) -> tuple[str, int]:
    handler, partition = item[0]
    return handler, -1 if partition is None else partition
