"""What the script reports: a real server of a few lines, no Redis."""

import json
import signal
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from examples.plain_script.summarise import main
from sidestream.testing import Captured

COMPLETION = {
    "object": "chat.completion",
    "model": "llama3.3:70b",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "In short"}}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
}


class Model(BaseHTTPRequestHandler):
    """Answers, but not where it is asked to fail."""

    def do_POST(self) -> None:
        """Answer one request."""
        asked = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(500 if b"fail" in asked else 200)
        self.end_headers()
        self.wfile.write(json.dumps(COMPLETION).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
        """Say nothing."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Serve a model on a free port, and put the handlers of signals back."""
    before = signal.getsignal(signal.SIGTERM)
    with HTTPServer(("127.0.0.1", 0), Model) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("MODEL_URL", f"http://127.0.0.1:{server.server_port}/v1/chat/completions")
        monkeypatch.setenv("MODEL", "llama3.3")
        yield
        server.shutdown()
        thread.join()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files, of which the second cannot be summarised."""
    for name, text in {"a.md": "Tides", "b.md": "This will fail"}.items():
        (tmp_path / name).write_text(text, "utf-8")
    return [str(tmp_path / "a.md"), str(tmp_path / "b.md")]


def test_each_file_is_a_request_in_a_session_of_its_own(
    model: None, files: list[str], sidestream_events: Captured, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model that was asked for and the one that answered, and the step that was timed around them."""
    assert main(files[:1]) == 0
    [request] = sidestream_events.usage
    [step] = sidestream_events.operations
    assert (request.agent, request.model, request.response_model) == ("summariser", "llama3.3", "llama3.3:70b")
    assert (request.provider, request.input_tokens, request.output_tokens) == ("ollama", 300, 20)
    assert (request.session, request.parent_id) == ("a.md", step.operation_id)
    assert (step.name, step.kind, step.status) == ("summarise", "step", "ok")
    assert capsys.readouterr().out == "In short\n"


def test_a_file_that_fails_is_one_failed_request_and_one_error(
    model: None, files: list[str], sidestream_events: Captured
) -> None:
    """The exception passes the request, the step and the session; the other file is summarised."""
    assert main(files) == 1
    assert [request.status for request in sidestream_events.usage] == ["ok", "error"]
    assert [(error.type, error.session, error.agent) for error in sidestream_events.errors] == [
        ("HTTPError", "b.md", "summariser")
    ]
    assert [step.status for step in sidestream_events.operations] == ["ok", "error"]


def test_a_file_that_is_not_there_asks_no_model(model: None, sidestream_events: Captured) -> None:
    """The step failed, no request did."""
    assert main(["nowhere.md"]) == 1
    assert not sidestream_events.usage
    assert [error.type for error in sidestream_events.errors] == ["FileNotFoundError"]


def test_sigterm_is_an_ordinary_end(model: None, sidestream_events: Captured) -> None:
    """Python drains nothing at a signal that it does not handle; the script has it end as it does otherwise."""
    assert main([]) == 0
    with pytest.raises(SystemExit, match="143"):
        signal.raise_signal(signal.SIGTERM)
