"""How full the server is: told once, long before it refuses an append, with the time that is left."""

import pytest

from consumers.runtime.memory_watch import Level, MemoryReading, MemoryWatch, Rate

MINUTE_MS = 60_000
LIMIT = 1_000


def news(*used: int, limit: int = LIMIT) -> list[Level | None]:
    """Return what a watch tells at readings of a minute apart."""
    watch = MemoryWatch()
    return [watch.look(at * MINUTE_MS, MemoryReading(bytes_, limit))[1] for at, bytes_ in enumerate(used)]


@pytest.mark.parametrize(
    ("used", "told"),
    [
        ((100, 699, 700, 750), [None, None, "high", None]),
        ((800, 900, 950), ["high", "critical", None]),
        ((950, 960), ["critical", None]),
        ((700, 660, 700, 640, 700), ["high", None, None, "ok", "high"]),
        ((900, 860, 900, 840, 900), ["critical", None, None, None, "critical"]),
        ((900, 100), ["critical", "ok"]),
    ],
)
def test_each_level_is_told_once_until_it_is_well_over(used: tuple[int, ...], told: list[Level | None]) -> None:
    """At 70 and at 90 percent; a server that wavers about one of them is told of once."""
    assert news(*used) == told


def test_without_a_limit_there_is_nothing_to_tell() -> None:
    """A server may use what its machine has."""
    assert news(100, 10**12, limit=0) == [None, None]
    assert MemoryReading(10**12, 0).level == "ok"


def test_the_time_that_is_left_follows_from_the_last_hour() -> None:
    """Unknown before five minutes have passed; afterwards at the present rate."""
    watch = MemoryWatch()
    rates = [watch.look(at * MINUTE_MS, MemoryReading(100 + at, LIMIT))[0] for at in range(130)]
    assert rates[4] == Rate()
    assert rates[5] == Rate(60.0, (LIMIT - 105) / 60)
    assert rates[129] == Rate(60.0, (LIMIT - 229) / 60)


def test_an_hour_that_is_over_counts_no_more() -> None:
    """A server that has stopped growing is not going to be full."""
    watch = MemoryWatch()
    for at in range(30):
        watch.look(at * MINUTE_MS, MemoryReading(100 + 20 * at, LIMIT))
    rates = [watch.look(at * MINUTE_MS, MemoryReading(700, LIMIT))[0] for at in range(30, 95)]
    assert rates[0].hours_left is not None
    assert rates[-1] == Rate(0.0, None)
