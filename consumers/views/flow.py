"""How events flow through the handlers: each over all partitions, how far behind it is, how fast it goes. Pure."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from consumers.views.accounting import UnitAccount, handler_name
from consumers.views.status import Status


class HandlerFlow(Struct, frozen=True):
    """One handler over all partitions; `lag` is None where one of them does not know it."""

    name: str
    kind: str
    partitions: int
    behind_ms: int
    outstanding: int
    at_least: bool
    lag: int | None
    rate: float | None
    committed: int
    dead_letters: int
    skipped: int


def flows_of(status: Status, rates: Mapping[str, float] | None = None) -> list[HandlerFlow]:
    """Return the handlers by name, over partitions.

    Args:
        status: The state of the pipeline.
        rates: Events a second by handler; None where nobody has looked for long enough.
    """
    units: dict[str, list[UnitAccount]] = {}
    for account in status.accounts:
        units.setdefault(handler_name(account.handler, account.version), []).append(account)
    return [_handler(name, units[name], None if rates is None else rates.get(name)) for name in sorted(units)]


def rates_between(before: Status | None, now: Status) -> tuple[dict[str, float] | None, float]:
    """Return events a second by handler between two looks, and the seconds between them; None without a first."""
    seconds = (now.as_of_ms - before.as_of_ms) / 1_000 if before else 0.0
    if before is None or seconds <= 0:
        return None, seconds
    earlier, later = _taken(before), _taken(now)
    return {name: max(0, taken - earlier.get(name, taken)) / seconds for name, taken in later.items()}, seconds


def _handler(name: str, accounts: Sequence[UnitAccount], rate: float | None) -> HandlerFlow:
    lags = [account.lag for account in accounts if account.lag is not None]
    waiting = [account.now_ms - account.committed_to_ms for account in accounts if account.outstanding_entries]
    return HandlerFlow(
        name=name,
        kind=accounts[0].kind,
        partitions=sum(account.declared for account in accounts),
        behind_ms=max(waiting, default=0),
        outstanding=sum(account.outstanding for account in accounts),
        at_least=any(account.outstanding_at_least for account in accounts),
        lag=sum(lags) if len(lags) == len(accounts) else None,
        rate=rate,
        committed=sum(account.committed for account in accounts),
        dead_letters=sum(account.dead_letters for account in accounts),
        skipped=sum(account.skipped for account in accounts),
    )


def _taken(status: Status) -> dict[str, int]:
    """Return the events that each handler has put behind it, over partitions."""
    found: dict[str, int] = {}
    for account in status.accounts:
        name = handler_name(account.handler, account.version)
        found[name] = found.get(name, 0) + account.committed + account.dead + account.skipped + account.known
    return found
