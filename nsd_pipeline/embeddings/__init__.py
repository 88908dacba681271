"""Embeddings of images: the vision model, sets of images, and the Parquet file they go into.

Importing this loads neither torch nor transformers; making an `ImageEncoder` does.
"""

from nsd_pipeline.embeddings.encoder import ImageEncoder as ImageEncoder
from nsd_pipeline.embeddings.encoder import describe_encoder as describe_encoder
from nsd_pipeline.embeddings.encoder import encoder_identity as encoder_identity
from nsd_pipeline.embeddings.encoder import same_encoder as same_encoder
from nsd_pipeline.embeddings.image_set import embed_images as embed_images
from nsd_pipeline.embeddings.image_set import read_embeddings as read_embeddings
from nsd_pipeline.embeddings.image_set import write_embeddings as write_embeddings
from nsd_pipeline.embeddings.model_files import ModelError as ModelError
from nsd_pipeline.embeddings.model_files import model_identity as model_identity
