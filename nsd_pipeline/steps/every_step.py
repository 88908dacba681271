"""Every step, in the order of the graph."""

from collections.abc import Mapping

from nsd_pipeline.experiments import chosen_file, read_experiments
from nsd_pipeline.steps.ceiling import Ceiling
from nsd_pipeline.steps.events import Events, FsaverageEvents
from nsd_pipeline.steps.images import Stimuli
from nsd_pipeline.steps.measurement import Metrics, metrics_steps
from nsd_pipeline.steps.operators import Operator
from nsd_pipeline.steps.raw import Betas, Design
from nsd_pipeline.steps.report import report_step
from nsd_pipeline.steps.series_files import SeriesEvents, SeriesFiles
from nsd_pipeline.steps.series_surface import Series
from nsd_pipeline.steps.spaces import betas_step, other_spaces, surface_step
from nsd_pipeline.steps.step import Step
from nsd_pipeline.steps.surface import SurfaceBetas


def every_step(experiments: Mapping[str, type[Metrics]]) -> list[type[Step]]:
    """Every step, with those of some experiments, by the steps of their metrics."""
    metrics = list(experiments.values())
    spaces = other_spaces(each.model.experiment.training for each in metrics)
    return [
        Design,
        Betas,
        Events,
        FsaverageEvents,
        Operator,
        SurfaceBetas,
        *(step for space in spaces for step in (betas_step(space), surface_step(space))),
        Ceiling,
        SeriesFiles,
        SeriesEvents,
        Series,
        Stimuli,
        *{each.model.targets.name: each.model.targets for each in metrics}.values(),
        *(step for each in metrics for step in (each.model, each)),
        report_step(metrics),
    ]


def known_steps() -> list[type[Step]]:
    """Every step, with those of the experiments that are in force: see `chosen_file`."""
    return every_step(metrics_steps(read_experiments(chosen_file())))
