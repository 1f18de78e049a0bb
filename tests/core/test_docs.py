"""The code and figures of the pages that have no test of their own are true."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

import sidestream
from consumers.alerts.rules import DEFAULT_RULES, KINDS, parse_rules
from pipeline.redact import HIDDEN, redact
from sidestream.testing import Captured
from sidestream.worker_settings import DEFAULT_GRACE_S, load_alert_options

DOCS: Final = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the code of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


def test_the_state_a_session_begins_in(sidestream_events: Captured) -> None:
    """A transition from nothing begins it, `state=` goes on with it: the events say so, and how long it lasted."""
    codes = [code for code in blocks("sessions.md", "python") if "sidestream.usage" in code]
    assert len(codes) == 2
    for code in codes:
        exec(code, {"sidestream": sidestream})  # noqa: S102 - our own page
    assert [request.state for request in sidestream_events.usage] == ["outlining", "writing"]
    first, second = sidestream_events.transitions
    assert (first.from_state, first.duration_us) == ("", None)
    assert second.duration_us is not None


WORKER: Final = """
import os, time
from celery import Celery
from celery.contrib.testing.worker import start_worker

app = Celery("talks")
@app.task(name="touch")
def touch():
    open("done", "w").close()

{code}
app.conf.broker_transport_options["polling_interval"] = 0.05  # seconds
with start_worker(app, perform_ping_check=False):
    app.send_task("touch")
    until_s = time.monotonic() + 20
    while not os.path.exists("done") and time.monotonic() < until_s:
        time.sleep(0.02)
"""


def test_files_can_be_the_broker(tmp_path: Path) -> None:
    """Celery without Redis, as docs/frameworks.md sets it up; by itself, for a worker takes over the process's log."""
    [code] = [code for code in blocks("frameworks.md", "python") if "filesystem://" in code]
    program = [sys.executable, "-c", WORKER.format(code=code)]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (tmp_path / "done").exists(), ran.stderr


def test_the_default_alerts_are_those_of_the_page(tmp_path: Path) -> None:
    """Written as a file they are the same rules; an empty list is none; every key and kind is named."""
    default, nothing = blocks("alerts.md", "toml")
    assert parse_rules(tomllib.loads(default)["alert"]) == DEFAULT_RULES
    (tmp_path / "none.toml").write_text(f"{nothing}[worker]\n", "utf-8")
    assert load_alert_options({"SIDESTREAM_CONFIG": str(tmp_path / "none.toml")}).rules == ()
    page = (DOCS / "alerts.md").read_text("utf-8")
    for kind in KINDS:
        assert f"`{kind}`" in page
    assert f"`[worker] grace_s` ({DEFAULT_GRACE_S:.0f} by default)" in page


@pytest.mark.parametrize(
    ("least", "less"),
    [
        ("sk-abcdefg1", "sk-abcdef1"),
        ("sk-" + "a" * 24, "sk-" + "a" * 23),
        ("sk_live_" + "a" * 8, "sk_live_" + "a" * 7),
        ("xoxb-" + "a" * 8, "xoxb-" + "a" * 7),
        ("xapp-" + "a" * 8, "xapp-" + "a" * 7),
        ("pylf_" + "a" * 12, "pylf_" + "a" * 11),
        ("AKIA" + "A" * 12, "AKIA" + "A" * 11),
        ("AIza" + "a" * 20, "AIza" + "a" * 19),
        *((f"{name}_{'a' * 16}", f"{name}_{'a' * 15}") for name in ("ghp", "hf", "npm", "gsk", "r8", "lsv2_pt")),
        *((f"{name}{'a' * 16}", f"{name}{'a' * 15}") for name in ("github_pat_", "glpat-", "whsec_", "hvs.", "ya29.")),
        *((f"{name}-{'a' * 15}1", f"{name}-{'a' * 16}") for name in ("xai", "tvly", "pplx", "nvapi", "pypi")),
    ],
)
def test_keys_are_known_by_the_form_that_the_page_gives(least: str, less: str) -> None:
    """So long it is a key, and shorter it is a word."""
    assert redact(f"refused {least} here") == f"refused {HIDDEN} here"
    assert redact(f"refused {less} here") == f"refused {less} here"


def test_the_page_of_the_report_explains_every_head() -> None:
    """What stands above a column, and what can be asked for."""
    page = (DOCS / "report.md").read_text("utf-8")
    source = (DOCS.parent / "sidestream/cli/look/report_text.py").read_text("utf-8")
    for head in set(re.findall(r'_Column\(\s*"([A-Z0-9 ]+)"', source)):
        assert head in page, head
