"""Summarise files with any server that speaks OpenAI's protocol, without an SDK.

    MODEL_URL=http://127.0.0.1:11434/v1/chat/completions MODEL=llama3.3 python -m examples.plain_script.summarise *.md

At the end of the interpreter what is left is sent. A signal that Python does not handle ends it without, so SIGTERM is
turned into an ordinary end here.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import sidestream

PROVIDER = "ollama"
PATIENCE_S = 60


def ask(url: str, model: str, words: str) -> dict[str, Any]:
    """Ask the model; report the request, or that it failed."""
    body = {"model": model, "messages": [{"role": "user", "content": words}]}
    call = Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310 - our own
    with sidestream.model_request("summariser", model, provider=PROVIDER) as request:
        with urlopen(call, timeout=PATIENCE_S) as reply:  # noqa: S310 - as above
            response = json.load(reply)
        request.answered(sidestream.openai_usage(response))
    return response


def summarise(url: str, model: str, file: Path) -> str:
    """Summarise one file: a step of its own, which is timed, and a session of its own."""
    with sidestream.session_context(file.name), sidestream.operation("summarise"):
        response = ask(url, model, f"Summarise this.\n{file.read_text('utf-8')}")
        return response["choices"][0]["message"]["content"]


def stop(_signal: int, _frame: object) -> None:
    """End as a script does that has come to its end."""
    sys.exit(143)


def main(files: Sequence[str]) -> int:
    """Summarise all of them; one that fails does not keep the others from it."""
    sidestream.configure(service="summaries")
    signal.signal(signal.SIGTERM, stop)
    failed = 0
    for file in map(Path, files):
        try:
            print(summarise(os.environ["MODEL_URL"], os.environ["MODEL"], file))
        except (OSError, LookupError) as error:
            print(f"{file}: {error}", file=sys.stderr)
            failed += 1
    if not sidestream.close(5.0):  # seconds; without this line, the end of the interpreter waits for two
        print("not all of the telemetry has arrived", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
