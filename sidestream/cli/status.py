"""`sidestream status`: who publishes, who consumes, what lies between, and whether every event is accounted for."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.alerts.store import AlertRow, read_alerts
from consumers.views.accounting import UnitAccount
from consumers.views.status import ProducerStatus, Status, WorkerPresence, read_status
from pipeline.keys import LIVE_VERSION
from sidestream.cli.alerts import rules_table
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
    if not facts.aof:
        out.print("Its AOF is off: what was appended is lost when the server crashes.", style="yellow")
    _section(out, "Producers", _producers(found.producers), "None yet: an application publishes after configure().")
    _section(out, "Workers", _workers(found.workers), "None is alive: start one with `sidestream worker`.")
    _section(out, "Handlers", _handlers(found.accounts), "None is declared yet: a worker declares them.")
    _section(out, "Alerts", rules_table(alerts), "")
    out.print()
    if found.broken:
        for broken in found.broken:
            out.print(f"Broken: {broken.where}: {broken.what}", style="bold red", markup=False)
    else:
        out.print("Every event is accounted for.", style="green")


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
    table = _table("SERVICE", "INSTANCE", "LIFE", "#OFFERED", "#APPENDED", "#WAITING", "#SHED", "#INVALID", "#LOST")
    for producer in producers:
        last = producer.presence
        life = producer.life
        if life == "silent":
            life = f"silent for {producer.silent_ms // 1000} s, {producer.at_risk} at risk"
        elif life == "recovered":
            life = f"died, {last.recovered} recovered, {producer.at_risk} at risk"
        if last.spooled and producer.life != "alive":
            life += f", {last.spooled} in its spool on {last.host or 'its machine'}"
        waiting = last.buffered + last.spooled + last.in_flight + last.unknown
        numbers = (last.offered, last.appended, waiting, last.shed, last.invalid, last.lost)
        table.add_row(
            Text(f"{last.service or '-'} {last.version}"),
            Text(last.instance),
            life,
            *(f"{number:,}" for number in numbers),
            style="red" if producer.at_risk else "dim" if life == "closed" else "",
        )
    return table


def _workers(workers: Sequence[WorkerPresence]) -> Table:
    table = _table("NAME", "VERSION", "HANDLERS", "#UNITS", "#EVENTS")
    for worker in workers:
        table.add_row(Text(worker.name), worker.version, worker.handlers, str(worker.units), f"{worker.events:,}")
    return table


def _handlers(accounts: Sequence[UnitAccount]) -> Table:
    table = _table(
        "HANDLER", "#PARTITION", "CURSOR", "#COMMITTED", "#DEAD", "#SKIPPED", "#OUTSTANDING", "#LAG", "BALANCE"
    )
    for account in sorted(accounts, key=lambda row: (row.version, row.handler, row.partition)):
        name = account.handler if account.version == LIVE_VERSION else f"{account.handler} (replay)"
        outstanding = f"{account.outstanding:,}{'+' if account.outstanding_at_least else ''}"
        balance = "-" if account.outstanding_at_least else "ok" if account.balance() == 0 else "BROKEN"
        table.add_row(
            name,
            str(account.partition),
            account.cursor_id + (f" event {account.cursor_index}" if account.cursor_index else ""),
            f"{account.committed:,}",
            f"{account.dead:,}",
            f"{account.skipped:,}",
            outstanding,
            "unknown" if account.lag is None else f"{account.lag:,}",
            balance,
            style="bold red" if balance == "BROKEN" else "",
        )
    return table


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
