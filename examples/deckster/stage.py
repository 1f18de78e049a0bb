"""The processes of the demo, started and ended in order: whatever happens, none is left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio

from sidestream.embedded import tie_to_parent

_START_S: Final = 20.0
_STOP_S: Final = 20.0
_LOOK_S: Final = 0.05


class StageError(Exception):
    """A process did not start, or ended by itself; the message shows the end of its log."""


class Actor:
    """One process of the demo and its log."""

    def __init__(self, name: str, module: str, arguments: list[str], environ: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        command = [sys.executable, "-m", module, *arguments]
        with self.log.open("wb") as out:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends everybody in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own modules
                command,
                env={**os.environ, **environ},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=tie_to_parent(),  # noqa: PLW1509 - this process has one thread when it starts an actor
            )

    def check(self) -> None:
        """See that the process is there.

        Raises:
            StageError: It has ended.
        """
        if self._process.poll() is not None:
            raise StageError(f"{self.name} ended with exit code {self._process.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-12:])

    def interrupt(self) -> None:
        """Ask it to end, as an operator does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait until it has ended, and make it end where it does not; return its exit code."""
        with anyio.move_on_after(_STOP_S):
            return await anyio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
        self._process.kill()
        return self._process.wait()


class Stage:
    """Starts actors; ends those that are left when it is closed, last first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._actors: list[Actor] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            for actor in reversed(self._actors):
                actor.interrupt()
            for actor in reversed(self._actors):
                await actor.ended()

    def start(self, name: str, module: str, *arguments: str, **environ: str) -> Actor:
        """Start a Python module as a process."""
        actor = Actor(name, module, list(arguments), environ, self.folder)
        self._actors.append(actor)
        return actor

    async def ready(self, actor: Actor, file: Path) -> str:
        """Wait for the file that an actor writes once it listens; return what it says.

        Raises:
            StageError: It ended, or did not listen in time.
        """
        await self.wait(file.exists, f"{actor.name} did not start within {_START_S:.0f} s", _START_S)
        return (await anyio.Path(file).read_text("utf-8")).strip()

    async def wait(self, happened: Callable[[], bool], otherwise: str, seconds: float) -> None:
        """Wait until something has happened, while all actors live.

        Raises:
            StageError: An actor ended, or it took longer than `seconds`.
        """
        with anyio.move_on_after(seconds):
            while not happened():
                self.check()
                await anyio.sleep(_LOOK_S)
            return
        raise StageError(otherwise)

    def check(self) -> None:
        """See that every actor is there.

        Raises:
            StageError: One has ended.
        """
        for actor in self._actors:
            actor.check()

    async def end(self, actor: Actor) -> None:
        """End one actor, and wait for it.

        Raises:
            StageError: It did not end well.
        """
        self._actors.remove(actor)
        actor.interrupt()
        code = await actor.ended()
        if code not in {0, -signal.SIGTERM}:
            raise StageError(f"{actor.name} ended with exit code {code}:\n{actor.last_words()}")
