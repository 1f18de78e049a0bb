"""Images: the model an `ImageGenerator` works with, watched."""

from collections.abc import Sequence

from pydantic_ai import images as vendor
from pydantic_ai.images import (
    ImageGenerationInput,
    ImageGenerationModel,
    ImageGenerationResult,
    ImageGenerationSettings,
    WrapperImageGenerationModel,
)

from producers.pydantic_ai.doors import Door
from producers.pydantic_ai.recorder import Recorder


class WatchedImageModel(WrapperImageGenerationModel):
    """A model for images that reports each request; all else is the wrapped model's.

    Args:
        wrapped: The model, with the application's own instrumentation or without.
        recorder: Where requests are reported.
    """

    def __init__(self, wrapped: ImageGenerationModel, recorder: Recorder) -> None:
        super().__init__(wrapped)
        self._recorder = recorder

    async def generate(
        self,
        prompt: str,
        *,
        images: Sequence[ImageGenerationInput] | None = None,
        settings: ImageGenerationSettings | None = None,
    ) -> ImageGenerationResult:
        """Generate, as the wrapped model does."""
        request = self.wrapped.generate(prompt, images=images, settings=settings)
        return await self._recorder.watch_request("image_generation", self.wrapped, request)


def door(recorder: Recorder) -> Door:
    """Return the door where an `ImageGenerator` gets its model."""

    def watched(model: ImageGenerationModel) -> ImageGenerationModel:
        return recorder.safely(WatchedImageModel, model, recorder) or model

    return Door(vendor.ImageGenerator, "_get_model", ("self",), behind="images", exchange=watched)
