"""What a vision model makes of the images."""

import os
from contextlib import ExitStack
from typing import Any, Literal

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from nsd_pipeline import partitions
from nsd_pipeline.assets import keys
from nsd_pipeline.assets.artifacts import (
    Facts,
    Recipe,
    fails_plainly,
    materialize_artifacts,
    ranged_asset,
    require,
)
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.embeddings import (
    ImageEncoder,
    embed_images,
    encoder_identity,
    read_embeddings,
    write_embeddings,
)
from nsd_pipeline.embeddings.encoder import DEFAULT_IMAGE_SIZE, DEFAULT_LAYERS, DEFAULT_MODEL
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.stimuli import INDEX_FILE, ImageReader
from nsd_pipeline.resources import GpuResource, SourceResource, StoreResource
from nsd_pipeline.storage.places import parse_model
from nsd_pipeline.storage.store import Draft, Store

EMBEDDINGS_FILE = "embeddings.parquet"
ENCODER = os.environ.get("NSD_ENCODER", DEFAULT_MODEL)


class EncoderConfig(dg.Config):
    """Which vision model embeds the images, and how."""

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
    batch_size: int = Field(default=16, ge=1, description="images at a time; memory, not results")

    def settings(self) -> dict[str, Any]:
        """Everything but the batch size: what decides the embeddings.

        Raises
        ------
        NsdError
            If the model is the URL of no folder.
        """
        model = parse_model(self.model, what="The vision model (NSD_ENCODER)")
        return self.model_dump(exclude={"batch_size"}) | {"model": model}


def open_images(store: Store, source: SourceResource, stimulus_set: str) -> ImageReader:
    """Reader of a stimulus set's images, wherever they lie."""
    manifest = require(store, keys.stimuli(stimulus_set), asset="stimuli", partition=stimulus_set)
    index = pd.read_parquet(store.folder(manifest.key) / INDEX_FILE)
    mirror = source.open().local_path(layout.STIMULI_KEY) if manifest.config["in_place"] else None
    return ImageReader(
        index, lambda part: store.folder(keys.stimulus_part(stimulus_set, part)), mirror
    )


@ranged_asset(
    group_name="embeddings",
    kinds={"huggingface", "parquet"},
    # The model is part of the version, so that the UI shows what a change of it makes stale.
    code_version=f"1 {ENCODER}",
    partitions_def=partitions.stimulus_sets,
    deps=["stimuli"],
    pool=GPU_POOL,
    automation_condition=CARRY_ON,
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("image_id", "int32", description="NSD's 0-based 73k row"),
                dg.TableColumn(
                    "embedding", "fixed_size_list<float32>", description="one value a dimension"
                ),
            ]
        )
    },
)
@fails_plainly
def stimulus_embeddings(
    context: dg.AssetExecutionContext,
    config: EncoderConfig,
    source: SourceResource,
    store: StoreResource,
    gpu: GpuResource,
) -> None:
    """Embedding of every image at hand: one hidden state of DINOv2-giant, mean over its tokens.

    Only images that the same settings have not embedded yet go through the model.
    """
    artifacts = store.open()
    identity = encoder_identity(**config.settings())
    encoders: list[ImageEncoder] = []
    held = ExitStack()

    def encoder() -> ImageEncoder:
        if not encoders:
            device = held.enter_context(gpu.lease())
            encoders.append(ImageEncoder(**config.settings(), device=device))
        return encoders[0]

    def recipe(partition: str) -> Recipe:
        images = require(artifacts, keys.stimuli(partition), asset="stimuli", partition=partition)
        return Recipe(
            keys.stimulus_embeddings(partition),
            inputs={"stimuli": images.fingerprint},
            config={"encoder": identity},
        )

    def make(partition: str, plan: Recipe, draft: Draft) -> Facts:
        images = open_images(artifacts, source, partition)
        wanted = images.image_ids
        known_ids, known, settings = _embedded_before(artifacts, plan)
        new = np.setdiff1d(wanted, known_ids)
        ids, values = known_ids, known
        if len(new):
            fresh = embed_images(encoder(), images, new, batch_size=config.batch_size)
            settings = encoder().settings
            ids = np.concatenate([known_ids, new])
            values = np.concatenate([known.reshape(-1, fresh.shape[1]), fresh])
        keep = np.isin(ids, wanted)
        write_embeddings(draft.folder / EMBEDDINGS_FILE, ids[keep], values[keep], settings)
        norms = np.linalg.norm(values[keep], axis=1)
        return {
            "images": len(wanted),
            "images embedded now": len(new),
            "dimensions": int(values.shape[1]),
            "mean norm": float(norms.mean()),
            "smallest norm": float(norms.min()),
            "largest norm": float(norms.max()),
            "duplicates": int(len(wanted) - len(np.unique(values[keep], axis=0))),
            "encoder": settings,
        }

    with held:
        materialize_artifacts(context, artifacts, recipe=recipe, make=make)


def _embedded_before(
    store: Store, plan: Recipe
) -> tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Any]]:
    """Ids, embeddings and settings of the images that the same encoder has embedded already."""
    manifest = store.manifest(plan.key)
    if manifest is None or manifest.config != plan.config:
        return np.empty(0, np.int32), np.empty((0, 0), np.float32), {}
    return read_embeddings(store.folder(plan.key) / EMBEDDINGS_FILE)
