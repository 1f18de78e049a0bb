"""Alert rules: what a rule says, and the `[[alert]]` tables it is read from.

Keeps:
- A rule that cannot be evaluated as it is written is refused where it is read, by its place in the file.
- A window consists of whole windows of the state, so its sum is exact.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Struct

from consumers.state import CELL_DIMENSIONS, Cell
from consumers.windows import DAY_S, HOUR_S, MINUTE_S, TEN_SECONDS
from pipeline.errors import SettingsError
from pipeline.units import US_PER_S, parse_duration_s, seconds_to_us

Kind: TypeAlias = Literal["tokens", "slow_operation"]
Unit: TypeAlias = Literal["tokens", "us"]
Severity: TypeAlias = Literal["info", "warning", "critical"]

LONGEST_WINDOW_S: Final = 30 * DAY_S
"""Hours are kept 90 days; a window must not outlive them while a worker is behind."""

_Word = TypeVar("_Word", bound=str)
_SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}")
_KEYS: Final = ("name", "kind", "threshold", "window", "for", "severity", "summary", "where")


class Where(Struct, frozen=True, omit_defaults=True):
    """What a rule looks at; an empty dimension matches everything."""

    service: str = ""
    environment: str = ""
    tenant: str = ""
    agent: str = ""
    model: str = ""
    state: str = ""

    def matches(self, cell: Cell) -> bool:
        """Say whether a cell is looked at."""
        return all(cell[place] == value for place, value in self._wanted())

    def _wanted(self) -> list[tuple[int, str]]:
        pairs = ((CELL_DIMENSIONS.index(name), cast("str", getattr(self, name))) for name in _DIMENSIONS)
        return [(place, value) for place, value in pairs if value]


_DIMENSIONS: Final = Where.__struct_fields__


@dataclass(frozen=True, slots=True)
class KindFacts:
    """What one kind of rule needs: the unit of its threshold, the handlers it reads, what it can be narrowed by."""

    unit: Unit
    handlers: tuple[str, ...]
    dimensions: tuple[str, ...]
    threshold: Callable[[object], int]


def _tokens(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{value!r} is no number of tokens: write a whole number, 0 or more")


def _duration_us(value: object) -> int:
    if isinstance(value, str):
        return parse_duration_s(value) * US_PER_S
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_WINDOW_S:
        return seconds_to_us(value)
    raise ValueError(f"{value!r} is no duration: write seconds as a number, or a text such as 30s or 2m")


KINDS: Final[Mapping[Kind, KindFacts]] = {
    "tokens": KindFacts("tokens", ("metrics",), _DIMENSIONS, _tokens),
    # The list of slowest operations names agent, session and status; no other dimension can be told from it.
    "slow_operation": KindFacts("us", ("metrics",), ("agent",), _duration_us),
}
"""The kinds there are. Another one is an entry here and a branch in `consumers.alerts.facts`."""


class Rule(Struct, frozen=True, kw_only=True):
    """Fires while its value over the last `window_s` is above `threshold`, and has been for `for_s`.

    `threshold` is in tokens or in microseconds, as `unit` says. `summary` tells the person who is woken what to do.
    """

    name: str
    kind: Kind
    threshold: int
    window_s: int = 5 * MINUTE_S
    for_s: int = 0
    severity: Severity = "warning"
    summary: str = ""
    where: Where = Where()

    @property
    def unit(self) -> Unit:
        """The unit of its threshold and values."""
        return KINDS[self.kind].unit

    @property
    def handlers(self) -> tuple[str, ...]:
        """The handlers whose committed windows it reads."""
        return KINDS[self.kind].handlers

    @property
    def step_s(self) -> int:
        """Seconds by which its window moves on."""
        return step_of(self.window_s)

    def end_s(self, watermark_s: int) -> int:
        """Return the end of the last window that is full at a watermark (both seconds since 1970)."""
        return watermark_s - watermark_s % self.step_s

    def hash(self) -> str:
        """Return 16 hex digits that name what it measures; severity and summary are words about it."""
        meaning = (self.kind, self.threshold, self.window_s, self.for_s, self.where)
        return hashlib.sha256(msgspec.json.encode(meaning, order="sorted")).hexdigest()[:16]


DEFAULT_RULES: Final = (
    Rule(
        name="high-token-usage",
        kind="tokens",
        threshold=10_000,
        summary="More than 10,000 tokens in 5 minutes: check for runaway agents.",
    ),
    Rule(
        name="slow-operation",
        kind="slow_operation",
        threshold=30 * US_PER_S,
        summary="An operation took longer than 30 seconds: investigate what it waited for.",
    ),
)
"""The guide's rules, in force where the file has no `[[alert]]`."""


def step_of(window_s: int) -> int:
    """Return what a window must be a multiple of, and moves on by: 10 s up to an hour, 1 m up to a day, then 1 h.

    Finer windows of the state might expire before a worker that is behind has looked at them.
    """
    if window_s <= HOUR_S:
        return TEN_SECONDS.width_s
    return MINUTE_S if window_s <= DAY_S else HOUR_S


def parse_rules(table: object) -> tuple[Rule, ...]:
    """Read the `[[alert]]` tables of a settings file, as TOML gives them.

    Raises:
        SettingsError: A rule is wrong; the message says `[[alert]] <number from 1> '<name>': <key>: <what>`.
    """
    if not isinstance(table, list):
        raise SettingsError("alert: write each rule as a table of its own under [[alert]]")
    rules: list[Rule] = []
    for number, row in enumerate(cast("list[object]", table), start=1):
        rule = _Row(number, row).rule()
        if any(rule.name == other.name for other in rules):
            raise SettingsError(f"[[alert]] {number} {rule.name!r}: name: another rule has it already")
        rules.append(rule)
    return tuple(rules)


class _Row:
    """One `[[alert]]` table; knows its place for the messages."""

    def __init__(self, number: int, row: object) -> None:
        self._place = f"[[alert]] {number}"
        if not isinstance(row, dict):
            raise SettingsError(f"{self._place}: write a table, not {row!r}")
        self._row = cast("dict[str, object]", row)
        if isinstance(self._row.get("name"), str):
            self._place += f" {self._row['name']!r}"

    def rule(self) -> Rule:
        """Read the table.

        Raises:
            SettingsError: See `parse_rules`.
        """
        self._refuse_unknown(self._row, _KEYS, "")
        name = self._text("name")
        if not _NAME.fullmatch(name):
            raise self._wrong("name", "use 1-100 letters, digits, spaces, '_', '.', '-', first a letter or digit")
        kind: Kind = self._one_of("kind", tuple(KINDS), None)
        return Rule(
            name=name,
            kind=kind,
            threshold=self._read("threshold", KINDS[kind].threshold, None),
            window_s=self._read("window", _window_s, "5m"),
            for_s=self._read("for", _duration_s, "0s"),
            severity=self._one_of("severity", _SEVERITIES, "warning"),
            summary=self._text("summary", ""),
            where=self._where(kind),
        )

    def _where(self, kind: Kind) -> Where:
        where = self._row.get("where", {})
        if not isinstance(where, dict):
            raise self._wrong("where", 'write a table, such as { agent = "Writer" }')
        filters = cast("dict[str, object]", where)
        self._refuse_unknown(filters, KINDS[kind].dimensions, "where.", f" of a rule of kind {kind}")
        for name, value in filters.items():
            if not isinstance(value, str) or not value:
                raise self._wrong(f"where.{name}", f"{value!r} is no name")
        return msgspec.convert(filters, Where)

    def _read(self, key: str, parse: Callable[[object], int], missing: str | None) -> int:
        try:
            return parse(self._value(key, missing))
        except ValueError as error:
            raise self._wrong(key, str(error)) from error

    def _text(self, key: str, missing: str | None = None) -> str:
        value = self._value(key, missing)
        if not isinstance(value, str):
            raise self._wrong(key, f"{value!r} is no text")
        return value

    def _one_of(self, key: str, words: tuple[_Word, ...], missing: _Word | None) -> _Word:
        value = self._value(key, missing)
        for word in words:
            if value == word:
                return word
        raise self._wrong(key, f"unknown {key} {value!r}: use one of {', '.join(words)}")

    def _value(self, key: str, missing: str | None) -> object:
        value = self._row.get(key, missing)
        if value is None:
            raise self._wrong(key, "it is missing")
        return value

    def _refuse_unknown(self, row: Mapping[str, object], known: tuple[str, ...], prefix: str, of: str = "") -> None:
        for key in row:
            if key not in known:
                raise self._wrong(f"{prefix}{key}", f"unknown key{of}: use {', '.join(known)}")

    def _wrong(self, key: str, what: str) -> SettingsError:
        return SettingsError(f"{self._place}: {key}: {what}")


def _duration_s(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no duration: write a text such as 10s, 5m or 24h")  # noqa: TRY004 - one error
    return parse_duration_s(value)


def _window_s(value: object) -> int:
    window_s = _duration_s(value)
    if not 0 < window_s <= LONGEST_WINDOW_S:
        raise ValueError(f"{value!r} is out of its limits: use 10s to 30d")
    if window_s % step_of(window_s):
        raise ValueError(
            f"{value!r} is not made of whole windows: use a multiple of 10s up to 1h, of 1m up to 1d, of 1h above"
        )
    return window_s
