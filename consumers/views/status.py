"""The state of the pipeline: who publishes, who consumes, what lies between, and whether every event is accounted for.

The identities (in events; `docs/wire.md` and ARCHITECTURE.md explain the terms):
- a producer: offered = invalid + shed + buffered + spooled + in flight + unknown + appended;
- a fence: acknowledged <= next <= acknowledged + unknown, and accepted + lost = next;
- a unit: appended + foreign - base = committed + known + dead-lettered + skipped + outstanding.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from consumers.runtime.health import UnitHealth
from consumers.runtime.memory_watch import Level, MemoryReading
from consumers.views.accounting import STOOD_STILL_MS, UnitAccount, read_unit_accounts
from consumers.views.inflight import InFlight, in_flight, oldest_first
from pipeline.connection import AsyncServer, Command, parse_info
from pipeline.keys import Keys
from pipeline.presence import Presence, read_presences

SILENT_MS: Final = 15_000
"""A producer speaks every five seconds at least: after three times that it is gone, or cut off."""


_TROUBLES: Final = msgspec.json.Decoder(tuple[UnitHealth, ...])


class Broken(Struct, frozen=True):
    """An identity that does not hold: where, and the two sides that should be equal."""

    where: str
    what: str


class WorkerPresence(Struct, frozen=True):
    """One worker that is alive, and what of what it holds waits or is stuck: at most 20, those that are stuck first."""

    name: str
    version: str
    handlers: str
    units: int
    events: int
    stale: int
    troubles: tuple[UnitHealth, ...] = ()
    memory_limit: int = 0
    """Bytes that the server may use, as the one that keeps house knows; 0 where it is another, or there is no limit."""
    memory_hours_left: float | None = None
    memory_bytes_per_hour: float | None = None


class ProducerStatus(Struct, frozen=True):
    """One producer's last word, and how old it is.

    `life` is `alive`, `closed` (it said goodbye), `recovered` (it died, and a successor sent what was in its spool) or
    `silent` (it died, or cannot reach Redis): then `at_risk` events, which it had buffered or in flight at its last
    word, may be lost. Its `spooled` ones are not at risk: they wait on its machine's disk.
    """

    presence: Presence
    life: str
    silent_ms: int
    at_risk: int


class Memory(Struct, frozen=True):
    """The server's memory in bytes; `limit` is 0 where there is none.

    `hours_left` at the rate of the last hour, as the worker that keeps house reckons; None where it cannot say.
    `bytes_per_hour` is that rate; None where memory has not been watched for five minutes.
    """

    used: int
    limit: int
    level: Level = "ok"
    hours_left: float | None = None
    bytes_per_hour: float | None = None


class Stalled(Struct, frozen=True):
    """A handler whose cursor has stood still for a day while entries wait: it holds the stream."""

    handler: str
    version: int
    partition: int
    still_ms: int


class Status(Struct, frozen=True):
    """Everything `sidestream status` shows."""

    as_of_ms: int
    partitions: int
    memory: Memory
    producers: Sequence[ProducerStatus]
    in_flight: Sequence[InFlight]
    workers: Sequence[WorkerPresence]
    accounts: Sequence[UnitAccount]
    broken: Sequence[Broken]
    stalled: Sequence[Stalled] = ()


async def read_status(server: AsyncServer, keys: Keys, partitions: int) -> Status:
    """Read the state of the pipeline.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    before = await read_presences(server, keys)
    fences = await _read_fences(server, keys, before)
    unreadable: dict[str, str] = {}
    accounts = await read_unit_accounts(server, keys, partitions, unreadable)
    seconds, microseconds = await server.call("TIME")
    now_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
    producers = [_producer(presence, now_ms) for presence in before]
    broken = [*_broken_producers(producers), *_broken_fences(producers, fences), *_broken_units(accounts)]
    broken += [Broken(where, f"cannot be read: {reason}") for where, reason in unreadable.items()]
    workers = await _workers(server, keys)
    return Status(
        as_of_ms=now_ms,
        partitions=partitions,
        memory=await _memory(server, workers),
        producers=producers,
        in_flight=oldest_first([row for p in producers for row in in_flight(p.presence, p.life, now_ms)]),
        workers=workers,
        accounts=accounts,
        broken=broken,
        stalled=_stalled(accounts),
    )


def _producer(presence: Presence, now_ms: int) -> ProducerStatus:
    silent_ms = max(0, now_ms - presence.at_ms)
    life = "silent" if silent_ms > SILENT_MS else "alive"
    if presence.closed:
        life = "recovered" if presence.recovered else "closed"
    at_risk = 0 if life == "alive" else presence.buffered + presence.in_flight + presence.unknown
    return ProducerStatus(presence, life, silent_ms, at_risk)


def _broken_producers(producers: Sequence[ProducerStatus]) -> list[Broken]:
    return [
        Broken(
            f"producer {producer.presence.producer}",
            f"offered {producer.presence.offered}, accounted for {producer.presence.accounted()}",
        )
        for producer in producers
        if producer.presence.offered != producer.presence.accounted()
    ]


class Fence(Struct, frozen=True):
    """One producer's fence in one partition."""

    next: int
    accepted: int
    lost: int


async def _read_fences(
    server: AsyncServer, keys: Keys, presences: Sequence[Presence]
) -> Mapping[tuple[str, int], Fence]:
    places = [(presence.producer, number) for presence in presences for number in presence.acknowledged]
    commands: list[Command] = [
        ["HMGET", keys.partition(number).fence(producer), "next", "accepted", "lost"] for producer, number in places
    ]
    replies = await server.all(commands)
    return {
        place: Fence(*(int(value or 0) for value in reply))
        for place, reply in zip(places, replies, strict=True)
        if reply[0] is not None
    }


def _broken_fences(producers: Sequence[ProducerStatus], fences: Mapping[tuple[str, int], Fence]) -> list[Broken]:
    found: list[Broken] = []
    for producer in producers:
        for number, known in producer.presence.acknowledged.items():
            fence = fences.get((producer.presence.producer, number))
            if fence is None:
                # A rollback of the server that the producer has yet to meet, or a fence past its TTL.
                continue
            where = f"fence of {producer.presence.producer}, partition {number}"
            if fence.accepted + fence.lost != fence.next:
                found.append(Broken(where, f"accepted {fence.accepted} + lost {fence.lost}, next {fence.next}"))
            if fence.next < known.next:
                found.append(Broken(where, f"acknowledged {known.next}, next {fence.next}: the server lost events"))
            # A living producer may have appended since its last word; a closed one may not.
            if producer.presence.closed and fence.next > known.next + known.unknown:
                found.append(Broken(where, f"acknowledged {known.next}, unknown {known.unknown}, next {fence.next}"))
    return found


def _broken_units(accounts: Sequence[UnitAccount]) -> list[Broken]:
    return [
        Broken(f"{account.handler} v{account.version}, partition {account.partition}", _unbalanced(account))
        for account in accounts
        if not account.outstanding_at_least and account.balance() != 0
    ]


def _unbalanced(account: UnitAccount) -> str:
    more = account.balance()
    return f"{abs(more)} events {'entered and are nowhere' if more > 0 else 'are counted and never entered'}"


def _stalled(accounts: Sequence[UnitAccount]) -> list[Stalled]:
    return [
        Stalled(account.handler, account.version, account.partition, account.stood_still_ms())
        for account in accounts
        if account.kind != "sink" and account.stood_still_ms() >= STOOD_STILL_MS
    ]


async def _memory(server: AsyncServer, workers: Sequence[WorkerPresence]) -> Memory:
    fields = parse_info(await server.call("INFO", "memory"))
    budgets = [worker.memory_limit for worker in workers if worker.memory_limit]
    reading = MemoryReading(
        int(fields.get("used_memory", 0)), int(fields.get("maxmemory", 0)) or max(budgets, default=0)
    )
    hours = [worker.memory_hours_left for worker in workers if worker.memory_hours_left is not None]
    growths = [worker.memory_bytes_per_hour for worker in workers if worker.memory_bytes_per_hour is not None]
    left, growth = min(hours, default=None), max(growths, default=None)
    return Memory(reading.used, reading.limit, reading.level, left, growth)


async def _workers(server: AsyncServer, keys: Keys) -> list[WorkerPresence]:
    names = [name.decode() for name in await server.call("ZRANGE", keys.workers(), 0, -1)]
    replies = await server.all([["HGETALL", keys.worker(name)] for name in names])
    found: list[WorkerPresence] = []
    for name, flat in zip(names, replies, strict=True):
        record = {k.decode(): v.decode() for k, v in zip(flat[::2], flat[1::2], strict=True)}
        if record:
            found.append(
                WorkerPresence(
                    name,
                    record.get("version", ""),
                    record.get("handlers", ""),
                    int(record.get("units", 0)),
                    int(record.get("events", 0)),
                    int(record.get("stale", 0)),
                    _TROUBLES.decode(record.get("troubles", "[]")),
                    int(record.get("memory_limit") or 0),
                    float(hours) if (hours := record.get("memory_hours_left")) else None,
                    float(growth) if (growth := record.get("memory_bytes_per_hour")) else None,
                )
            )
    return sorted(found, key=lambda worker: worker.name)
