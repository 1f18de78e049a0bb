"""docs/api.md names every public name, with its signature, and its code runs."""

import inspect
import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

import sidestream
from sidestream.testing import capture

PAGE: Final = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
SIGNATURES: Final = "\n".join(re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL))
EXAMPLES: Final[list[str]] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

ALIASES: Final = {
    str(inspect.signature(sidestream.DrainMiddleware).parameters["app"].annotation): "App",
    "Literal['ok', 'error', 'cancelled', 'interrupted']": "Status",
    "pipeline.events.UsageEvent | pipeline.events.OperationEvent | pipeline.events.TransitionEvent "
    "| pipeline.events.ErrorEvent": "Event",
}
"""What the page calls by its name."""


def shown(name: str) -> str:
    """Return how the page shows a name: its signature, of an event without types, all on one line without blanks."""
    thing: Any = getattr(sidestream, name)
    if not callable(thing):
        return name
    signature = inspect.signature(thing)
    if isinstance(thing, type) and issubclass(thing, msgspec.Struct):
        return bare(f"{name}({', '.join(map(_untyped, signature.parameters.values()))})")
    text = f"{name}{signature}"
    for long, short in ALIASES.items():
        text = text.replace(long, short)
    text = re.sub(r"\*?<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"<function .*?>", "…", text)
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text)
    return bare(re.sub(r"'((?:Source|Sequence)[^']*)'", r"\1", text))


def _untyped(parameter: inspect.Parameter) -> str:
    return str(parameter.replace(annotation=inspect.Parameter.empty))


def bare(text: str) -> str:
    """Return a signature without what a formatter decides."""
    return re.sub(r"\s+", "", text).replace(",)", ")")


def told() -> dict[str, str]:
    """Return what the page shows, by name."""
    found = re.findall(r"^([A-Za-z_]+)(?:\(.*?\)(?: -> [^\n]+)?)?$", SIGNATURES, re.MULTILINE | re.DOTALL)
    whole = re.finditer(r"^(?:[A-Za-z_]+)(?:\(.*?\)(?: -> [^\n]+)?)?$", SIGNATURES, re.MULTILINE | re.DOTALL)
    return dict(zip(found, (bare(one[0]) for one in whole), strict=True))


def test_every_public_name_is_on_the_page_and_no_other() -> None:
    """What can be imported is what is documented."""
    assert sorted(told()) == sorted(sidestream.__all__)


@pytest.mark.parametrize("name", sidestream.__all__)
def test_signatures_are_those_of_the_package(name: str) -> None:
    """Arguments, defaults, types and result."""
    assert told()[name] == shown(name)


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_code_of_the_page_reports_what_can_be_stored(code: str) -> None:
    """It runs as it stands."""
    with capture() as captured:
        exec(code, {})  # noqa: S102 - our own page
        assert captured.events


def test_what_does_not_fit_a_signature_is_python_s_own_error() -> None:
    """And an unknown field of `details` is no such thing, but an invalid event."""
    with capture(allow_invalid=True) as captured:
        with pytest.raises(TypeError):
            sidestream.usage("writer")  # pyright: ignore[reportCallIssue]
        with pytest.raises(TypeError):
            sidestream.operation("render", colour="red")  # pyright: ignore[reportCallIssue]
        assert not sidestream.usage("writer", "gpt-4o", colour="red")  # pyright: ignore[reportCallIssue]
    assert len(captured.invalid) == 1


def test_a_negative_number_is_buffered_and_refused_when_it_is_sent() -> None:
    """The call that returns at once does not look at numbers."""
    with capture(allow_invalid=True) as captured:
        assert sidestream.usage("a", "gpt-4o", -1, 2)
    assert captured.invalid == ["UsageEvent: Expected `int` >= 0 - at `$.input_tokens`"]
