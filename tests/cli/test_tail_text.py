"""Lines of `sidestream tail` as a reader sees them: at every width, through a pipe, with names that are hostile."""

import io
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.errors import SettingsError
from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.wire import Frame
from producers.pseudonyms import Pseudonyms
from sidestream.cli.look.tail_text import Plain, Screen, heads, layout_of, line_of
from sidestream.cli.look.tail_wanted import KINDS, Filters

AT_US = int(datetime(2026, 11, 27, 20, 18, 42, 123_000, tzinfo=UTC).timestamp() * 1e6)
DAY_US = 86_400_000_000
WIDTHS = (60, 80, 100, 140)

FAILED = UsageEvent(
    AT_US,
    agent="director",
    model="gpt-4o-mini-2024-07-18",
    duration_us=450_000,
    session="deck-0160",
    state="review",
    status="error",
    error_type="ModelHTTPError",
)
REQUEST = UsageEvent(
    AT_US,
    agent="writer",
    model="claude-sonnet-4-5",
    input_tokens=5_500,
    output_tokens=380,
    duration_us=2_100_000,
    session="deck-live-43-4",
    state="drafting",
)
SOME: list[Event] = [
    FAILED,
    ErrorEvent(AT_US, type="ModelHTTPError", message="said\nby a test", agent="director", session="deck-0160"),
    TransitionEvent(AT_US, from_state="drafting", to_state="illustrating", session="deck-hangs"),
    REQUEST,
    OperationEvent(AT_US, name="writer", kind="run", duration_us=24, agent="writer", session="deck-live-43-4"),
    OperationEvent(AT_US, name="search_web", kind="tool", duration_us=320_000, agent="writer", session="deck-0160"),
]


def drawn(width: int | None, events: list[Event]) -> list[str]:
    """Return the heads of the columns, and a line for each event."""
    layout = layout_of(width)
    return [heads(layout), *(line_of(event, "deckster", layout)[0] for event in events)]


def test_at_80_columns() -> None:
    """The second, who, in which session, the tokens or how it ended, how long, which model."""
    assert drawn(80, SOME) == [
        "TIME      EVENT    AGENT      SESSION            IN    OUT      TOOK  MODEL/TOOL",
        "20:18:42  request  director   deck-0160       FAILED          450 ms  gpt-4o-mi…",
        "20:18:42  error    director   deck-0160       ModelHTTPError: said by a test",
        "20:18:42  state               deck-hangs      drafting → illustrating",
        "20:18:42  request  writer     deck-live-43-4   5.5k    380     2.1 s  claude-so…",
        "20:18:42  run      writer     deck-live-43-4                   24 us",
        "20:18:42  tool     writer     deck-0160                       320 ms  search_web",
    ]


def test_at_60_columns() -> None:
    """No model; a tool's name stands where its tokens would."""
    assert drawn(60, SOME) == [
        "TIME     EVENT   AGENT    SESSION          IN   OUT     TOOK",
        "20:18:42 request director deck-0160     FAILED        450 ms",
        "20:18:42 error   director deck-0160     ModelHTTPError: sai…",
        "20:18:42 state            deck-hangs    drafting → illustra…",
        "20:18:42 request writer   deck-l…e-43-4  5.5k   380    2.1 s",
        "20:18:42 run     writer   deck-l…e-43-4                24 us",
        "20:18:42 tool    writer   deck-0160     search_web    320 ms",
    ]


def test_at_100_and_140_columns() -> None:
    """Milliseconds and the whole model; then state and service, and what a failure was."""
    [wide_heads, failed, *_] = drawn(100, SOME)
    assert wide_heads == ("TIME          EVENT    AGENT       SESSION             IN    OUT      TOOK  MODEL/TOOL")
    assert failed == (
        "20:18:42.123  request  director    deck-0160        FAILED          450 ms  gpt-4o-mini-2024-07-18"
    )
    [wider_heads, failed, _, moved, *_] = drawn(140, SOME)
    assert " ".join(wider_heads.split()) == "TIME EVENT AGENT SESSION STATE SERVICE IN OUT TOOK MODEL/TOOL"
    assert "review          deckster" in failed
    assert failed.endswith("FAILED          450 ms  gpt-4o-mini-2024-07-18  Mo…")
    assert "deckster      drafting → illustrating" in moved


def test_a_pipe_gets_everything_in_one_line() -> None:
    """The whole date, names in full, what a failed request had used and what its error was."""
    used = UsageEvent(AT_US, model="m" * 60, session="s" * 60, status="error", error_type="Oops", input_tokens=1_200)
    [_, failed, error, moved, *_, last] = drawn(None, [*SOME, used])
    assert failed == (
        "2026-11-27 20:18:42.123  request  director      deck-0160         review        deckster      "
        "FAILED          450 ms  gpt-4o-mini-2024-07-18  ModelHTTPError"
    )
    assert error.endswith("deckster      ModelHTTPError: said by a test")
    assert moved.endswith("deckster      drafting → illustrating")
    assert "s" * 60 in last
    assert last.endswith("m" * 60 + "  Oops, 1.2k in, 0 out")


@pytest.mark.parametrize("width", [20, 33, 40, 55, 56, 60, 66, 79, 80, 99, 100, 139, 140, 200, 300])
def test_no_line_is_wider_than_its_terminal(width: int) -> None:
    """Whatever names are in it; and what stands in a column begins where its head does."""
    names = ["幻灯片作家" * 10, "🎨" * 40, "\x1b[2J\r\n\t\u202eevil", "a" * 200, "[red]x[/red]", "e\u0301" * 30]
    for name in names:
        events: list[Event] = [
            UsageEvent(AT_US, agent=name, model=name, session=name, state=name, input_tokens=2**40, duration_us=2**40),
            UsageEvent(AT_US, agent=name, model=name, session=name, status="interrupted", error_type=name),
            OperationEvent(AT_US, agent="a", name=name, kind="step", session=name, status="error", error_type=name),
            TransitionEvent(AT_US, from_state=name, to_state=name, session=name, duration_us=5),
            ErrorEvent(AT_US, type=name, message=name * 9, agent=name, model=name),
        ]
        for line in drawn(width, events):
            assert cell_len(line) <= width
            assert line.isprintable()


def test_wide_names_keep_the_columns() -> None:
    """Chinese characters and pictures take two cells each, and what is right of them stays where it is."""
    wide = UsageEvent(AT_US, agent="幻灯片作家" * 9, session="🎨" * 40, model="m", duration_us=1_000_000)
    for width in WIDTHS:
        [head, line] = drawn(width, [wide])
        took = head.index("TOOK") + len("TOOK")
        assert cell_len(line[: line.index("1.0 s")]) + len("1.0 s") == took
        assert "…" in line


def test_sessions_are_cut_inside() -> None:
    """Those of one application begin alike: their ends tell them apart."""
    session = "deck-2026-11-27-0123456789"
    [_, line] = drawn(80, [UsageEvent(AT_US, session=session)])
    assert "deck-20…456789" in line


def painted(width: int, events: list[Event], **environ: str) -> list[str]:
    """Return what a terminal gets, its first line left out."""
    terminal = {"TERM": "xterm-256color", "COLUMNS": str(width)}
    file = io.StringIO()
    screen = Screen(Console(file=file, force_terminal=True, _environ=terminal | environ), "2026-11-27")
    _, *above = screen.opening("Sidestream tail  2026-11-27, UTC; all events")
    return [*above, *(line for event in events for line in screen.lines(event, "deckster"))]


def test_failures_are_red_and_states_bold() -> None:
    """What was cancelled is dim, and what went well is as it is."""
    cancelled = UsageEvent(AT_US, status="cancelled")
    head, failed, error, moved, well, *_, dim = painted(80, [*SOME, cancelled])
    assert (failed[:5], error[:5], moved[:4], dim[:4], head[:4]) == (
        "\x1b[31m",
        "\x1b[31m",
        "\x1b[1m",
        "\x1b[2m",
        "\x1b[2m",
    )
    assert "\x1b" not in well


def test_no_color_is_obeyed() -> None:
    """As rich does: no colour, and bold and dim stay."""
    _, failed, _, moved, *_ = painted(80, SOME, NO_COLOR="1")
    assert "\x1b" not in failed
    assert moved.startswith("\x1b[1m")


def test_a_new_day_is_a_line_of_its_own() -> None:
    """On a terminal alone: through a pipe each line has its date."""
    events: list[Event] = [UsageEvent(AT_US), UsageEvent(AT_US + DAY_US), UsageEvent(AT_US + DAY_US)]
    _, first, day, second, third = painted(80, events, NO_COLOR="1", TERM="dumb")
    assert day == "2026-11-28, UTC"
    assert first[:8] == second[:8] == third[:8] == "20:18:42"
    assert [line for event in events for line in Plain().lines(event, "")][1].startswith("2026-11-28 20:18:42.123")


def fitting(filters: Filters, key: str | None = None) -> list[Event]:
    """Return which of some events fit."""
    wanted = filters.wanted(key)
    frame = Frame("1-0", "", 0, Resource("deckster", environment="test"), "live", SOME)
    return [event for event in SOME if wanted.fits(event, frame)]


@pytest.mark.parametrize(
    ("kinds", "places"),
    [
        (("request",), [0, 3]),
        (("usage",), [0, 3]),
        (("run",), [4]),
        (("tool",), [5]),
        (("operation",), [4, 5]),
        (("step",), []),
        (("transition",), [2]),
        (("state",), [2]),
        (("error", "run"), [1, 4]),
    ],
)
def test_both_vocabularies_are_understood(kinds: tuple[str, ...], places: list[int]) -> None:
    """That of the wire, and that of the lines."""
    assert fitting(Filters(kinds=kinds)) == [SOME[place] for place in places]


@pytest.mark.parametrize(
    ("filters", "places"),
    [
        (Filters(agents=("director", "nobody")), [0, 1]),
        (Filters(agents=("director", "writer"), sessions=("deck-0160",)), [0, 1, 5]),
        (Filters(agents=("",)), []),
        (Filters(models=("claude-sonnet-4-5",)), [3]),
        (Filters(states=("drafting",)), [2, 3]),
        (Filters(states=("illustrating",)), [2]),
        (Filters(services=("deckster",), errors=True), [0, 1]),
        (Filters(services=("other",)), []),
        (Filters(environments=("test", "production"), slow="2s"), [3]),
        (Filters(slow="400ms"), [0, 3]),
        (Filters(), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filters_are_alternatives_within_and_all_hold(filters: Filters, places: list[int]) -> None:
    """Any value of one, and every one."""
    assert fitting(filters) == [SOME[place] for place in places]


def test_runs_users_and_tenants() -> None:
    """A run is found by its own event and by what was within; a user by pseudonym, or by id where the key is here."""
    key = "k" * 16
    run: list[Event] = [
        OperationEvent(AT_US, kind="run", operation_id="r1", user=Pseudonyms(key).of("ada"), tenant="acme"),
        UsageEvent(AT_US, run_id="r1", user="bob"),
        UsageEvent(AT_US, run_id="r2"),
    ]
    frame = Frame("1-0", "", 0, Resource(), "live", run)

    def told(filters: Filters, with_key: str | None = None) -> list[int]:
        wanted = filters.wanted(with_key)
        return [place for place, event in enumerate(run) if wanted.fits(event, frame)]

    assert told(Filters(runs=("r1",))) == [0, 1]
    assert told(Filters(users=("ada", "bob"))) == [1]
    assert told(Filters(users=("ada", "bob")), key) == [0, 1]
    assert told(Filters(users=(Pseudonyms(key).of("ada"),))) == [0]
    assert told(Filters(tenants=("acme",))) == [0]


def test_stays_in_a_state_are_slow_where_they_are_asked_for() -> None:
    """They last for minutes, and nothing is slow about it."""
    stay = TransitionEvent(AT_US, duration_us=60_000_000)
    frame = Frame("1-0", "", 0, Resource(), "live", [stay])
    assert not Filters(slow="5s").wanted().fits(stay, frame)
    assert Filters(slow="5s", kinds=("transition",)).wanted().fits(stay, frame)


def test_filters_are_said_in_words() -> None:
    """All of them, harmlessly, and none at length."""
    filters = Filters(kinds=("request",), agents=("a", "b\x1b"), users=("u" * 99,), errors=True, slow="5s")
    said = (
        f"event request; agent a or b\N{REPLACEMENT CHARACTER}; user {'u' * 39}…; errors and what failed; 5s or longer"
    )
    assert filters.wanted().said == said


def test_what_is_no_kind_and_no_duration_is_refused() -> None:
    """By name, with what there is."""
    with pytest.raises(SettingsError, match=f"--event: 'dream' is none of {', '.join(KINDS)}"):
        Filters(kinds=("dream",)).wanted()
    with pytest.raises(SettingsError, match="--slow: '5' is no duration"):
        Filters(slow="5").wanted()
