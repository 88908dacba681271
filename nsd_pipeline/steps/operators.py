"""From a subject's own space to fsaverage5: the map itself, built once."""

from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
from pydantic import Field

from nsd_pipeline import partitions
from nsd_pipeline.nsd.layout import OPERATOR_SPACES, Space
from nsd_pipeline.nsd.small_files import Transforms, copy_transforms, find_transforms
from nsd_pipeline.steps.running import step_asset
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
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


class Operator(Step):
    """A subject's functional space or native surface to fsaverage5, as one sparse matrix.

    Built from NSD's own transforms: a volume is interpolated at three depths of the cortex, the
    depths are averaged, and every fsaverage5 vertex takes the nearest vertex of the subject's
    surface. Only `betas` in a space other than fsaverage and MNI need it.
    """

    name = "fsaverage5_operator"
    code_version = "2"
    partitions = partitions.subject_spaces
    config: OperatorConfig = OperatorConfig()
    set_in_runs = OperatorConfig
    asks_source = True
    optional = True

    def __init__(self, tools: Tools, config: OperatorConfig | None = None) -> None:
        super().__init__(tools, config)
        self._found: dict[str, Transforms] = {}

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(cls, group_name="surface", kinds={"numpy"})

    @classmethod
    def needed_for(cls, space: str | None) -> list[dg.AssetDep]:
        """What a session's betas in a space depend on, beside their files."""
        mapping = partitions.subject_spaces_to_sessions
        needed = space in OPERATOR_SPACES
        return [dg.AssetDep(cls.name, partition_mapping=mapping)] if needed else []

    def plan(self, partition: str) -> Plan:
        found = find_transforms(self.source, *partitions.parse_subject_space(partition))
        self._found[partition] = found
        shape = found.volume_shape
        return Plan(
            inputs={info.key: info.etag for info in found.objects.values()},
            settings={"interpolation": self.config.interpolation if shape else None},
            found={"volume_shape": shape},
        )

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        subject, space = partitions.parse_subject_space(partition)
        transforms = self._found[partition]
        with TemporaryDirectory() as folder:
            paths = copy_transforms(self.source, transforms, Path(folder))
            operator = read_operator(
                paths, subject, space, transforms.volume_shape, self.config.interpolation
            )
        operator.save(draft.folder / OPERATOR_FILE)
        return {
            "shapes": [list(each) for each in operator.shapes],
            "voxels looked at": len(operator.touched_voxels),
            "weights": int(operator.weights.nnz),
            "vertices outside the volume": int((np.diff(operator.weights.indptr) == 0).sum()),
        }

    @classmethod
    def load(cls, store: Store, subject: str, space: Space) -> FsaverageOperator:
        """Read the operator of one of the `OPERATOR_SPACES`; an ArtifactError if there is none."""
        manifest = cls.made(store, partitions.subject_space(subject, space))
        return FsaverageOperator.load(store.folder(manifest.key) / OPERATOR_FILE)
