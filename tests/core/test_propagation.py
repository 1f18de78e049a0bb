"""The context across processes: what one writes another reads, and strangers' headers harm nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidestream
from pipeline import limits
from producers.context import CONTEXT, Context
from producers.propagation import MAX_HEADER_BYTES, Carried, from_headers, to_headers
from sidestream.testing import capture

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(st.tuples(TEXT, TEXT, TEXT, TEXT), st.lists(TEXT, max_size=4))
def test_what_is_written_is_read(names: tuple[str, str, str, str], tags: list[str]) -> None:
    """Any text goes through a header of printable ASCII and comes back as it was."""
    headers = to_headers(Context(*names, tuple(tags)))
    assert headers["baggage"].isascii()
    assert headers["baggage"].isprintable()
    assert from_headers(headers) == Carried(*names, tuple(tags) or None)


def test_a_context_that_says_nothing_sends_nothing() -> None:
    """No header is better than an empty one."""
    assert to_headers(Context()) == {}
    assert from_headers({}) == Carried()


def test_a_header_stays_within_the_standard_s_limit() -> None:
    """What does not fit is left out, the tags first; the session is the last to go."""
    wide = "\N{GRINNING FACE}" * limits.MAX_NAME_CHARS
    headers = to_headers(Context(wide, wide, wide, "state", (wide,) * 4))
    assert len(headers["baggage"]) <= MAX_HEADER_BYTES
    assert from_headers(headers).session == wide
    assert from_headers(headers).tags is None


@pytest.mark.parametrize(
    "headers",
    [
        None,
        5,
        "baggage",
        [1, 2],
        {"baggage": object()},
        {"Baggage": "sidestream.session=%FF%zz;p=1, other=2"},
        [(b"baggage", b"\xff=\xff")],
        {"baggage": ",,=,sidestream.=x,sidestream.session"},
    ],
)
def test_whatever_a_header_holds_reading_it_never_raises(headers: object) -> None:
    """What is no baggage of ours says nothing, and costs nothing."""
    assert isinstance(from_headers(headers), Carried)


def test_other_members_of_the_baggage_are_left_alone() -> None:
    """Ours stand among others, with properties or without, in any case of the header's name, as text or bytes."""
    carried = from_headers([(b"BAGGAGE", b"a=b, sidestream.session=s%201;prop=x ,sidestream.user = u")])
    assert (carried.session, carried.user) == ("s 1", "u")


def test_a_task_s_events_carry_the_session_of_its_caller() -> None:
    """`context_headers` on one side, `session_context.from_headers` on the other."""
    with capture() as captured:
        with sidestream.session_context("s", "u", tenant="t", tags=["x", "y"], state="draft"):
            headers = sidestream.context_headers()
        assert CONTEXT.get() == Context()
        with sidestream.session_context.from_headers(headers):
            sidestream.usage("a", "m", 1)
        with sidestream.session_context("mine", "me"), sidestream.session_context.from_headers({}):
            sidestream.usage("a", "m", 1)
    first, second = captured.usage
    assert (first.session, first.user, first.tenant, first.tags, first.state) == ("s", "u", "t", ("x", "y"), "draft")
    assert (second.session, second.user) == ("mine", "me"), "headers that say nothing change nothing"


def test_a_context_reports_an_exception_that_leaves_it_once() -> None:
    """However many contexts and operations it passes; what is no failure is not reported."""

    def fail(error: BaseException) -> None:
        with (
            sidestream.session_context("outer"),
            sidestream.session_context("inner", "u"),
            sidestream.operation("step"),
        ):
            raise error

    class WebSocketDisconnect(Exception):  # noqa: N818 - as Starlette calls it
        """A client that left."""

    class HTTPException(Exception):  # noqa: N818 - as Starlette calls it
        """An answer that is raised."""

        status_code = 404

    with capture() as captured:
        for error in (ValueError("no"), KeyboardInterrupt(), WebSocketDisconnect(), HTTPException()):
            with pytest.raises(type(error)):
                fail(error)
    [reported] = captured.errors
    assert (reported.type, reported.session, reported.user, reported.operation) == ("ValueError", "inner", "u", "step")
    assert [operation.status for operation in captured.operations] == ["error", "cancelled", "interrupted", "ok"]
