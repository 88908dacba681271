"""What an image encoder is, and how images go through it."""

import os
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from nsd_pipeline.embeddings.encoder import DEFAULT_IMAGE_SIZE, DEFAULT_LAYERS, DEFAULT_MODEL
from nsd_pipeline.storage.names import parse_model

ENCODER: Final = os.environ.get("NSD_ENCODER", DEFAULT_MODEL)


class EncoderSettings(BaseModel):
    """Which vision model embeds the images, and how: by default as the reference does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default=ENCODER,
        description="vision model on the Hugging Face Hub, or a local folder; the default is"
        " NSD_ENCODER's",
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit of a model on the hub"
    )
    layers: float = Field(
        default=DEFAULT_LAYERS, description="depth of the hidden state, as a share of the blocks"
    )
    token_aggregation: Literal["mean", "cls"] = Field(
        default="mean", description="mean over all tokens, or the class token alone"
    )
    image_size: int = Field(
        default=DEFAULT_IMAGE_SIZE, description="pixels to which photos are resized first"
    )
    processor: Literal["model", "normalize"] = Field(
        default="model",
        description="what follows: all that the model's own processor does (DINOv2 then sees"
        " 224 x 224, as in the reference), or its normalisation only (it sees image_size)",
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="what the network computes in; auto is bfloat16 where the hardware multiplies"
        " it, float32 elsewhere",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="images at a time: memory and speed, not results; null: 16, and 64 on a GPU",
    )

    def settings(self) -> dict[str, Any]:
        """What decides the embeddings; an NsdError if the model is the URL of no folder."""
        model = parse_model(self.model, what="The vision model (NSD_ENCODER)")
        return self.model_dump(exclude={"batch_size"}) | {"model": model}
