"""Stored states and incidents of alerts: one slot, changed by compare-and-set.

Keeps: a transition is written once, with its incident, whatever workers race. Neither key has a TTL: rows end with
their rules, incidents are bounded by number.
"""

from collections.abc import Sequence
from typing import Final, cast

import msgspec
from msgspec import Struct

from consumers.alerts.evaluate import STATE_VERSION, RuleState, Status, Transition
from consumers.alerts.rules import Severity, Unit, Where
from pipeline.connection import Arg, AsyncServer
from pipeline.errors import PermanentError
from pipeline.keys import Keys
from pipeline.scripting import script

MOST_INCIDENTS: Final = 10_000
"""Beginnings and ends kept, the oldest forgotten first: about 5 MB."""


class Move(Struct, frozen=True):
    """One rule's way from the row it was read from (empty for none) to its next state (None: the row goes)."""

    rule: str
    before: bytes
    after: RuleState | None
    transition: Transition | None


class NewerRowError(PermanentError):
    """A row was written by a later version of this program; it is left alone."""

    code = "newer_row"


class AlertRow(Struct, frozen=True, kw_only=True):
    """Where a rule stands, for people: times in seconds since 1970, value and threshold in `unit`."""

    rule: str
    status: Status
    severity: Severity
    value: int
    threshold: int
    unit: Unit
    window_s: int
    since_s: int
    watermark_s: int
    incident: str
    where: Where | None = None
    """What it looks at; None in a row of before this was stored, as `for_s`."""
    for_s: int | None = None
    detail: str = ""
    """What its value is made of now."""


class Incident(Struct, frozen=True, kw_only=True):
    """The beginning or the end of an incident as stored; `at_ms` is the broker's time of writing."""

    at_ms: int
    transition: Transition


class _Version(Struct):
    v: int = 0


async def read_rows(server: AsyncServer, keys: Keys) -> dict[str, bytes]:
    """Return every rule's row as stored, by rule name: what a later `swap` starts from.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    flat = await server.call("HGETALL", keys.alert_states())
    return {name.decode(): row for name, row in zip(flat[::2], flat[1::2], strict=True)}


def parse_row(row: bytes) -> RuleState | None:
    """Read a row; None where it is none, so that the rule begins anew.

    Raises:
        NewerRowError: Its layout is later than this program's.
    """
    try:
        if msgspec.json.decode(row, type=_Version).v > STATE_VERSION:
            raise NewerRowError("an alert's state was written by a newer worker; upgrade this one")
        return msgspec.json.decode(row, type=RuleState)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def swap(server: AsyncServer, keys: Keys, move: Move) -> bool:
    """Make a move and write down its transition; say whether it happened.

    False means that another worker has moved the rule meanwhile; nothing was written.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    row = b"" if move.after is None else msgspec.json.encode(move.after)
    args: list[Arg] = [move.rule, move.before, row, MOST_INCIDENTS]
    if move.transition is not None:
        for name, value in cast("dict[str, str | int]", msgspec.to_builtins(move.transition)).items():
            args += (name, value)
    answer = await server.run(script("alert"), [keys.alert_states(), keys.alert_incidents()], args)
    return answer == b"OK"


async def read_alerts(server: AsyncServer, keys: Keys) -> list[AlertRow]:
    """Return where every rule stands that was ever evaluated and not removed, by name.

    Raises:
        NewerRowError: See `parse_row`.
        SidestreamError: See `AsyncServer.call`.
    """
    rows = sorted((await read_rows(server, keys)).items())
    states = [(name, parse_row(row)) for name, row in rows]
    return [_alert_row(name, state) for name, state in states if state is not None]


async def read_incidents(server: AsyncServer, keys: Keys, most: int = 100) -> list[Incident]:
    """Return up to `most` beginnings and ends of incidents, newest first.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    rows = await server.call("XREVRANGE", keys.alert_incidents(), "+", "-", "COUNT", most)
    return [_incident(entry_id, flat) for entry_id, flat in rows]


def _alert_row(name: str, state: RuleState) -> AlertRow:
    return AlertRow(
        rule=name,
        status=state.status,
        severity=state.severity,
        value=state.value,
        threshold=state.threshold,
        unit=state.unit,
        window_s=state.window_s,
        since_s=state.since_s,
        watermark_s=state.watermark_s,
        incident=state.incident,
        where=state.where,
        for_s=state.for_s,
        detail=state.detail,
    )


def _incident(entry_id: bytes, flat: Sequence[bytes]) -> Incident:
    fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
    transition = msgspec.convert(fields, Transition, strict=False)
    return Incident(at_ms=int(entry_id.partition(b"-")[0]), transition=transition)
