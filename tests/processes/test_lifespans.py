"""The middleware's lifespan: an application with one, with none, with half of one, and with one that fails."""

from collections.abc import Awaitable, Callable

import pytest

from producers.asgi import App, DrainMiddleware, Message, Receive, Scope, Send
from producers.settings import PublishSettings
from producers.telemetry import Telemetry

STARTED = "lifespan.startup.complete"
ENDED = "lifespan.shutdown.complete"


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what the protocol asks."""
    await receive()
    await send({"type": STARTED})
    await receive()
    await send({"type": ENDED})


async def none(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse the lifespan, as applications of HTTP alone do."""
    assert scope["type"] == "http"


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without a word."""


async def half(scope: Scope, receive: Receive, send: Send) -> None:
    """Start, and never hear of the shutdown."""
    await receive()
    await send({"type": STARTED})


async def unable(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail to start, as the protocol wants it said."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail to start, without saying so."""
    await receive()
    raise OSError("no database")


def one_lifespan() -> tuple[list[str], Receive, Send, Telemetry]:
    """Return what was answered, the server's two ends of a lifespan, and telemetry with nobody to send to."""
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    answered: list[str] = []
    telemetry = Telemetry(PublishSettings(namespace="test"), lambda: None)

    async def receive() -> Message:
        return {"type": next(asked)}

    async def send(message: Message) -> None:
        if message["type"] != STARTED:
            assert not telemetry.enabled, "the server heard of the end before telemetry was closed"
        answered.append(message["type"])

    return answered, receive, send, telemetry


@pytest.mark.parametrize("app", [whole, none, silent, half])
async def test_every_lifespan_is_answered_once_and_drained(app: App) -> None:
    """The server hears one start and one end, and telemetry is closed before the end."""
    answered, receive, send, telemetry = one_lifespan()
    await DrainMiddleware(app, telemetry, 0.1)({"type": "lifespan"}, receive, send)
    assert answered == [STARTED, ENDED]
    assert not telemetry.enabled


async def test_a_start_that_fails_is_drained_and_passed_on() -> None:
    """The server hears the application's own failure, and nothing else."""
    answered, receive, send, telemetry = one_lifespan()
    await DrainMiddleware(unable, telemetry, 0.1)({"type": "lifespan"}, receive, send)
    assert answered == ["lifespan.startup.failed"]


async def test_an_exception_of_the_application_stays_its_own() -> None:
    """An application that asked, and then raised, has failed: the server decides what that means."""
    answered, receive, send, telemetry = one_lifespan()
    with pytest.raises(OSError, match="no database"):
        await DrainMiddleware(broken, telemetry, 0.1)({"type": "lifespan"}, receive, send)
    assert answered == []
    telemetry.close(0)


async def test_a_fault_of_ours_does_not_stop_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's shutdown goes on although closing raises."""
    answered, receive, send, telemetry = one_lifespan()

    def fail(timeout_s: float | None = None) -> Awaitable[bool]:
        telemetry.close(0)
        raise RuntimeError("a fault of ours")

    failing: Callable[[float | None], Awaitable[bool]] = fail
    monkeypatch.setattr(telemetry, "aclose", failing)
    await DrainMiddleware(whole, telemetry)({"type": "lifespan"}, receive, send)
    assert answered == [STARTED, ENDED]
