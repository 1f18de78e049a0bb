"""What a reader of `sidestream status` sees: the verdict first, then what asks for somebody; 60, 80 and 120 columns."""

import re

import msgspec
import pytest
from pipeline_states import HOSTILE, NOW_MS, behind, hanging, lines_of, look, producer, rule, unit, units, worker

from consumers.runtime.health import UnitHealth
from consumers.views.status import Broken, Memory, Stalled
from pipeline.presence import Capture
from sidestream.cli.look.status_text import Look

DAY_MS = 24 * 3_600_000
WIDTHS = (60, 80, 120)

WELL = """\
Sidestream status  2026-11-27 20:34:34 UTC, demo
ok: every event is accounted for
! high-token-usage fires.
! 1 request is open for 10.0 s.

Redis  valkey 9.1.2 at redis://127.0.0.1:7399/0; 7.1 MiB of 256.0 MiB (2.8 %);
AOF on

Producers  1 alive
  SERVICE         INSTANCE  LIFE   OFFERED  WAITING  SHED  INVALID  LOST
  deckster 1.5.0  vm:6754   alive       79        0     0        0     0

Workers  1 alive
  WORKER          VERSION  EVENTS  HANDLERS
  vm:6761:6d796b  0.1.0       102  metrics,cost,alerts

Handlers  in 4 partitions each; --partitions lists them
  HANDLER  COUNTED  OUTSTANDING  LAG  DEAD  SKIPPED  BALANCE
  cost      10,232            0    0     0        0  ok
  metrics   10,232            0    0     0        0  ok

Open for long
  WHAT            AGENT        SESSION     OPEN FOR  IS
  request gpt-4o  illustrator  deck-hangs    10.0 s  open

Alerts  1 of 3 fires
  RULE              IS        VALUE     THRESHOLD   IN  SINCE     SEVERITY
  high-token-usage  firing     139k  40.0k tokens  5 m  20:34:20  warning
  rule-2            inactive   2.0k      3 tokens  1 h  20:34:20  warning
  rule-10           inactive    0 s        30.0 s  5 m  20:34:20  warning"""


def verdict(found: Look, width: int = 80) -> str:
    """Return the first sentence, wherever the line breaks."""
    said = " ".join(lines_of(found, width)[:3])
    return re.split(r" !|  Redis", said.partition("UTC, demo")[2])[0].strip()


def rows_of(lines: list[str], title: str) -> list[str]:
    """Return a table's heads and rows."""
    first = next(number for number, line in enumerate(lines) if line.startswith(title)) + 1
    end = next((number for number in range(first, len(lines)) if not lines[number]), len(lines))
    return lines[first:end]


def test_a_whole_look() -> None:
    """At 80 columns: the answer, what asks for somebody, and each list with what it is about."""
    rules = [
        rule("rule-10", unit="us", value=0, threshold=30_000_000),
        rule("rule-2", value=2_000, threshold=3, window_s=3_600),
        rule("high-token-usage", "firing"),
    ]
    found = look(producers=[hanging()], alerts=rules)
    assert "\n".join(lines_of(found)) == WELL


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "found",
    [
        look(),
        look(producers=[hanging(), hanging("silent", session=HOSTILE, agent=HOSTILE)]),
        look(producers=[producer("silent", 3, offered=1_079, shed=1_000, service=HOSTILE, instance=HOSTILE)]),
        look(workers=[], accounts=units(behind(53, 26_000))),
        look(accounts=units(behind(1_000_000, 26_000, outstanding_at_least=True))),
        look(workers=[worker(name=HOSTILE, handlers=HOSTILE)], alerts=[rule(HOSTILE, "firing")]),
        look(
            accounts=units(
                behind(9, 26_000, handler=HOSTILE), behind(9, 26_000, handler=HOSTILE, kind="replay", version=2)
            )
        ),
        look(accounts=units(unit("a-handler-" + "x" * 50), unit("metrics", 2, dead=1, dead_letters=1, appended=2_559))),
        look(accounts=[], producers=[], workers=[], others=["demo-2", "prod"]),
    ],
)
def test_no_line_is_wider_than_the_terminal_and_none_obeys_a_name(found: Look, width: int) -> None:
    """Whatever things are called; no head, number or id of a table is cut, and no row takes two lines."""
    lines = lines_of(found, width, all_partitions=True)
    assert max(map(len, lines)) <= width
    assert not [char for line in lines for char in line if not char.isprintable()]
    for title in ("Handlers", "Cursors"):
        rows = rows_of(lines, title) if any(line.startswith(title) for line in lines) else []
        assert not [row for row in rows if row[2] == " " and "partition" not in row]


@pytest.mark.parametrize(
    ("found", "word", "finding"),
    [
        (look(), "ok: every event is accounted for", False),
        (look(accounts=units(behind(53, 2_000))), "ok: every event is accounted for", False),
        (
            look(workers=[], accounts=units(behind(53, 26_000))),
            "no worker: 53 events wait, the oldest for 26.0 s",
            True,
        ),
        (look(workers=[], accounts=units(behind(1, 2_000))), "no worker: 1 event waits, for 2.0 s", False),
        (look(workers=[]), "no worker: nothing waits, every event is accounted for", False),
        (
            look(workers=[], accounts=[], unread=[behind(50, 26_000, declared=False), behind(3, 9_000, partition=1)]),
            "no worker: 53 events wait, the oldest for 26.0 s; none has ever run here",
            True,
        ),
        (
            look(workers=[worker(handlers="metrics")], accounts=units(behind(7, 20_000, handler="cost"))),
            "no worker: none runs cost: 7 events wait, the oldest for 20.0 s",
            True,
        ),
        (
            look(workers=[worker(handlers="")], accounts=units(behind(7, 20_000, handler="cost"))),
            "behind: cost: 7 events wait, the oldest for 20.0 s",
            False,
        ),
        (
            look(accounts=units(behind(1_000, 26_000, outstanding_at_least=True))),
            "behind: metrics: 1,000+ events wait, the oldest for 26.0 s",
            False,
        ),
        (
            look(accounts=units(behind(9, 3 * DAY_MS, handler="cost", version=2, kind="replay"))),
            "ok: every event is accounted for",
            False,
        ),
        (
            look(workers=[worker(troubles=(UnitHealth("cost", 1, "stuck", "capacity", "Redis is full", 70.0),))]),
            "stuck: 1 duty of a worker makes no progress",
            False,
        ),
        (
            look(stalled=[Stalled("metrics", 1, 3, 2 * DAY_MS)]),
            "stuck: metrics stands still while entries wait",
            False,
        ),
        (
            look(producers=[producer(), producer("silent", 3)]),
            "at risk: 3 events may be lost with 1 producer that is gone",
            False,
        ),
        (
            look(
                workers=[], accounts=units(behind(5, 26_000)), broken=[Broken("metrics v1, partition 0", "5 events …")]
            ),
            "broken: events are unaccounted for in 1 place",
            True,
        ),
        (
            look(accounts=[], producers=[], workers=[]),
            "empty: nothing was ever published in the namespace demo",
            False,
        ),
    ],
)
def test_the_verdict(found: Look, word: str, *, finding: bool) -> None:
    """One word and a sentence, the worst first; a script is told where events are gone or nobody will count them."""
    assert verdict(found) == word
    assert found.standing.is_finding == finding


def test_without_a_worker_it_says_how_to_start_one() -> None:
    """In the second sentence, with the namespace."""
    said = " ".join(lines_of(look(workers=[], accounts=units(behind(53, 26_000)))))
    assert "! Start one: `sidestream worker --namespace demo`, with the same Redis." in said
    assert "Workers  none is alive: start one with `sidestream worker`" in said


def test_of_a_handler_that_nobody_runs_it_says_how_to_end_it() -> None:
    """Or who should run it."""
    found = look(workers=[worker(handlers="metrics")], accounts=units(behind(7, 20_000, handler="cost")))
    assert "! Start one that does, or end the hold: `sidestream handler retire cost`." in lines_of(found)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_empty_namespace_says_what_to_do_and_which_others_there_are(width: int) -> None:
    """Look at another one, or publish."""
    lines = lines_of(look(accounts=[], producers=[], workers=[], others=["prod", "test"]), width)
    assert "! This Redis has other namespaces: prod, test." in lines
    assert "  sidestream status --namespace prod" in lines
    assert '  sidestream.configure(service="my-app")' in lines
    alone = "\n".join(lines_of(look(accounts=[], producers=[], workers=[]), width))
    assert "other namespaces" not in alone


@pytest.mark.parametrize("width", WIDTHS)
def test_a_partition_has_a_row_where_it_asks_for_somebody(width: int) -> None:
    """It is behind, has dead letters, stands still or is broken; all others are in their handler's sums."""
    accounts = units(
        behind(53, 26_000, partition=1),
        unit("metrics", 2, dead=7, dead_letters=1, appended=2_565),
        unit("metrics", 3, appended=2_563),
        behind(1, 2 * DAY_MS, handler="cost", partition=3, at_ms=NOW_MS - 2 * DAY_MS),
    )
    rows = rows_of(lines_of(look(accounts=accounts), width), "Handlers  in 4 partitions each; listed are")
    found = [row.split()[:2] for row in rows if row.startswith("    partition")]
    assert found == [["partition", number] for number in ("3", "1", "2", "3")]
    assert rows[-1].endswith("BROKEN")
    assert re.match(r"  metrics +(10,232 +)?53 ", rows[-4])
    assert rows[-4].endswith("BROKEN")


@pytest.mark.parametrize("width", WIDTHS)
def test_all_partitions_with_their_cursors_where_they_are_asked_for(width: int) -> None:
    """Each whole, to be copied; `--partitions` alone has them."""
    foreign = unit("metrics", 2, foreign=7, committed=2_565, cursor_index=12)
    lines = lines_of(look(accounts=units(foreign)), width, all_partitions=True)
    assert len([line for line in lines if line.startswith("    partition")]) == 8
    cursors = rows_of(lines, "Cursors")
    assert len(cursors) == 9
    assert re.match(r"  metrics +2  1795811674345-0 event 12 +7", cursors[-2])
    assert not [line for line in lines_of(look(), width) if "1795811674345-0" in line]


def test_what_the_verdict_does_not_say_stands_below_it() -> None:
    """A broken sum is worse than a missing worker, and events at risk than neither; all of them are said."""
    found = look(
        broken=[Broken("metrics v1, partition 0", "5 events vanished")],
        workers=[],
        accounts=units(behind(53, 26_000)),
        producers=[producer("silent", 3)],
    )
    said = " ".join(lines_of(found))
    assert "! No worker is alive: 53 events wait, the oldest for 26.0 s. Start one: `sidestream worker" in said
    assert "! At risk: 3 events may be lost with 1 producer that is gone." in said


def test_a_replay_that_is_behind_asks_for_nobody() -> None:
    """It is by its nature: it has its row, and where to look."""
    lines = lines_of(look(accounts=units(behind(9, 3 * DAY_MS, version=2, kind="replay"))))
    assert not [line for line in lines if line.startswith("    partition")]
    assert "  metrics v2: a replay; `sidestream replay status` says how far it is." in lines


def test_broken_sums_stand_below_the_verdict() -> None:
    """Each with its place, ten at most; how many more there are."""
    lines = lines_of(look(broken=[Broken(f"metrics v1, partition {n}", "5 events vanished") for n in range(12)]))
    assert lines[1:3] == [
        "broken: events are unaccounted for in 12 places",
        "! metrics v1, partition 0: 5 events vanished",
    ]
    assert "! and 2 more; --json has them" in lines


@pytest.mark.parametrize("width", WIDTHS)
def test_what_did_not_become_a_figure_is_said(width: int) -> None:
    """Dead-lettered, skipped, shed, invalid, lost; and what may be lost with a producer."""
    accounts = units(
        unit("cost", 0, dead=2, dead_letters=1, appended=2_560),
        unit("export", 0, kind="sink", skipped=42_155, appended=44_713),
    )
    producers = [producer(offered=90, shed=3, invalid=2, lost=1), producer("silent", 3), producer("closed")]
    said = " ".join(line.strip() for line in lines_of(look(accounts=accounts, producers=producers), width))
    assert (
        "! Not in the figures: 2 dead-lettered (`sidestream dlq ls`), 42,155 skipped by sinks too far behind, 3 shed, "
        "2 refused as invalid, 1 lost by Redis."
    ) in said
    assert "at risk: 3 events may be lost with 1 producer that is gone !" in said
    assert said.count("may be lost") == 1
    assert "Producers  1 alive, 1 silent, 1 closed" in said
    assert "export is of 1 of 4 partitions" in said


def test_producers_are_summed_up() -> None:
    """Those that lost something first, those that said goodbye one a service, and all of them in the last row."""
    silent = producer("silent", 3, instance="vm:1", offered=10, appended=7, in_flight=3)
    rows = rows_of(lines_of(look(producers=[producer(), producer("closed"), producer("closed"), silent])), "Producers")
    assert re.match(r"  deckster 1.5.0 +vm:1 +silent 26.0 s +10 +3 ", rows[1])
    assert re.match(r"  deckster 1.5.0 +2 processes +closed +158 +0 ", rows[3])
    assert re.match(r"  all +247 +3 ", rows[4])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_slow_call_is_told_from_one_that_may_have_died(width: int) -> None:
    """At 80 columns the session's name is whole, a UUID too: it is what `tail` takes; the agent goes first."""
    session = "0b0cf9a6-6a4b-4b8e-9d5c-2f1c9a4e7d11"
    lines = lines_of(look(producers=[hanging(session=session), hanging("silent")]), width)
    assert "! 2 requests are open for up to 10.0 s." in lines
    rows = rows_of(lines, "Open for long")
    assert (session if width >= 80 else session[:19] + "…") in rows[1]
    assert re.search(r"10\.0 s  open", rows[1])
    assert re.search(r"10\.0 s  unknown", rows[2])
    assert "Unknown: its producer died with it" in " ".join(rows)


def test_what_workers_and_libraries_say() -> None:
    """What does not move, and what of a library is not seen."""
    troubles = (
        UnitHealth("metrics", 2, "stuck", "refused", "WRONGTYPE \x1b[31m", 9.0),
        UnitHealth("export", 0, "waiting", "unreachable", "no answer", 3.0),
    )
    seen = producer(captures=(Capture("pydantic-ai", "1.9", ("streams",), 2),))
    said = " ".join(line.strip() for line in lines_of(look(workers=[worker(troubles=troubles)], producers=[seen])))
    assert "vm:6761:6d796b: metrics, partition 2: stuck for 9 s: WRONGTYPE \N{REPLACEMENT CHARACTER}[31m" in said
    assert "export, partition 0: waiting for 3 s: no answer" in said
    assert "deckster 1.5.0: pydantic-ai 1.9 is not observed completely: not streams." in said
    assert "deckster 1.5.0: pydantic-ai 1.9: observing it failed 2 times; see its log." in said


def test_a_handler_that_stands_still_is_named_with_what_to_do() -> None:
    """It holds the stream."""
    said = " ".join(line.strip() for line in lines_of(look(stalled=[Stalled("metrics", 2, 3, 2 * DAY_MS)])))
    assert "metrics v2, partition 3: has stood still for 48 h 00 m while entries wait, and holds the stream." in said
    assert "`sidestream handler retire metrics --version 2`" in said


def test_memory_that_fills_up_is_said_above() -> None:
    """How full, until when, and what goes early; how fast it grows stands beside it in any case."""
    full = Memory(240 << 20, 256 << 20, "critical", 3.21, 5.0 * (1 << 20))
    said = " ".join(lines_of(look(memory=full)))
    assert (
        "! Redis's memory is 93.8 % full, and full in 3.2 h at the present rate: entries that all handlers have taken "
        "go early."
    ) in said
    assert "240.0 MiB of 256.0 MiB (93.8 %), 5.0 MiB more an hour" in said
    assert "in 3.2 h" not in " ".join(lines_of(look(memory=msgspec.structs.replace(full, level="ok"))))
