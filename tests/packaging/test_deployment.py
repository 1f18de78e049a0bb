"""compose.yaml and the Dockerfile against the code: no container engine is needed to see that they fit."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.sinks.export import from_environ
from sidestream.cli.health import TIMEOUT_S
from sidestream.compose import parse_handlers
from sidestream.health_settings import load_health_settings
from sidestream.settings import load_settings

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def services() -> dict[str, Any]:
    """Return the services of compose.yaml."""
    return yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]


def resolved(value: str, **environ: str) -> str:
    """Fill in `${NAME:-default}` and `${NAME:?message}` as compose does."""

    def fill(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(":-")
        return environ.get(name.partition(":?")[0], default)

    return re.sub(r"\$\{([^}]+)\}", fill, value)


def test_redis_keeps_what_it_was_told(services: dict[str, Any]) -> None:
    """AOF on, nothing evicted, a password from the environment, reachable from this machine only."""
    command = services["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--requirepass"].startswith("${REDIS_PASSWORD:?")
    assert all(port.startswith("127.0.0.1:") for port in services["redis"]["ports"])


def test_the_worker_is_started_with_handlers_that_exist(services: dict[str, Any]) -> None:
    """Its command line is one that the worker accepts, and it has time to drain."""
    command, *options = services["worker"]["command"]
    assert (command, options[0]) == ("worker", "--handlers")
    assert parse_handlers(options[1]) == ("metrics", "cost", "export", "alerts")
    assert services["worker"]["stop_signal"] == "SIGTERM"


def test_the_worker_understands_every_variable_that_it_is_given(services: dict[str, Any]) -> None:
    """Filled in as compose would, the environment is accepted, with and without a Logfire token."""
    template: dict[str, str] = services["worker"]["environment"]
    plain = {name: resolved(value, REDIS_PASSWORD="secret") for name, value in template.items()}
    assert load_settings({}, plain).redis_url == "redis://:secret@redis:6379/0"
    assert from_environ(plain) is None
    with_token = {name: resolved(value, LOGFIRE_TOKEN="pylf_v1_us_x") for name, value in template.items()}
    assert from_environ(with_token) is not None


def test_the_container_engine_asks_the_worker_how_it_is(services: dict[str, Any]) -> None:
    """On the port that the worker was given, in less time than lies between two questions; the image does the same."""
    worker = services["worker"]
    check = worker["healthcheck"]
    assert check["test"] == ["CMD", "sidestream", "health"]
    assert TIMEOUT_S < int(check["timeout"].removesuffix("s")) < int(check["interval"].removesuffix("s"))
    port = load_health_settings(worker["environment"]).port
    assert port is not None
    text = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    assert f"ENV SIDESTREAM_HEALTH_PORT={port}\n" in text
    assert re.search(r'^HEALTHCHECK .* CMD \["sidestream", "health"\]$', text, re.MULTILINE)


def test_the_image_installs_the_extra_that_the_worker_needs() -> None:
    """The Dockerfile copies every package of the wheel and installs `worker`, as an ordinary user."""
    text = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package} {package}" in text
    assert "'.[worker]'" in text
    assert "USER sidestream" in text


def test_nothing_that_is_pinned_carries_an_address() -> None:
    """Constraints are names and versions: where packages come from is each machine's own matter."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines), lines
