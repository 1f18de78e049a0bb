"""A worker that loses its connection at its N-th command, for every N there is: in the end the state is the same."""

import random
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

import pytest
from storms.counting_oracle import CountingVerdict, Found, read_books, read_found
from storms.entries import Entry, Maker
from storms.resp_proxy import Fate, FaultProxy
from support import RealServer, spawned

from consumers.runtime.run import Worker
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.errors import TransientError
from pipeline.keys import Keys
from pipeline.stream import SealedFrame, append_command, parse_appended
from sidestream.compose import fold_effects

PRODUCER: Final = "ab" * 16
SEED: Final = 1447
"""Of entries that hold everything there is: events and entries to be set aside, wrong clocks, a bare XADD."""
MOST: Final = 500
"""Commands after which a run that is not through never will be."""


class CuttingProxy(FaultProxy):
    """Lets every command pass but one.

    Args:
        path: The socket it listens on.
        upstream: The server's socket.
    """

    def __init__(self, path: Path, upstream: Path) -> None:
        super().__init__(path, upstream, seed=1)
        self.seen = 0
        self._at = 0
        self._fate: Fate = "pass"

    def strike(self, at: int, fate: Fate) -> None:
        """Give the N-th command from now on this fate."""
        self.seen, self._at, self._fate = 0, at, fate

    def draw_fate(self, command: bytes) -> Fate:  # noqa: ARG002 - any command will do
        """Count, and strike once."""
        self.seen += 1
        return self._fate if self.seen == self._at else "pass"


class Bench:
    """A server, a proxy before it, and the entries that are counted again and again.

    Args:
        real: The server.
        folder: For the proxy's socket.
    """

    def __init__(self, real: RealServer, folder: Path) -> None:
        self.proxy = CuttingProxy(folder / "proxy", Path(real.url.removeprefix("unix://")))
        self.effects = fold_effects(("metrics", "cost"))
        self._url = real.url
        self._proxy_url = f"unix://{folder / 'proxy'}"
        # Between them they have events that are set aside alone and as a whole, and sums above the limit of a commit.
        maker = Maker(random.Random(SEED), 1)  # noqa: S311 - repeatable on purpose
        self._made = [maker.entry(0) for _ in range(4)] + [maker.rich_entry(0)]
        assert any(entry.events is None for entry in self._made)
        assert any(None in (entry.events or ()) for entry in self._made)

    async def run(self, namespace: str) -> tuple[CountingVerdict, Found]:
        """Append everything to a namespace of its own, let a worker count it, and read what it counted."""
        keys = Keys(namespace)
        beside, server = AsyncServer(RedisSettings(self._url)), AsyncServer(RedisSettings(self._proxy_url))
        try:
            await beside.call("SCRIPT", "FLUSH")
            await beside.call("HSET", keys.meta(), "partitions", 1)
            await _append(beside, keys, self._made)
            await self._work(Worker(server, keys, self.effects))
            verdict = CountingVerdict(self._made, await read_books(beside, keys, 1))
            days = verdict.days(self._made[0].place[0] // 1_000)
            return verdict, await read_found(beside, keys, 1, days)
        finally:
            await beside.call("FLUSHALL")
            await server.aclose()
            await beside.aclose()

    async def _work(self, worker: Worker) -> None:
        """Work until nothing is left, as a worker does that is never told to stop."""
        while True:
            try:
                await worker.run_until_idle()
            except TransientError:
                continue
            return


async def _append(server: AsyncServer, keys: Keys, entries: Sequence[Entry]) -> None:
    following = 0
    for entry in entries:
        if entry.fields:
            entry.entry_id = (await server.call("XADD", keys.partition(0).stream(), "*", *entry.fields)).decode()
            continue
        entry.producer, entry.first_seq = PRODUCER, following
        frame = SealedFrame(0, PRODUCER, following, entry.count, entry.codec, entry.body)
        answer = parse_appended(await server.call(*append_command(keys.partition(0), frame, by_text=True)))
        entry.entry_id, following = answer.entry_id, answer.next_seq


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Generator[Bench]:
    """A server for all of them."""
    with spawned("valkey") as real:
        made = Bench(real, tmp_path_factory.mktemp("every"))
        made.proxy.start()
        yield made
        made.proxy.stop()


@pytest.mark.parametrize("fate", ["cut_before", "drop_reply", "refuse"])
async def test_a_connection_lost_at_any_command_changes_nothing(bench: Bench, fate: Fate) -> None:
    """Before the command, after it, or refused: a worker goes on until all is counted, once."""
    bench.proxy.strike(0, "pass")
    _, undisturbed = await bench.run("undisturbed")
    assert undisturbed.letters
    assert bench.proxy.seen > 10
    for at in range(1, MOST):
        bench.proxy.strike(at, fate)
        verdict, found = await bench.run(f"at-{at}")
        if bench.proxy.seen < at:
            return
        against = [check for check in verdict.checks(found, verdict.model.spans.keys()) if not check.holds]
        assert not against, (at, against)
        assert (found.cells, found.names, found.slow) == (undisturbed.cells, undisturbed.names, undisturbed.slow), at
        assert len(found.letters) == len(undisturbed.letters), at
    pytest.fail("a run needs ever more commands")
