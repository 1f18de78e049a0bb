"""`sidestream status`: who publishes, who consumes, what lies between, and whether every event is accounted for."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.alerts.store import AlertRow, read_alerts
from consumers.views.accounting import UnitAccount, handler_name
from consumers.views.inflight import InFlight
from consumers.views.status import Memory, ProducerStatus, Stalled, Status, WorkerPresence, read_status
from pipeline.presence import Presence
from pipeline.units import US_PER_MS
from sidestream.cli.alerts import rules_table
from sidestream.cli.human import counted, duration, harmless, percent
from sidestream.cli.session import (
    EXIT_FINDING,
    AsJson,
    Namespace,
    Place,
    RedisUrl,
    Session,
    console,
    open_session,
    print_json,
    run_async,
)

SCHEMA = "sidestream.status/1"

OPEN_SHOWN = 20
"""Operations that are shown; `--json` has all that producers tell."""

WIDE = 100
"""Columns from which on there is room for cursors and ids."""


def status(*, as_json: AsJson = False, namespace: Namespace = None, redis_url: RedisUrl = None) -> None:
    """Show producers, workers, handlers and their lag, and check that every event is accounted for.

    Exit code 1 when an identity is broken: an event vanished, or was counted twice.
    """

    async def command() -> int:
        async with open_session(Place(namespace, redis_url)) as session:
            found = await read_status(session.server, session.keys, session.partitions)
            alerts = await read_alerts(session.server, session.keys)
            if as_json:
                print_json(_json(found, alerts))
            else:
                _print(console(), session, found, alerts)
        return EXIT_FINDING if found.broken else 0

    run_async(command)


def _json(found: Status, alerts: list[AlertRow]) -> bytes:
    return msgspec.json.encode({"schema": SCHEMA, **msgspec.structs.asdict(found), "alerts": alerts})


def _print(out: Console, session: Session, found: Status, alerts: list[AlertRow]) -> None:
    limit = f" of {_size(found.memory.limit)}" if found.memory.limit else ""
    facts = session.facts
    out.print(
        f"{facts.product} {facts.version} at {session.shown_url}, namespace {session.keys.namespace}, "
        f"{found.partitions} partitions, {_size(found.memory.used)}{limit} in use",
        markup=False,
    )
    for line in _memory(found.memory):
        out.print(line, style="red" if found.memory.level == "critical" else "yellow")
    if not facts.aof:
        out.print("Its AOF is off: what was appended is lost when the server crashes.", style="yellow")
    _section(out, "Producers", _producers(found.producers), "None yet: an application publishes after configure().")
    for line in _captures(found.producers):
        out.print(line, style="yellow", markup=False)
    _section(out, "Open for long", _open_for_long(found.in_flight, wide=out.width >= WIDE), "")
    if any(row.state == "unknown" for row in found.in_flight):
        out.print("Last seen: it died with its producer, or that one is cut off from Redis.", style="dim")
    _section(out, "Workers", _workers(found.workers), "None is alive: start one with `sidestream worker`.")
    for name, trouble in [(worker.name, trouble) for worker in found.workers for trouble in worker.troubles]:
        style = "red" if trouble.state == "stuck" else "yellow"
        out.print(f"{harmless(name)}: {harmless(trouble.sentence)}", style=style, markup=False)
    _section(
        out,
        "Handlers",
        _handlers(found.accounts, wide=out.width >= WIDE),
        "None is declared yet: a worker declares them.",
    )
    for stalled in found.stalled:
        out.print(_standing(stalled), style="red", markup=False)
    _section(out, "Alerts", rules_table(alerts), "")
    out.print()
    if found.broken:
        for broken in found.broken:
            out.print(f"Broken: {broken.where}: {broken.what}", style="bold red", markup=False)
    else:
        out.print(_verdict(found), style="green")


def _memory(memory: Memory) -> list[str]:
    """Say how full the server is, where that is worth a word."""
    if memory.level == "ok":
        return []
    left = f", and full in {memory.hours_left:.1f} h at the present rate" if memory.hours_left is not None else ""
    early = ": entries that all handlers have taken go early" if memory.level == "critical" else ""
    return [f"Its memory is {percent(memory.used / memory.limit)} full{left}{early}."]


def _standing(stalled: Stalled) -> str:
    unit = f"{stalled.handler} v{stalled.version}, partition {stalled.partition}"
    still = duration(stalled.still_ms * US_PER_MS)
    return (
        f"{unit}: has stood still for {still} while entries wait, and holds the stream. Run it, or "
        f"`sidestream handler retire {stalled.handler} --version {stalled.version}`."
    )


def _section(out: Console, title: str, table: Table, empty: str) -> None:
    if table.row_count:
        out.print()
        out.print(title, style="bold")
        out.print(table)
    elif empty:
        out.print(f"\n[bold]{title}[/]  {empty}")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, show_edge=False)
    for name in columns:
        is_number = name.startswith("#")
        table.add_column(name.removeprefix("#"), justify="right" if is_number else "left", overflow="fold")
    return table


def _producers(producers: Sequence[ProducerStatus]) -> Table:
    """Return one row for each producer that lives or died, and one a service for those that said goodbye."""
    table = _table("SERVICE", "INSTANCE", "LIFE", "#OFFERED", "#APPENDED", "#WAITING", "#SHED", "#INVALID", "#LOST")
    closed: dict[str, list[Presence]] = {}
    for producer in producers:
        if producer.life == "closed" and not producer.at_risk:
            closed.setdefault(_service(producer.presence), []).append(producer.presence)
            continue
        life = producer.life
        if life == "silent":
            life = f"silent for {producer.silent_ms // 1000} s, {producer.at_risk} at risk"
        style = "red" if producer.at_risk else ""
        _add_producers(
            table, (_service(producer.presence), producer.presence.instance, life), [producer.presence], style
        )
    for service, presences in closed.items():
        _add_producers(table, (service, counted(len(presences), "process", "processes"), "closed"), presences, "dim")
    return table


def _captures(producers: Sequence[ProducerStatus]) -> list[str]:
    """Say what producers that are alive do not see of the libraries they observe, once for all that say the same."""
    lines: set[str] = set()
    for producer in producers:
        for capture in producer.presence.captures if producer.life == "alive" else ():
            what = f"{_service(producer.presence)}: {capture.library} {capture.version}"
            if capture.unseen:
                lines.add(f"{what} is not observed completely: not {', '.join(capture.unseen)}.")
            if capture.faults:
                lines.add(f"{what}: observing it failed {counted(capture.faults, 'time', 'times')}; see its log.")
    return sorted(lines)


def _service(presence: Presence) -> str:
    return f"{presence.service or '-'} {presence.version}".rstrip()


def _add_producers(table: Table, about: tuple[str, str, str], presences: Sequence[Presence], style: str) -> None:
    service, instance, life = about
    numbers = (
        sum(last.offered for last in presences),
        sum(last.appended for last in presences),
        sum(last.buffered + last.spooled + last.in_flight + last.unknown for last in presences),
        sum(last.shed for last in presences),
        sum(last.invalid for last in presences),
        sum(last.lost for last in presences),
    )
    shown_numbers = [f"{number:,}" for number in numbers]
    table.add_row(Text(harmless(service)), Text(harmless(instance)), life, *shown_numbers, style=style)


def _open_for_long(rows: Sequence[InFlight], *, wide: bool) -> Table:
    """Return one row for each operation that has begun and of whose end nobody has heard."""
    table = _table("#OPEN FOR", "WHAT", "AGENT", "SERVICE", *(["SESSION", "OPERATION"] if wide else []), "STATE")
    for row in rows[:OPEN_SHOWN]:
        operation = row.operation
        what = f"{operation.kind} {operation.model or operation.name}".strip()
        ids = (operation.session, operation.operation_id) if wide else ()
        is_open = row.state == "open"
        table.add_row(
            duration(row.open_ms * US_PER_MS),
            *(Text(harmless(text)) for text in (what, operation.agent, row.service, *ids)),
            row.state if is_open else f"last seen {duration(row.seen_ms * US_PER_MS)} ago",
            style="" if is_open else "dim",
        )
    if len(rows) > OPEN_SHOWN:
        table.add_row("", f"and {len(rows) - OPEN_SHOWN:,} more", style="dim")
    return table


def _workers(workers: Sequence[WorkerPresence]) -> Table:
    table = _table("NAME", "VERSION", "HANDLERS", "#UNITS", "#EVENTS")
    for worker in workers:
        table.add_row(Text(worker.name), worker.version, worker.handlers, str(worker.units), f"{worker.events:,}")
    return table


def _handlers(accounts: Sequence[UnitAccount], *, wide: bool) -> Table:
    cursor = ["CURSOR"] if wide else []
    table = _table(
        "HANDLER", "#PARTITION", *cursor, "#COMMITTED", "#DEAD", "#SKIPPED", "#FOREIGN", "#UNREAD", "#LAG", "BALANCE"
    )
    for account in sorted(accounts, key=lambda row: (row.version, row.handler, row.partition)):
        name = handler_name(account.handler, account.version)
        place = account.cursor_id + (f" event {account.cursor_index}" if account.cursor_index else "")
        balance = "-" if account.outstanding_at_least else "ok" if account.balance() == 0 else "BROKEN"
        table.add_row(
            name,
            str(account.partition),
            *([place] if wide else []),
            f"{account.committed:,}",
            f"{account.dead:,}",
            f"{account.skipped:,}",
            f"{account.foreign + account.outstanding_foreign:,}",
            f"{account.outstanding:,}{'+' if account.outstanding_at_least else ''}",
            "unknown" if account.lag is None else f"{account.lag:,}",
            balance,
            style="bold red" if balance == "BROKEN" else "",
        )
    return table


def _verdict(found: Status) -> str:
    """Say that all is accounted for, and what of it did not become a figure."""
    dead = max(
        (sum(a.dead for a in found.accounts if a.handler == name) for name in {a.handler for a in found.accounts}),
        default=0,
    )
    asides = [
        (dead, "dead-lettered"),
        (sum(account.skipped for account in found.accounts), "skipped by sinks too far behind"),
        (sum(producer.presence.shed for producer in found.producers), "shed"),
        (sum(producer.presence.invalid for producer in found.producers), "refused as invalid"),
        (sum(producer.at_risk for producer in found.producers), "at risk with producers that are gone"),
    ]
    said = [f"{number:,} {what}" for number, what in asides if number]
    return "Every event is accounted for" + (f": {', '.join(said)}." if said else ".")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
