"""Zero-code capture for PydanticAI: every model request, run and tool call of ordinary agents becomes events.

Keeps:
- No prompt, completion, tool argument or tool result is read into an event.
- No fault of ours breaks a run: each hook is guarded, and `statistics().faults` counts what went wrong.
- `run()` is never switched to streaming, and the application's own traces get no span of ours.
- Instrumentation that is there already (Logfire's, or an agent's own) goes on working, whatever comes first.

How: pydantic-ai asks `Agent._resolve_instrumentation_settings` for the settings of each run; a guarded wrap hands back
settings whose tracer watches and passes on. The public slot (`Agent.instrument_all`) is filled too, for
`pydantic_ai.direct`, and alone serves a version where the wrap does not fit: then a later
`logfire.instrument_pydantic_ai()` replaces us, and `agent.instrument = ...` hides that agent.

Not seen: an agent with an `Instrumentation` capability of its own or an `InstrumentedModel` as its model; embeddings;
images. While instrumented, pydantic-ai puts agent name, run id and conversation id into the OpenTelemetry baggage.
"""

import logging
from typing import TYPE_CHECKING

from msgspec import Struct

from producers.pydantic_ai.recorder import Recorder, SupportsEmit

if TYPE_CHECKING:
    from producers.pydantic_ai.hook import Hook

__all__ = ["Statistics", "SupportsEmit", "instrument", "statistics", "uninstrument"]

_log = logging.getLogger("sidestream.pydantic_ai")


class Statistics(Struct, frozen=True):
    """What presence records and tests read: whether the hooks are in place, and our own faults since import."""

    instrumented: bool = False
    wrapped: bool = False
    faults: int = 0


class _Installed:
    """The one hook of this process; pydantic-ai's slot is process-wide too."""

    hook: "Hook | None" = None
    recorder: Recorder | None = None
    earlier_faults: int = 0


def instrument(telemetry: SupportsEmit) -> bool:
    """Report every request, run and tool call of PydanticAI's agents to `telemetry`; a second call replaces the first.

    Returns:
        True when the hook is in place; False, with one warning, when pydantic-ai is missing or does not fit.
    """
    uninstrument()
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
    if hook is not None:
        hook.remove()
    if recorder is not None:
        _Installed.earlier_faults += recorder.faults


def statistics() -> Statistics:
    """Return whether agents are observed, and how many of our hooks failed so far."""
    hook, recorder = _Installed.hook, _Installed.recorder
    faults = _Installed.earlier_faults + (recorder.faults if recorder is not None else 0)
    return Statistics(instrumented=hook is not None, wrapped=hook is not None and hook.wrapped, faults=faults)
