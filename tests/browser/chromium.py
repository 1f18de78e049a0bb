"""A headless Chromium, driven over its own protocol: as much of it as tests and pictures of a page need.

Source: Chrome DevTools Protocol, domains Page, Runtime, Emulation, Log and Performance.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import httpx
from websockets.sync.client import ClientConnection, connect

INSTALL: Final = "apt-get install chromium"

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
    "--remote-debugging-port=0", "--disable-dev-shm-usage",
)  # fmt: skip
_START_S: Final = 30.0
_ANSWER_S: Final = 20.0
_LOOK_S: Final = 0.05


class BrowserError(Exception):
    """The browser did not do what it was asked for."""


def found_chromium() -> str | None:
    """Return the browser of this machine, None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Tab:
    """One tab: what it is told, and what went wrong in it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Performance"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol, and return its answer."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            told = cast("dict[str, Any]", json.loads(self._socket.recv(timeout=_ANSWER_S)))
            if told.get("id") == self._last:
                if "error" in told:
                    raise BrowserError(f"{method}: {told['error']}")
                return cast("dict[str, Any]", told["result"])
            self._hear(told)

    def _hear(self, told: dict[str, Any]) -> None:
        parameters = told.get("params", {})
        match told.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in {"error", "warning", "assert"}:
                self.complaints.append(str(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(str(parameters["entry"]))
            case _:
                pass

    def open(self, address: str) -> None:
        """Go to an address, and wait until it is there."""
        self.call("Page.navigate", url=address)
        begins = json.dumps(address.partition("#")[0])
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({begins})")

    def close(self) -> None:
        """Close the tab."""
        self.call("Page.close")

    def ask(self, script: str) -> Any:  # noqa: ANN401 - whatever the script says
        """Run a script in the page, and return what it gives."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = _ANSWER_S) -> None:
        """Wait until a script gives something true."""
        until_s = time.monotonic() + seconds
        while not self.ask(script):
            if time.monotonic() > until_s:
                raise BrowserError(f"it did not come true in {seconds:g} s: {script}")
            time.sleep(_LOOK_S)

    def resize(self, wide: int, high: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Set how large the window is, and which colours its user likes."""
        self.call("Emulation.setDeviceMetricsOverride", width=wide, height=high, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    def picture(self, *, most_high: int = 4_000) -> bytes:
        """Return the whole page as PNG, down to `most_high` pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most_high), "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def heap_bytes(self) -> int:
        """Return the memory of the page's script and document."""
        metrics = self.call("Performance.getMetrics")["metrics"]
        return int(next(metric["value"] for metric in metrics if metric["name"] == "JSHeapUsedSize"))


class Chromium:
    """A running browser."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = ExitStack()

    def tab(self) -> Tab:
        """Return a new tab."""
        # The browser's own door, on loopback.
        answer = httpx.put(f"http://127.0.0.1:{self._port}/json/new?about:blank", trust_env=False)
        target = cast("dict[str, Any]", answer.json())
        socket = connect(target["webSocketDebuggerUrl"], max_size=64 << 20, compression=None)
        return Tab(self._open.enter_context(socket))

    def close(self) -> None:
        """Hang up."""
        self._open.close()


@contextmanager
def chromium() -> Generator[Chromium]:
    """Start a browser with a profile of its own, and end it.

    Raises:
        BrowserError: There is none, or it does not start.
    """
    program = found_chromium()
    if program is None:
        raise BrowserError(f"there is no Chromium here: {INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="ss-browser-"))
    command = [program, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    browser: Chromium | None = None
    try:
        browser = Chromium(_port_of(folder, process))
        yield browser
    finally:
        if browser is not None:
            browser.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _port_of(folder: Path, process: subprocess.Popen[bytes]) -> int:
    file, until_s = folder / "DevToolsActivePort", time.monotonic() + _START_S
    while not (file.exists() and (text := file.read_text("utf-8")).count("\n")):
        if process.poll() is not None or time.monotonic() > until_s:
            raise BrowserError("Chromium did not start")
        time.sleep(_LOOK_S)
    return int(text.splitlines()[0])
