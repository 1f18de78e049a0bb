"""Embeddings: the model an `Embedder` works with, watched."""

from collections.abc import Sequence

from pydantic_ai import embeddings
from pydantic_ai.embeddings import EmbeddingModel, EmbeddingResult, EmbeddingSettings, WrapperEmbeddingModel
from pydantic_ai.embeddings.result import EmbedInputType

from producers.pydantic_ai.doors import Door
from producers.pydantic_ai.recorder import Recorder


class WatchedEmbeddingModel(WrapperEmbeddingModel):
    """An embedding model that reports each request; all else is the wrapped model's.

    Args:
        wrapped: The model, with the application's own instrumentation or without.
        recorder: Where requests are reported.
    """

    def __init__(self, wrapped: EmbeddingModel, recorder: Recorder) -> None:
        super().__init__(wrapped)
        self._recorder = recorder

    async def embed(
        self, inputs: str | Sequence[str], *, input_type: EmbedInputType, settings: EmbeddingSettings | None = None
    ) -> EmbeddingResult:
        """Embed, as the wrapped model does."""
        request = self.wrapped.embed(inputs, input_type=input_type, settings=settings)
        return await self._recorder.watch_request("embeddings", self.wrapped, request)


def door(recorder: Recorder) -> Door:
    """Return the door where an `Embedder` gets its model."""

    def watched(model: EmbeddingModel) -> EmbeddingModel:
        return recorder.safely(WatchedEmbeddingModel, model, recorder) or model

    return Door(embeddings.Embedder, "_get_model", ("self",), behind="embeddings", exchange=watched)
