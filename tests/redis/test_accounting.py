"""Accounts of units on a real server: every event has a place, and what is outstanding is counted, not reckoned."""

import time
from collections.abc import Sequence

import msgspec
import pytest
from support import Appender

from consumers.contract import Slice
from consumers.folding import Folded
from consumers.handlers.metrics import MetricsHandler
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.runtime.unit import Unit, UnitOptions
from consumers.views import accounting
from consumers.views.accounting import UnitAccount, read_unit_account, read_unit_accounts
from pipeline.connection import AsyncServer
from pipeline.events import UsageEvent
from pipeline.keys import Keys

NOW_US = time.time_ns() // 1_000


def usages(count: int) -> list[UsageEvent]:
    """Return requests of different agents, so that a budget cuts between them."""
    return [UsageEvent(NOW_US, agent=f"agent-{n}", model="gpt-4o", duration_us=1_000) for n in range(count)]


async def add_foreign(server: AsyncServer, keys: Keys, events: int) -> None:
    """Append a frame by a bare XADD, as somebody else's tool would."""
    body = msgspec.json.encode({"events": usages(events)})
    await server.call("XADD", keys.partition(0).stream(), "*", "n", events, "c", "json", "b", body)


async def account_of(server: AsyncServer, keys: Keys) -> UnitAccount:
    """Return the account of metrics in partition 0."""
    return await read_unit_account(server, keys.partition(0), "metrics")


async def test_unread_events_are_outstanding_then_committed(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Fenced and foreign ones, with the lag that the group shows."""
    worker = Worker(server, keys, [FoldEffect(MetricsHandler())])
    await worker.run_until_idle()
    await append(usages(7))
    await add_foreign(server, keys, 3)
    before = await account_of(server, keys)
    assert (before.outstanding, before.outstanding_foreign, before.outstanding_entries, before.lag) == (10, 3, 2, 2)
    assert before.balance() == 0
    await worker.run_until_idle()
    after = await account_of(server, keys)
    assert (after.committed, after.foreign, after.outstanding, after.lag) == (10, 3, 0, 0)
    assert after.balance() == 0
    assert after.committed_to_ms == after.now_ms


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_cursor_inside_an_entry_has_taken_a_part_of_it(
    server: AsyncServer, keys: Keys, append: Appender, *, foreign: bool
) -> None:
    """Only the events behind it are outstanding, and the entry still holds the watermark back."""

    class Frugal(MetricsHandler):
        """Takes about two events a commit."""

        def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
            return super().fold(slices, min(budget, 40))

    await (add_foreign(server, keys, 10) if foreign else append(usages(10)))
    unit = Unit(server, keys.partition(0), FoldEffect(Frugal()), UnitOptions())
    moved = await unit.step()
    account = await account_of(server, keys)
    assert 0 < moved < 10
    assert (account.cursor_index, account.committed, account.outstanding) == (moved, moved, 10 - moved)
    assert account.balance() == 0
    assert account.committed_to_ms == int(account.cursor_id.partition("-")[0])


async def test_an_event_without_a_place_breaks_the_balance(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The identity is no tautology: an entry that vanishes unread is missed, a commit made up is noticed."""
    await Worker(server, keys, [FoldEffect(MetricsHandler())]).run_until_idle()
    entry_id = await append(usages(4))
    await server.call("XDEL", keys.partition(0).stream(), entry_id)
    assert (await account_of(server, keys)).balance() == 4
    cursor = keys.partition(0).unit("metrics").cursor()
    await server.call("HINCRBY", cursor, "committed", 9)
    assert (await account_of(server, keys)).balance() == -5
    await server.call("FLUSHALL")


async def test_a_long_backlog_is_counted_up_to_a_bound(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the account says "at least", whether entries or their bytes are too many."""
    for _ in range(40):
        await append(usages(2))
    assert (await account_of(server, keys)).outstanding == 80
    monkeypatch.setattr(accounting, "MOST_ENTRIES", 20)
    account = await account_of(server, keys)
    assert (account.outstanding, account.outstanding_at_least) == (40, True)
    monkeypatch.setattr(accounting, "MOST_BYTES", 1)
    account = await account_of(server, keys)
    assert (account.outstanding, account.outstanding_at_least) == (2, True)


async def test_a_unit_that_was_never_declared_has_everything_before_it(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """It is not among the declared ones, and its own account says that it has no cursor."""
    await append(usages(5))
    assert await read_unit_accounts(server, keys, 4) == []
    account = await account_of(server, keys)
    assert not account.declared
    assert (account.outstanding, account.lag) == (5, None)
