"""Every step, in the order of the graph, and how each is asked about its artifacts.

A step that is not here is shown by `nsd status` as its artifacts' manifests alone tell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nsd_pipeline import partitions
from nsd_pipeline.experiments import chosen_file, read_experiments
from nsd_pipeline.nsd.layout import Space
from nsd_pipeline.resources import GpuResource
from nsd_pipeline.steps.ceiling import Ceiling
from nsd_pipeline.steps.decoding import Model
from nsd_pipeline.steps.events import EventFilter, Events, FsaverageEvents
from nsd_pipeline.steps.images import Embeddings, Stimuli
from nsd_pipeline.steps.measurement import Metrics, metrics_steps
from nsd_pipeline.steps.operators import Operator, OperatorConfig
from nsd_pipeline.steps.raw import Betas, BetasConfig, Design
from nsd_pipeline.steps.report import Report
from nsd_pipeline.steps.series_files import SeriesEvents, SeriesFiles
from nsd_pipeline.steps.series_surface import Series, SeriesConfig
from nsd_pipeline.steps.spaces import betas_step, other_spaces, surface_step
from nsd_pipeline.steps.step import Step
from nsd_pipeline.steps.surface import SurfaceBetas, SurfaceConfig
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store

OpenSource = Callable[[], Source]


@dataclass(frozen=True)
class Stage:
    """A step, and how it is asked about its artifacts.

    `open` makes it, with its default settings, from a store and what opens the source; it is None
    if looking takes long: artifacts are judged by their manifests then, and `unseen` says what is
    not looked at. `settled` says of an artifact that its manifest is enough to judge it, where
    looking takes long. `asks_source` is whether looking needs the source, and `optional` whether
    the default way to a model goes without the step. It belongs to an experiment, or to all if that
    is empty.
    """

    step: type[Step]
    open: Callable[[Store, OpenSource], Step] | None
    asks_source: bool = False
    optional: bool = False
    settled: Callable[[Snapshot, Manifest], bool] | None = None
    unseen: str = ""
    experiment: str = ""

    @property
    def partitions(self) -> list[str]:
        """Partitions that it can have artifacts of."""
        cut = self.step.partitions
        return list(cut.get_partition_keys()) if cut else [""]


def _nothing_newer(snapshot: Snapshot, stimuli: Manifest) -> bool:
    """Whether no session's events came after the images were collected: there are no new ones."""
    subjects = partitions.subjects_of_stimulus_set(str(stimuli.partition))
    return all(
        isinstance(found := snapshot.found[key], Manifest) and found.created < stimuli.created
        for subject in subjects
        for key in snapshot.keys(f"{FsaverageEvents.folder()}/{subject}/")
    )


def every_stage(experiments: Mapping[str, type[Metrics]]) -> tuple[Stage, ...]:
    """Every step, in the order of the graph, with those of experiments by their names."""
    encoders = dict.fromkeys(each.model.targets for each in experiments.values())
    spaces = other_spaces(each.model.experiment.training for each in experiments.values())
    unseen = "the weights and settings of image encoders"
    return (
        Stage(Design, lambda store, source: Design(store, source()), asks_source=True),
        Stage(Betas, lambda store, source: Betas(store, source(), BetasConfig()), asks_source=True),
        Stage(Events, lambda store, source: Events(store, source()), asks_source=True),
        Stage(FsaverageEvents, lambda store, _: FsaverageEvents(store, EventFilter())),
        Stage(
            Operator,
            lambda store, source: Operator(store, source(), OperatorConfig()),
            asks_source=True,
            optional=True,
        ),
        Stage(SurfaceBetas, lambda store, _: SurfaceBetas(store, SurfaceConfig())),
        *(stage for space in spaces for stage in _betas_in(space)),
        Stage(Ceiling, Ceiling, asks_source=True, optional=True),
        Stage(SeriesFiles, None, optional=True, unseen="the files of time series"),
        Stage(SeriesEvents, lambda store, _: SeriesEvents(store), optional=True),
        Stage(
            Series, lambda store, _: Series(store, SeriesConfig(), lambda _: None), optional=True
        ),
        Stage(
            Stimuli,
            lambda store, source: Stimuli(store, source()),
            asks_source=True,
            settled=_nothing_newer,
            unseen="the stimulus file, unless there are newer events",
        ),
        *(Stage(each, None, unseen=unseen, optional=each is not Embeddings) for each in encoders),
        *(
            stage
            for metrics in experiments.values()
            for stage in (models_of(metrics.model), metrics_of(metrics))
        ),
        Stage(Report, lambda store, _: Report(store, experiments)),
    )


def known_stages() -> tuple[Stage, ...]:
    """Every step, with those of the experiments that are in force: see `chosen_file`."""
    return every_stage(metrics_steps(read_experiments(chosen_file())))


def _betas_in(space: Space) -> tuple[Stage, Stage]:
    """Stages of the betas of another space, which only some experiments need."""
    raw, surface = betas_step(space), surface_step(space)
    return (
        Stage(
            raw,
            lambda store, source: raw(store, source(), BetasConfig(space=space)),
            asks_source=True,
            optional=True,
        ),
        Stage(surface, lambda store, _: surface(store, SurfaceConfig()), optional=True),
    )


def models_of(step: type[Model]) -> Stage:
    """Stage of an experiment's models."""
    training = step.experiment.training

    def make(store: Store, source: OpenSource) -> Step:
        return step(store, source, training, GpuResource(), lambda _: None)

    # A region's label files are on the source.
    return Stage(
        step,
        make,
        asks_source=training.region is not None,
        optional=not step.experiment.is_default,
        experiment=step.experiment.name,
    )


def metrics_of(step: type[Metrics]) -> Stage:
    """Stage of an experiment's metrics."""
    return Stage(
        step,
        lambda store, source: step(store, source, GpuResource()),
        optional=not step.model.experiment.is_default,
        experiment=step.model.experiment.name,
    )
