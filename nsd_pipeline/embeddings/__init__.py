"""Embeddings of images: the vision model, sets of images, and the Parquet file they go into.

Importing this loads neither torch nor transformers; making an `ImageEncoder` does.
"""

from nsd_pipeline.embeddings.encoder import (
    ImageEncoder,
    describe_encoder,
    encoder_identity,
    same_encoder,
)
from nsd_pipeline.embeddings.image_set import embed_images, read_embeddings, write_embeddings
from nsd_pipeline.embeddings.model_files import ModelError, model_identity

__all__ = [
    "ImageEncoder",
    "ModelError",
    "describe_encoder",
    "embed_images",
    "encoder_identity",
    "model_identity",
    "read_embeddings",
    "same_encoder",
    "write_embeddings",
]
