"""The fence's answers, through the real publisher: what is acknowledged is there once, and what is lost is counted."""

import logging
import threading
import time
from collections.abc import Generator

import pytest

from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.keys import Keys
from pipeline.presence import Presence, read_losses, read_presences
from pipeline.stream import append_command, parse_appended, parse_entries
from pipeline.wire import FrameDecoder
from producers.buffer import Buffer
from producers.settings import PublishSettings
from producers.shipping import Shipper
from producers.telemetry import Telemetry

SETTINGS = PublishSettings(namespace="test", partitions=1, linger_ms=0, close_timeout_s=5)


@pytest.fixture
def telemetry(redis_url: str) -> Generator[Telemetry]:
    """Return telemetry that publishes to an empty server, into one partition."""
    telemetry = Telemetry(SETTINGS, lambda: redis_url)
    yield telemetry
    telemetry.close()


def report(telemetry: Telemetry, events: int) -> None:
    """Report requests of one session and wait until they are appended."""
    with telemetry.session_context("s"):
        for n in range(events):
            assert telemetry.usage("a", "m", n)
    assert telemetry.flush(5)


async def stored(server: AsyncServer, keys: Keys) -> list[int]:
    """Return the input tokens of every event in the stream, in order."""
    decoder = FrameDecoder()
    found: list[int] = []
    for entry in parse_entries(await server.call("XRANGE", keys.partition(0).stream(), "-", "+")):
        found += [getattr(event, "input_tokens", -1) for event in decoder.decode(entry.parse()).events]
    return found


async def fence(server: AsyncServer, keys: Keys, producer: str) -> dict[bytes, int]:
    """Return a producer's fence."""
    flat = await server.call("HGETALL", keys.partition(0).fence(producer))
    return {k: int(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}


async def last_word(server: AsyncServer, keys: Keys) -> Presence:
    """Return the one presence there is."""
    [presence] = await read_presences(server, keys)
    assert presence.offered == presence.accounted()
    return presence


async def test_everything_arrives_once_and_in_order(telemetry: Telemetry, server: AsyncServer, keys: Keys) -> None:
    """A few thousand events of one session are stored as they came, and the account closes."""
    report(telemetry, 3000)
    assert telemetry.close()
    assert await stored(server, keys) == list(range(3000))
    presence = await last_word(server, keys)
    assert presence.closed == 1
    assert presence.appended == 3000
    assert presence.acknowledged[0].next == 3000
    assert await fence(server, keys, presence.producer) == {b"next": 3000, b"accepted": 3000}


async def test_a_server_that_rolled_back_is_counted(
    telemetry: Telemetry, server: AsyncServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """After FLUSHALL the next frame meets GAP: it goes through, and what was there before is counted as lost."""
    report(telemetry, 700)
    await server.call("FLUSHALL")
    report(telemetry, 40)
    producer = telemetry.producer
    assert telemetry.close()
    assert await stored(server, keys) == list(range(40))
    state = await fence(server, keys, producer)
    assert state == {b"next": 740, b"accepted": 40, b"lost": 700}
    assert state[b"accepted"] + state[b"lost"] == state[b"next"]
    assert await server.call("HGET", keys.partition(0).counters(), "lost") == b"700"
    presence = await last_word(server, keys)
    assert presence.lost == 700
    acknowledged = presence.acknowledged[0]
    assert acknowledged.next <= state[b"next"] <= acknowledged.next + acknowledged.unknown
    hour_s = presence.at_ms // 3_600_000 * 3600
    assert (await read_losses(server, keys, hour_s))["lost"] == 700
    assert [r.levelname for r in caplog.records if "lost events" in r.message] == ["ERROR"]


async def test_a_server_that_forgot_the_script_is_told_it_again(
    telemetry: Telemetry, server: AsyncServer, keys: Keys
) -> None:
    """SCRIPT FLUSH between two frames loses nothing and doubles nothing, however many frames are under way."""
    for _ in range(3):
        report(telemetry, 5)
        await server.call("SCRIPT", "FLUSH")
    report(telemetry, 4000)
    assert telemetry.close()
    found = await stored(server, keys)
    assert found == [*range(5), *range(5), *range(5), *range(4000)]
    assert (await last_word(server, keys)).lost == 0


async def test_frames_that_had_been_appended_before_are_acknowledged(redis_url: str, keys: Keys) -> None:
    """A frame whose answer was lost meets DUP at the next try, and counts as appended, once."""
    telemetry = Telemetry()
    telemetry.hold()
    for n in range(10):
        telemetry.usage("a", "m", n)
    shipper, buffer = shipper_of(telemetry, redis_url)
    now_s = time.monotonic()
    seal(shipper, now_s)
    [sending] = shipper.delivery.to_send()
    other = Server(RedisSettings(redis_url))
    assert parse_appended(other.call(*append_command(keys.partition(0), sending.frame, by_text=True))).answer == "OK"
    shipper.step(now_s, hurry=True)
    counts = buffer.ledger.counts(0)
    assert (counts.appended, counts.in_flight, counts.unknown) == (10, 0, 0)
    assert other.call("HGET", keys.partition(0).counters(), "appended") == b"10"
    other.close()
    shipper.close()
    telemetry.release()


async def test_a_frame_that_overlaps_is_set_aside_and_stays_unknown(
    redis_url: str, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Two producers under one id are told apart by REFUSED: logged once, the frame is unknown, the rest goes on."""
    telemetry = Telemetry()
    telemetry.hold()
    for n in range(10):
        telemetry.usage("a", "m", n)
    shipper, buffer = shipper_of(telemetry, redis_url)
    now_s = time.monotonic()
    seal(shipper, now_s)
    [sending] = shipper.delivery.to_send()
    other = Server(RedisSettings(redis_url))
    other.call("HSET", keys.partition(0).fence(sending.frame.producer), "next", 4)
    with caplog.at_level(logging.ERROR):
        while shipper.delivery.outstanding_frames():
            shipper.step(now_s, hurry=True)
    counts = buffer.ledger.counts(0)
    assert (counts.appended, counts.in_flight, counts.unknown) == (0, 0, 10)
    assert "never be sent" in caplog.text
    other.close()
    shipper.close()
    telemetry.release()


async def test_a_producer_that_was_silent_for_long_takes_a_new_id(
    redis_url: str, server: AsyncServer, keys: Keys
) -> None:
    """Its fence may be forgotten; the old id says goodbye with its own account, the new one begins at sequence 0."""
    telemetry = Telemetry()
    telemetry.hold()
    shipper, _ = shipper_of(telemetry, redis_url)
    now_s = time.monotonic()
    first = shipper.delivery.producer
    for later_s in (0, 5 * 24 * 3600):
        for n in range(10):
            telemetry.usage("a", "m", n)
        shipper.step(now_s + later_s, hurry=True)
        while shipper.delivery.outstanding_frames():
            shipper.step(now_s + later_s, hurry=True)
    shipper.say_last(now_s)
    found = {presence.producer: presence for presence in await read_presences(server, keys)}
    assert found.keys() == {first, shipper.delivery.producer}
    assert [(p.offered, p.accounted(), p.appended, p.closed) for p in found.values()] == [(10, 10, 10, 1)] * 2
    assert await fence(server, keys, shipper.delivery.producer) == {b"next": 10, b"accepted": 10}
    shipper.close()
    telemetry.release()


def shipper_of(telemetry: Telemetry, url: str) -> tuple[Shipper, Buffer]:
    """Return a shipper for what a telemetry holds, without a thread."""
    buffer = telemetry._buffer  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - the thread's place is taken
    return Shipper(SETTINGS, lambda: url, buffer, threading.Condition(), lambda _: ()), buffer


def seal(shipper: Shipper, now_s: float) -> None:
    """Seal what waits, and stop before it is sent."""
    shipper._take_in(1, now_s, "live", hurry=True)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
