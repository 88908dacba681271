"""Betas of other spaces than fsaverage, for the experiments that name one.

Such a space has stages of its own beside the default's, ``betas_<space>`` and
``fsaverage5_betas_<space>``, in folders of their own: experiments with different spaces overwrite
nothing of each other. Tables of events are shared, and so are images: what was shown when does not
depend on the space.
"""

from collections.abc import Iterable
from functools import cache
from typing import cast

import dagster as dg

from nsd_pipeline import folders, partitions
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.nsd.layout import DEFAULT_SPACE, OPERATOR_SPACES, Space
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.steps.operators import Operator
from nsd_pipeline.steps.raw import Betas, BetasConfig, Design
from nsd_pipeline.steps.running import materialize, step_asset
from nsd_pipeline.steps.surface import SurfaceBetas, SurfaceConfig


def space_of(training: TrainingConfig) -> Space | None:
    """Space of the stages that betas come from; None of time series, which have others."""
    return None if training.windowed else cast("Space", training.space or DEFAULT_SPACE)


def other_spaces(trainings: Iterable[TrainingConfig]) -> list[Space]:
    """Spaces that some experiments need stages of their own for, each once, in their order."""
    named = dict.fromkeys(map(space_of, trainings))
    return [space for space in named if space not in (None, DEFAULT_SPACE)]


@cache
def betas_step(space: Space) -> type[Betas]:
    """Step of a space's betas, as NSD has them."""
    if space == DEFAULT_SPACE:
        return Betas
    return type("BetasOfSpace", (Betas,), {"name": f"{Betas.name}_{space}"})


@cache
def surface_step(space: Space) -> type[SurfaceBetas]:
    """Step of a space's betas on fsaverage5. No filter of events says the space once more."""
    if space == DEFAULT_SPACE:
        return SurfaceBetas
    attributes = {
        "name": f"{SurfaceBetas.name}_{space}",
        "location": folders.betas_folder(space),
        "betas": betas_step(space),
        "filtered": None,
    }
    return type("SurfaceBetasOfSpace", (SurfaceBetas,), attributes)


def betas_assets(space: Space) -> list[dg.AssetsDefinition]:
    """Assets of a space's betas: as NSD has them, and on fsaverage5."""
    raw, surface = betas_step(space), surface_step(space)
    operators = dg.AssetDep(Operator.name, partition_mapping=partitions.subject_spaces_to_sessions)
    upstream = [operators] if space in OPERATOR_SPACES else []

    @step_asset(raw, group_name="raw", kinds={"s3"}, deps=[Design.name, *upstream])
    def fetched(
        context: dg.AssetExecutionContext, source: SourceResource, store: StoreResource
    ) -> None:
        """Single-trial betas of a session in another space, for the experiments that name it."""
        config = BetasConfig(space=space)
        materialize(context, raw(store.open(), source.open(), config))

    @step_asset(surface, group_name="surface", kinds={"zarr"}, deps=[raw.name, *upstream])
    def projected(context: dg.AssetExecutionContext, store: StoreResource) -> None:
        """A session's betas on fsaverage5, from another space: as `fsaverage5_betas`."""
        materialize(context, surface(store.open(), SurfaceConfig(space=space)))

    return [fetched, projected]
