"""Zero-code capture for PydanticAI: every model request, run and tool call of ordinary agents becomes events.

Keeps:
- No prompt, completion, tool argument or tool result is read into an event.
- No fault of ours breaks a run: each hook is guarded, and `statistics().faults` counts what went wrong.
- `run()` is never switched to streaming, and the application's own traces get no span of ours.
- Instrumentation that is there already (Logfire's, or an agent's own) goes on working, whatever comes first.

How: settings whose tracer watches and passes on take the place of those that a run would work with, at three doors
(`hook.py`); embedding and image models are wrapped at two more. The public slot (`Agent.instrument_all`) is filled too,
and alone serves a version whose doors are not the ones we know: then a later `logfire.instrument_pydantic_ai()`
replaces us, and `agent.instrument = ...` hides that agent. What is not observed is logged once and stands in the
presence record.

Not seen: a model that is called without agent, `Embedder`, `ImageGenerator` or `pydantic_ai.direct`; a subclass of
`InstrumentedModel` given to `pydantic_ai.direct`. While instrumented, pydantic-ai puts agent name, run id and
conversation id into the OpenTelemetry baggage.
"""

import logging
from importlib import metadata
from typing import TYPE_CHECKING

from msgspec import Struct

from pipeline.presence import Capture
from producers.captures import announce
from producers.pydantic_ai.recorder import Recorder, SupportsEmit

if TYPE_CHECKING:
    from producers.pydantic_ai.hook import Hook

__all__ = ["Statistics", "SupportsEmit", "instrument", "statistics", "uninstrument"]

_log = logging.getLogger("sidestream.pydantic_ai")


class Statistics(Struct, frozen=True):
    """Whether the hooks are in place, what they do not see, and our own faults since import."""

    instrumented: bool = False
    unseen: tuple[str, ...] = ()
    faults: int = 0


class _Installed:
    """The one hook of this process; pydantic-ai's slot is process-wide too."""

    hook: "Hook | None" = None
    recorder: Recorder | None = None
    earlier_faults: int = 0
    wanted: bool = False
    version: str = ""


def instrument(telemetry: SupportsEmit) -> bool:
    """Report every request, run and tool call of PydanticAI to `telemetry`; a second call replaces the first.

    Returns:
        True when the hook is in place; False, with one warning, when pydantic-ai is missing or does not fit.
    """
    uninstrument()
    _Installed.wanted, _Installed.version = True, _installed_version()
    announce("pydantic-ai", _capture)
    try:
        from producers.pydantic_ai.hook import Hook  # noqa: PLC0415 - pydantic-ai is an extra
    except ImportError:
        _log.warning("pydantic-ai is not installed or too old, its agents are not observed", exc_info=True)
        return False
    recorder = Recorder(telemetry)
    hook = Hook(recorder)
    try:
        hook.install()
    except Exception:  # noqa: BLE001 - another version's internals may fail in any way
        hook.remove()
        _log.warning("this version of pydantic-ai does not fit, its agents are not observed", exc_info=True)
        return False
    _Installed.hook, _Installed.recorder = hook, recorder
    return True


def uninstrument() -> None:
    """Take the hooks out; runs that are under way are reported to their end."""
    hook, recorder = _Installed.hook, _Installed.recorder
    _Installed.hook = _Installed.recorder = None
    _Installed.wanted = False
    if hook is not None:
        hook.remove()
    if recorder is not None:
        _Installed.earlier_faults += recorder.faults


def statistics() -> Statistics:
    """Return what is observed, and how many of our hooks failed so far."""
    hook, recorder = _Installed.hook, _Installed.recorder
    faults = _Installed.earlier_faults + (recorder.faults if recorder is not None else 0)
    unseen = hook.unseen if hook is not None else ("anything",)
    return Statistics(instrumented=hook is not None, unseen=unseen if _Installed.wanted else (), faults=faults)


def _capture() -> Capture | None:
    told = statistics()
    return Capture("pydantic-ai", _Installed.version, told.unseen, told.faults) if _Installed.wanted else None


def _installed_version() -> str:
    try:
        return metadata.version("pydantic-ai-slim")
    except metadata.PackageNotFoundError:
        return ""
