"""An application that never calls `configure` is told so: one warning, and nothing else changes."""

import subprocess
import sys
from pathlib import Path

import pytest

SENTENCE = "nothing is configured: call sidestream.configure(service=...)"

ASGI = """
import asyncio
async def app(scope, receive, send): ...
asyncio.run(sidestream.{middleware}({{'type': 'http', 'path': '/', 'headers': []}}, None, None))
"""

AGENT = """
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
Agent(TestModel()).run_sync('hello')
"""

REPORTING = {
    "usage": "sidestream.usage('a', 'm', 1)",
    "error": "sidestream.error(ValueError())",
    "transition": "sidestream.track_state_transition('a', 'b', 's')",
    "emit": "sidestream.emit(sidestream.UsageEvent(1))",
    "operation": "with sidestream.operation('x'): pass",
    "operation_done": "sidestream.operation_done('x', duration_us=1)",
    "model_request": "with sidestream.model_request('a', 'm'): pass",
    "an agent": "sidestream.instrument_pydantic_ai()\n" + AGENT,
    "SessionMiddleware": ASGI.format(middleware="SessionMiddleware(app, session='header:x')"),
    "DrainMiddleware": ASGI.format(middleware="DrainMiddleware(app)"),
}
"""One way in each, as an application uses it."""

SILENT = {
    "configured": ("sidestream.configure('app', redis_url='redis://127.0.0.1:1', close_timeout_s=0)", ""),
    "configured as off": ("sidestream.configure(enabled=False)", ""),
    "switched off": ("", "false"),
    "tested": ("from sidestream.testing import capture\nwith capture(): sidestream.usage('a', 'm', 1)", ""),
    "only imported": ("import sys; sys.exit()", ""),
    "instrumented before it is configured": (
        (
            "sidestream.instrument_pydantic_ai()\nsidestream.instrument_celery()\n"
            "sidestream.configure('app', redis_url='redis://127.0.0.1:1', close_timeout_s=0)"
        ),
        "",
    ),
}


def said(code: str, tmp_path: Path, enabled: str = "") -> list[str]:
    """Run an application in a process of its own; return the lines on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sidestream\n{code}"],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2]), "SIDESTREAM_ENABLED": enabled},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize("way", REPORTING)
def test_the_first_report_says_that_nothing_is_configured(tmp_path: Path, way: str) -> None:
    """Once for the process, by whatever way it comes in, and however often."""
    code = f"{REPORTING[way]}\n{REPORTING[way]}\nsidestream.usage('a', 'm', 1)"
    lines = said(code, tmp_path)
    assert [line.startswith(SENTENCE) for line in lines] == [True], lines


@pytest.mark.parametrize("case", SILENT)
def test_who_decided_is_told_nothing(tmp_path: Path, case: str) -> None:
    """Configured, switched off, under test, or merely imported."""
    begin, enabled = SILENT[case]
    lines = said(
        f"{begin}\nsidestream.usage('a', 'm', 1)\nsidestream.close()\nsidestream.usage('a', 'm')", tmp_path, enabled
    )
    assert not [line for line in lines if SENTENCE in line]
