"""Log lines: whatever shows them tells why, and a structured logger has the values by name."""

import logging
import re
from pathlib import Path

import pytest

from pipeline.log import say
from sidestream.cli.logs import KeyValueFormatter

ROOT = Path(__file__).parents[2]


def test_the_reason_stands_in_the_text(caplog: pytest.LogCaptureFixture) -> None:
    """A constant sentence, then the values; the place is that of who said it."""
    say(logging.getLogger("sidestream"), logging.WARNING, "the spool cannot be used", folder=Path("/a b"), code="full")
    [record] = caplog.records
    assert record.getMessage() == "the spool cannot be used: folder='/a b' code=full"
    assert (record.__dict__["code"], record.levelname, record.filename) == ("full", "WARNING", "test_log.py")
    assert KeyValueFormatter().format(record).endswith("WARNING the spool cannot be used: folder='/a b' code=full")


def test_no_line_of_the_application_s_side_leaves_its_reason_out() -> None:
    """What is only an attribute of a record is not shown by the handler that most applications have."""
    for path in (*ROOT.glob("producers/**/*.py"), *ROOT.glob("sidestream/*.py")):
        if path.name in {"compose.py", "health_endpoint.py", "receiver.py"}:
            continue  # of workers, whose own log shows attributes
        assert not re.search(r"extra=", path.read_text("utf-8")), path
