"""Betas of other spaces than fsaverage, for the experiments that name one.

Such a space has stages of its own beside the default's, ``betas_<space>`` and
``fsaverage5_betas_<space>``, in folders of their own: experiments with different spaces overwrite
nothing of each other. Tables of events are shared, and so are images: what was shown when does not
depend on the space.
"""

from collections.abc import Iterable
from functools import cache
from typing import cast

from nsd_pipeline import folders
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.nsd.layout import DEFAULT_SPACE, Space
from nsd_pipeline.steps.raw import Betas, BetasConfig
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
    attributes = {
        "name": f"{Betas.name}_{space}",
        "config": BetasConfig(space=space),
        "set_in_runs": None,
        "optional": True,
        "__doc__": f"Single-trial betas of a session in {space}, for the experiments that name it.",
    }
    return type("BetasOfSpace", (Betas,), attributes)


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
        "config": SurfaceConfig(space=space),
        "set_in_runs": None,
        "optional": True,
        "__doc__": f"A session's betas on fsaverage5, from {space}: as `{SurfaceBetas.name}`.",
    }
    return type("SurfaceBetasOfSpace", (SurfaceBetas,), attributes)
