"""Up to which instant everything appended has been committed, in the broker's time: no producer's clock can move it."""

from collections.abc import Collection

from msgspec import Struct

from consumers.versions import FIRST_VERSION, Versions
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.scripting import script


class Watermark(Struct, frozen=True):
    """Everything appended before `at_ms` has been committed; `now_ms` is the broker's time of the look."""

    at_ms: int
    now_ms: int


async def read_watermark(
    server: AsyncServer, keys: Keys, partitions: int, handlers: Collection[str], versions: Versions = FIRST_VERSION
) -> Watermark | None:
    """Return the watermark over all partitions and `handlers`; None where a handler has not been declared in one.

    Of a handler every version counts that answers for some day.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    lowest: int | None = None
    now_ms = 0
    for number in range(partitions):
        partition = keys.partition(number)
        units = [partition.unit(name, version) for name in sorted(handlers) for version in versions.read(name)]
        cursors = [unit.cursor() for unit in units]
        now, *oldest = await server.run(script("watermark"), [partition.stream(), *cursors], [])
        if b"" in oldest:
            return None
        now_ms = max(now_ms, int(now))
        lowest = min(int(at) for at in (oldest if lowest is None else [lowest, *oldest]))
    return None if lowest is None else Watermark(lowest, now_ms)
