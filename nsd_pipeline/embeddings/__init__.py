"""Embeddings of images: the vision model, reading ahead of it, and the Parquet file they go into.

Importing this loads neither torch nor transformers; making an `ImageEncoder` does.
"""

from nsd_pipeline.embeddings.describe import describe_encoder
from nsd_pipeline.embeddings.embed import embed_images
from nsd_pipeline.embeddings.encoder import ImageEncoder, encoder_identity, same_encoder
from nsd_pipeline.embeddings.model_files import ModelError, model_identity
from nsd_pipeline.embeddings.parquet import read_embeddings, write_embeddings

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
