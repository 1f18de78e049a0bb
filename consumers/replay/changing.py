"""Swap a replay in, and roll it back: one write of the document, behind a look at what it would change to.

Keeps: nobody swaps to, or back to, what stands still: its figures would be of an earlier hour.
"""

from typing import Final

from consumers.register import change_versions, read_versions
from consumers.replay.progress import read_progress
from consumers.versions import Replay, Versions, VersionsError
from consumers.views.accounting import read_unit_account
from pipeline.connection import AsyncServer, Command
from pipeline.keys import Keys

MOST_BEHIND_MS: Final = 10_000


async def swap(server: AsyncServer, keys: Keys, partitions: int, number: int, *, anyway: bool = False) -> Versions:
    """Let a replay answer for its handlers and days; return the document that says so.

    Args:
        server: Where the namespace is.
        keys: The namespace's.
        partitions: How many it has.
        number: The replay's.
        anyway: Also where it is behind, or lacks events.

    Raises:
        VersionsError: It has not caught up, stands still, lacks events, or answers already.
        SidestreamError: See `AsyncServer.call`; whether it happened, the document says.
    """
    replay = (await read_versions(server, keys)).replay(number)
    if not anyway and replay.progress == "ready":
        await _check(server, keys, partitions, replay)
    if replay.progress == "ready":
        # From before it answers, trimming holds the stream for it whatever happens.
        await _declare_as(server, keys, partitions, replay, "fold")
    return await change_versions(server, keys, lambda versions: versions.swap(number))


async def rollback(server: AsyncServer, keys: Keys, partitions: int, *, anyway: bool = False) -> tuple[Versions, int]:
    """Take back the latest swap; return the document that says so, and whose swap it was.

    Raises:
        VersionsError: Nothing was swapped in, or what would answer stands still.
        SidestreamError: See `AsyncServer.call`; whether it happened, the document says.
    """
    versions = await read_versions(server, keys)
    back, number = versions.rollback()
    replay = versions.replay(number)
    if not anyway:
        for handler in replay.handlers:
            for version in back.read(handler):
                await check_follows(server, keys, partitions, handler, version)
    changed = await change_versions(server, keys, lambda found: found.rolled_back(number))
    await _declare_as(server, keys, partitions, replay, "replay")
    return changed, number


async def _check(server: AsyncServer, keys: Keys, partitions: int, replay: Replay) -> None:
    progress = await read_progress(server, keys, partitions, replay)
    if progress.passed:
        raise VersionsError(f"version {replay.number} lacks {progress.passed:,} events that Redis had to let go")
    if progress.lacks:
        raise VersionsError(
            f"version {replay.number} lacks {progress.lacks:,} events, which were trimmed and are in no archive, or "
            "in a damaged part of it (`sidestream replay plan`, `archive verify`); --anyway swaps it in all the same"
        )
    for handler in replay.handlers:
        await check_follows(server, keys, partitions, handler, replay.number)


async def check_follows(server: AsyncServer, keys: Keys, partitions: int, handler: str, version: int) -> None:
    """See that a version of a handler keeps up with the stream.

    Raises:
        VersionsError: It is behind, or has not been declared everywhere.
        SidestreamError: See `AsyncServer.call`.
    """
    accounts = [
        await read_unit_account(server, keys.partition(number), handler, version=version)
        for number in range(partitions)
    ]
    behind_ms = max(account.now_ms - account.committed_to_ms for account in accounts)
    if behind_ms > MOST_BEHIND_MS or not all(account.declared for account in accounts):
        raise VersionsError(
            f"version {version} of {handler} is {behind_ms / 1_000:,.0f} s behind: its figures are of then. Is there a "
            "worker that has its recipe? `sidestream replay run --follow` carries it; --anyway does it all the same"
        )


async def _declare_as(server: AsyncServer, keys: Keys, partitions: int, replay: Replay, kind: str) -> None:
    commands: list[Command] = [
        ["HSET", partition.handlers(), partition.unit(handler, replay.number).name, kind]
        for partition in map(keys.partition, range(partitions))
        for handler in replay.handlers
    ]
    await server.all(commands)
