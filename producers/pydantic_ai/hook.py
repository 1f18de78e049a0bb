"""The hook: where pydantic-ai's settings and models are exchanged for watching ones.

Keeps: what is put in place can be taken out, and only while it is still ours.
"""

# ruff: noqa: ANN401, ARG002 - the vendor's door: Any stays here, and the signatures are theirs

import copy
import logging
from typing import Any, cast

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, Span
from pydantic_ai import Agent, direct
from pydantic_ai.capabilities.instrumentation import Instrumentation
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.models.instrumented import InstrumentationSettings, InstrumentedModel

from pipeline.log import say
from producers.pydantic_ai import embeddings, images
from producers.pydantic_ai.doors import Door
from producers.pydantic_ai.recorder import Recorder
from producers.pydantic_ai.tracer import WatchedSpan, WatchingTracer
from producers.pydantic_ai.watches import Request

_log = logging.getLogger("sidestream.pydantic_ai")

_SLOT = "_instrument_default"
_RESOLVE = "_resolve_instrumentation_settings"


class _Watching:
    """What watching settings add to the settings they stand for."""

    recorder: Recorder
    stands_for: InstrumentationSettings | None

    def keep_response(self, span: object, response: ModelResponse) -> None:
        """Keep the real response of the request `span` belongs to: attributes lack half of the token kinds."""
        if isinstance(span, WatchedSpan) and isinstance(span.watch, Request):
            span.watch.response = response


class _Alone(_Watching, InstrumentationSettings):
    """Settings with nothing behind them: no content, no span, no metric."""

    def handle_messages(
        self, input_messages: list[ModelMessage], response: ModelResponse, span: Span, *_: object, **__: object
    ) -> None:
        """Keep the response."""
        self.recorder.safely(self.keep_response, span, response)

    def messages_to_otel_messages(self, messages: list[ModelMessage], **_: object) -> list[Any]:
        """Convert nothing: nobody reads it."""
        return []

    def record_metrics(
        self, response: ModelResponse, price_calculation: object, attributes: object, *ttft: object, **more: object
    ) -> None:
        """Settle the request with what was billed."""
        self.recorder.safely(self.recorder.account, response, *_ttft(ttft, more))


class _Beside(_Watching, InstrumentationSettings):
    """Settings in front of others, which go on working; its instances are copies of those, under a class of both."""

    def handle_messages(
        self, input_messages: list[ModelMessage], response: ModelResponse, span: Span, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the response and pass on."""
        self.recorder.safely(self.keep_response, span, response)
        if isinstance(span, WatchedSpan) and span.inner is not None and not span.inner.is_recording():
            # Sampled out: without us pydantic-ai would not have come here.
            return
        super().handle_messages(input_messages, response, span, *args, **kwargs)

    def record_metrics(
        self, response: ModelResponse, price_calculation: Any, attributes: Any, *ttft: Any, **more: Any
    ) -> None:
        """Settle the request with what was billed and pass on."""
        self.recorder.safely(self.recorder.account, response, *_ttft(ttft, more))
        super().record_metrics(response, price_calculation, attributes, *ttft, **more)


class Hook:
    """The exchange of settings in pydantic-ai's slot, and of what its doors hand out."""

    def __init__(self, recorder: Recorder) -> None:
        self.unseen: tuple[str, ...] = ()
        """What is not observed, because a door of this version is not the one we know."""
        self._recorder = recorder
        self._alone = _alone(recorder)
        self._doors = [
            Door(
                Agent, _RESOLVE, ("self",), behind="agents that are instrumented by themselves", exchange=self._resolved
            ),
            Door(Instrumentation, "for_run", ("self", "ctx"), behind="the capability", exchange=self._for_run),
            Door(direct, "_prepare_model", ("model", "instrument"), behind="direct requests", exchange=self._prepared),
            embeddings.door(recorder),
            images.door(recorder),
        ]

    def install(self) -> None:
        """Fill the slot, and open the doors that are the ones we know.

        Raises:
            AttributeError: The slot is gone: this version does not fit.
        """
        Agent.instrument_all(self.watching(_settings(getattr(Agent, _SLOT))))
        self.unseen = tuple(door.behind for door in self._doors if not door.open())
        if self.unseen:
            unseen = ", ".join(self.unseen)
            say(_log, logging.WARNING, "this version of pydantic-ai is not observed completely", unseen=unseen)

    def remove(self) -> None:
        """Take out what is still ours."""
        for door in self._doors:
            door.close()
        current: object = getattr(Agent, _SLOT, None)
        if isinstance(current, _Watching) and current.recorder is self._recorder:
            Agent.instrument_all(current.stands_for or False)

    def watching(self, settings: InstrumentationSettings | None) -> InstrumentationSettings:
        """Return settings that watch and stand for `settings`, the same ones each time."""
        if settings is None:
            return self._alone
        if isinstance(settings, _Watching):
            return settings
        known: object = vars(settings).get(_REMEMBERED)
        if isinstance(known, _Watching) and known.recorder is self._recorder:
            return cast("InstrumentationSettings", known)
        beside = _beside(self._recorder, settings)
        vars(settings)[_REMEMBERED] = beside
        return beside

    def _resolved(self, settings: InstrumentationSettings | None) -> InstrumentationSettings | None:
        return self._recorder.safely(self.watching, settings) or settings

    def _for_run(self, capability: Instrumentation) -> Instrumentation:
        """Watch through the copy of an `Instrumentation` that one run works with."""
        self._recorder.safely(self._watch, capability)
        return capability

    def _watch(self, capability: Instrumentation) -> None:
        capability.settings = self.watching(capability.settings)

    def _prepared(self, model: Model) -> Model:
        return self._recorder.safely(self._watched, model) or model

    def _watched(self, model: Model) -> Model:
        if not isinstance(model, InstrumentedModel):
            return InstrumentedModel(model, self._alone)
        if type(model) is not InstrumentedModel:
            return model  # someone's own kind: what it overrides must go on working
        return InstrumentedModel(model.wrapped, self.watching(model.instrumentation_settings))


_REMEMBERED = "_sidestream_watching"
"""Where settings remember their watching copy: a run must not build it anew."""


def _settings(slot: object) -> InstrumentationSettings | None:
    """Return what the slot's value means to pydantic-ai."""
    if isinstance(slot, InstrumentationSettings):
        return slot
    return InstrumentationSettings() if slot is True else None


def _alone(recorder: Recorder) -> InstrumentationSettings:
    settings = _Alone(
        tracer_provider=NoOpTracerProvider(),
        meter_provider=NoOpMeterProvider(),
        include_content=False,
        include_binary_content=False,
        include_model_request_parameters=False,
    )
    settings.tracer = WatchingTracer(recorder, None)
    settings.recorder, settings.stands_for = recorder, None
    return settings


def _beside(recorder: Recorder, settings: InstrumentationSettings) -> InstrumentationSettings:
    """Copy `settings` into a class that is ours first and theirs next, so that their overrides hold."""
    beside = copy.copy(settings)
    kind = type(settings)
    vars(beside).pop(_REMEMBERED, None)
    beside.__class__ = type(f"Watching{kind.__name__}", (_Beside, kind), {})
    beside.tracer = WatchingTracer(recorder, settings.tracer)
    watching = cast("_Watching", cast("object", beside))
    watching.recorder, watching.stands_for = recorder, settings
    return beside


def _ttft(positional: tuple[object, ...], named: dict[str, object]) -> tuple[object]:
    return (positional[0] if positional else named.get("time_to_first_chunk"),)
