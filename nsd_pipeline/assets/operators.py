"""From a subject's own space to fsaverage5: the map itself, built once."""

from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
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
from nsd_pipeline.nsd.layout import Space
from nsd_pipeline.nsd.small_files import Transforms, copy_transforms, find_transforms
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store
from nsd_pipeline.surface import FsaverageOperator, read_operator
from nsd_pipeline.surface.interpolation import Method

OPERATOR_FILE = "operator.npz"


class OperatorConfig(dg.Config):
    """How a functional volume is interpolated."""

    interpolation: Method = Field(
        default="cubic",
        description="cubic (as NSD's authors made their surface data), linear or nearest; native"
        " surfaces are not interpolated",
    )


@ranged_asset(
    group_name="surface",
    kinds={"numpy"},
    code_version="2",
    partitions_def=partitions.subject_spaces,
)
@fails_plainly
def fsaverage5_operator(
    context: dg.AssetExecutionContext,
    config: OperatorConfig,
    source: SourceResource,
    store: StoreResource,
) -> None:
    """A subject's functional space or native surface to fsaverage5, as one sparse matrix.

    Built from NSD's own transforms: a volume is interpolated at three depths of the cortex, the
    depths are averaged, and every fsaverage5 vertex takes the nearest vertex of the subject's
    surface. Only `betas` in a space other than fsaverage and MNI need it.
    """
    bucket, artifacts = source.open(), store.open()
    found: dict[str, Transforms] = {}

    def recipe(partition: str) -> Recipe:
        found[partition] = find_transforms(bucket, *partitions.parse_subject_space(partition))
        shape = found[partition].volume_shape
        return Recipe(
            keys.fsaverage5_operator(partition),
            inputs={info.key: info.etag for info in found[partition].objects.values()},
            config={
                "volume_shape": shape,
                "interpolation": config.interpolation if shape else None,
            },
        )

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        subject, space = partitions.parse_subject_space(partition)
        transforms = found[partition]
        with TemporaryDirectory() as folder:
            paths = copy_transforms(bucket, transforms, Path(folder))
            operator = read_operator(
                paths, subject, space, transforms.volume_shape, config.interpolation
            )
        operator.save(draft.folder / OPERATOR_FILE)
        n_outside = int((np.diff(operator.weights.indptr) == 0).sum())
        return {
            "shapes": [list(each) for each in operator.shapes],
            "voxels looked at": len(operator.touched_voxels),
            "weights": int(operator.weights.nnz),
            "vertices outside the volume": n_outside,
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


def require_operator(store: Store, subject: str, space: Space) -> Manifest:
    """The artifact that leads from one of the `OPERATOR_SPACES` to fsaverage5.

    Raises
    ------
    ArtifactError
        If it has not been materialized.
    """
    partition = partitions.subject_space(subject, space)
    return require(
        store,
        keys.fsaverage5_operator(partition),
        asset="fsaverage5_operator",
        partition=partition,
    )


def load_operator(store: Store, manifest: Manifest) -> FsaverageOperator:
    """Read an operator."""
    return FsaverageOperator.load(store.folder(manifest.key) / OPERATOR_FILE)
