"""From brain to image: models of a cohort, one for each seed of an experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import dagster as dg
import numpy as np

from nsd_pipeline import folders, partitions, report
from nsd_pipeline.automation import carry_on_after
from nsd_pipeline.decoding.choice import (
    LEARNED,
    LEARNED_BEFORE,
    choose_trials,
    learned_from,
    subjects_involved,
)
from nsd_pipeline.decoding.cohort import Cohort, read_trials, sessions_with
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.processes import (
    HISTORY_FILE,
    TRIALS_FILE,
    VERTICES_FILE,
    TrainingPlan,
    train_model,
)
from nsd_pipeline.decoding.rows import Integers
from nsd_pipeline.embeddings import describe_encoder
from nsd_pipeline.errors import NotEnoughDataError, NsdError, Remake
from nsd_pipeline.events import assign_validation, check_split
from nsd_pipeline.experiments import DEFAULT, Experiment
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.nsd.layout import N_SESSIONS, SUBJECTS, parse_session_key, session_key
from nsd_pipeline.nsd.small_files import LabelFiles, find_labels
from nsd_pipeline.steps.events import FsaverageEvents
from nsd_pipeline.steps.images import Embeddings, embeddings_step
from nsd_pipeline.steps.running import step_asset, write_figure
from nsd_pipeline.steps.series_files import SeriesEvents
from nsd_pipeline.steps.series_surface import Series
from nsd_pipeline.steps.spaces import space_of, surface_step
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store, fingerprint
from nsd_pipeline.surface import read_roi

if TYPE_CHECKING:
    import pandas as pd


class FmriSteps(NamedTuple):
    """What a model takes its fMRI and its trials from, and what messages call it."""

    fmri: type[Step]
    events: type[Step]
    what: str

    @classmethod
    def of(cls, training: TrainingConfig) -> "FmriSteps":
        """Steps by the preset and, of betas, by the space."""
        if (space := space_of(training)) is None:
            return cls(Series, SeriesEvents, "time series")
        return cls(surface_step(space), FsaverageEvents, "betas")


_NUMBERS: Final = {
    "mean (%)": "mean of all vertices (percent signal change)",
    "deviation (%)": "median standard deviation (percent signal change)",
    "valid vertices": "valid_share",
}
"""What is drawn of each session of betas: axes, and the numbers' names in the metadata."""


class FmriMlpConfig(TrainingConfig, dg.Config):
    """How the default experiment's models are trained: the reference's settings, unless changed."""


class Model(Step):
    """Trained models of one experiment: for each cohort, one for each seed.

    They estimate the embeddings of the step `targets`, and begin with weights of the step
    `starts_from`, if any.
    """

    code_version = "2"
    partitions = partitions.cohorts
    config: TrainingConfig
    experiment: ClassVar[Experiment]
    targets: ClassVar[type[Embeddings]] = Embeddings
    starts_from: "ClassVar[type[Model] | None]" = None

    def __init__(self, tools: Tools, config: TrainingConfig | None = None) -> None:
        super().__init__(tools, config)
        # The source is opened for NSD's own regions only: a path needs no bucket, and no terms.
        region = self.config.region
        self._labels = find_labels(lambda: self.source, region) if region else None
        self._cohorts: dict[str, Cohort] = {}

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        experiment = cls.experiment
        fmri, events, _ = FmriSteps.of(experiment.training)
        if experiment.training.train_on != "own":
            sessions = partitions.sessions_to_every_subject
            sets = partitions.stimulus_sets_to_every_subject
        elif cls.partitions is partitions.cohorts:
            sessions, sets = partitions.sessions_to_cohorts, partitions.stimulus_sets_to_cohorts
        else:
            sessions, sets = partitions.sessions_to_subjects, partitions.stimulus_sets_to_subjects
        deps = [
            dg.AssetDep(fmri.name, partition_mapping=sessions),
            dg.AssetDep(events.name, partition_mapping=sessions),
            dg.AssetDep(cls.targets.name, partition_mapping=sets),
        ]
        if (begun := cls.starts_from) is not None:
            alike = begun.partitions is cls.partitions
            mapping = None if alike else partitions.cohorts_to_subjects
            deps.append(dg.AssetDep(begun.name, partition_mapping=mapping))
        return step_asset(
            cls,
            ranged=False,
            group_name=group_of(experiment),
            kinds={"pytorch"},
            deps=deps,
            pool=GPU_POOL,
            automation_condition=carry_on_after(cls.targets.name, fmri.name),
            description=f"{experiment.description}\n\n{_ABOUT}".strip(),
        )

    def plan(self, partition: str) -> Plan:
        config = self.config
        if ":" in config.model and config.model != self.experiment.training.model:
            raise NsdError(
                f"{self.name} cannot have a class of your own ({config.model}).",
                next_step="write an experiment with it: only its file says which code is run.",
            )
        fmri, _, what = steps = self.fmri_steps(config)
        own = partitions.subjects_of_cohort(partition)
        sessions = sessions_with(self.store, fmri.folder(), subjects_involved(own, config))
        if not any(session.startswith(own) for session in sessions):
            raise NotEnoughDataError(
                f"No session of {' or '.join(own)} has {what} on fsaverage5 in {self.store.url}.",
                next_step=f"make {fmri.name} of a session, and what it needs (`nsd plan"
                f" {partition}` says what is on the source), or choose another preset.",
                remake=Remake(fmri.name, session_key(own[0], 1)),
            )
        cohort = collect_cohort(self.store, partition, steps, sessions, self.targets)
        cohort.require_space(config.space)
        self._cohorts[partition] = cohort
        inputs = {**cohort.inputs, **(self._labels.versions if self._labels else {})}
        found: dict[str, list[str]] = {}
        if self.starts_from:
            begun = self.starts_from.made(self.store, partition)
            inputs[begun.key] = begun.fingerprint
            before = {*learned_from(begun), *begun.config.get(LEARNED_BEFORE, ())}
            # No version of the code, which a figure's models have in common: one that did not know
            # what was learned before held it out.
            found[LEARNED_BEFORE] = sorted(before)
        return Plan(inputs=inputs, settings=config.decisive(), found=found)

    @classmethod
    def fmri_steps(cls, config: TrainingConfig) -> FmriSteps:
        """Steps that its models' fMRI and trials come from.

        A run of the default may have another preset, but its space is the experiment's: that of a
        run's `config` only says what the fMRI has to be.
        """
        space = cls.experiment.training.space
        return FmriSteps.of(config.model_copy(update={"space": space}))

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        import pandas as pd

        config, cohort = self.config, self._cohorts[partition]
        own = partitions.subjects_of_cohort(partition)
        trials, left_out = read_trials(self.store, cohort, config)
        before = self._learned_before(partition)
        trials = assign_validation(
            choose_trials(trials, own, config, before),
            by=config.validation_by,
            ratio=config.validation_ratio,
            seed=config.data_seed,
        )
        check_split(trials)
        # What is learned again is told as learned now.
        known = pd.concat([trials, before]).drop_duplicates(["subject", "session", "trial"])
        known.to_parquet(draft.folder / TRIALS_FILE, index=False)
        if self._labels:
            np.save(draft.folder / VERTICES_FILE, _region(self._labels, config))
        trained = train_model(
            TrainingPlan(
                store_url=self.store.url,
                cohort=cohort,
                config=config,
                folder=draft.folder,
                start_from=(
                    self.store.folder(self.starts_from.key(partition)) if self.starts_from else None
                ),
                checkpoints=self.store.scratch(self.key(partition)),
                recipe=fingerprint(self.key(partition), "", plan.config, dict(plan.inputs)),
            ),
            self.store,
            self.tools.gpu.lease,
            self._log_epoch,
        )
        if config.model != "ridge":  # which has no epochs
            history = pd.read_parquet(draft.folder / HISTORY_FILE)
            curves = report.training_curves(
                history, batch_size=config.batch_size, monitor=config.monitor
            )
            write_figure(draft, "training_curves", curves)
        if not config.windowed:  # whose runs are z-scored
            write_figure(draft, "sessions", self._draw_sessions(cohort))
        learned = trials[trials["split"].isin(["train", "val"])]
        return {
            "experiment": self.experiment.name,
            "decoder": config.model,
            "image encoder": describe_encoder(cohort.encoder),
            "preset": config.preset,
            "space": cohort.space,
            "sessions": cohort.sessions,
            "sessions at hand": f"{len(cohort.sessions)} of {_in_nsd(cohort.sessions)}",
            "sessions learned from": _sessions_of(learned),
            "encoder": dict(cohort.encoder),
            "trials": {str(k): int(v) for k, v in trials["split"].value_counts().items()},
            **left_out,
            **trained,
        }

    def _learned_before(self, partition: str) -> "pd.DataFrame | None":
        """Trials that the weights which a training begins with were learned from, if any."""
        import pandas as pd

        if self.starts_from is None:
            return None
        trials = pd.read_parquet(self.store.folder(self.starts_from.key(partition)) / TRIALS_FILE)
        return trials[trials["split"].isin(LEARNED)].assign(split=LEARNED_BEFORE)

    def _draw_sessions(self, cohort: Cohort) -> report.Picture:
        """Draw what is known of each session: the UI's own plot shows the last 120 of NSD's 284."""
        import pandas as pd

        made = self.store.at_once(self.store.manifest, list(cohort.fmri.values()))
        rows = [
            {
                "subject": (of := parse_session_key(session))[0],
                "session": of[1],
                **{axis: found.metadata.get(name, np.nan) for axis, name in _NUMBERS.items()},
            }
            for session, found in zip(cohort.fmri, made, strict=True)
            if found
        ]
        return report.session_numbers(pd.DataFrame(rows))

    def _log_epoch(self, epoch: Mapping[str, float]) -> None:
        self.tools.log(
            f"seed {epoch['seed']:.0f}, epoch {epoch['epoch']:.0f}: train loss"
            f" {epoch['train/loss']:.3f}, val loss {epoch['val/loss']:.3f}, val top-5 of a batch"
            f" {epoch['val/batch_top5_acc']:.1%} ({epoch['seconds']:.1f} s)"
        )


class FmriMlp(Model):
    """The default experiment's models, whose settings can be changed for a run."""

    name = folders.model_folder(DEFAULT)
    config = FmriMlpConfig()
    set_in_runs = FmriMlpConfig
    experiment = Experiment(name=DEFAULT)
    experiment_name = DEFAULT


def model_step(experiment: Experiment, starts_from: type[Model] | None = None) -> type[Model]:
    """Step of an experiment's models, whose artifacts lie in a folder of the experiment's own.

    `starts_from` is the step of the models whose weights they begin with, if any.
    """
    if experiment.is_default:
        return FmriMlp
    # Others teach a model of one subject, not one of all; nor is there one of all to begin with.
    of_subjects = experiment.training.train_on != "own" or (
        starts_from is not None and starts_from.partitions is partitions.subjects
    )
    return type(
        "ExperimentModel",
        (Model,),
        {
            "name": f"{experiment.identifier}_model",
            "location": folders.model_folder(experiment.name),
            "config": experiment.training,
            "asks_source": experiment.training.region is not None,  # whose label files it has
            "optional": True,
            "experiment": experiment,
            "experiment_name": experiment.name,
            "targets": embeddings_step(experiment.encoder),
            "starts_from": starts_from,
            "partitions": partitions.subjects if of_subjects else partitions.cohorts,
        },
    )


def _region(labels: LabelFiles, config: TrainingConfig) -> Integers:
    """Vertices (V,) of the region that a model is restricted to, by their numbers."""
    with TemporaryDirectory() as folder:
        paths = labels.copy(Path(folder))
        inside = read_roi(paths, above=config.region_above, up_to=config.region_up_to)
    return np.flatnonzero(inside)


def _in_nsd(sessions: Sequence[str]) -> int:
    """How many sessions NSD has of the subjects of some sessions."""
    return sum(N_SESSIONS[subject] for subject in {parse_session_key(key)[0] for key in sessions})


def _sessions_of(trials: "pd.DataFrame") -> list[str]:
    pairs = trials[["subject", "session"]].drop_duplicates()
    return [session_key(*each) for each in pairs.itertuples(index=False)]


def collect_cohort(
    store: Store,
    name: str,
    steps: FmriSteps,
    sessions: Sequence[str],
    targets: type[Embeddings],
) -> Cohort:
    """Collect what a model of some sessions is made from.

    An ArtifactError if embeddings of its images are missing, or were made by different encoders, or
    there is fMRI without its events.
    """
    seen = [name for name in SUBJECTS if any(each.startswith(name) for each in sessions)]

    def made(step: type[Step], keys: Sequence[str]) -> dict[str, Manifest]:
        found = store.at_once(lambda partition: step.made(store, partition), keys)
        return dict(zip(keys, found, strict=True))

    return Cohort.of(
        name,
        fmri=made(steps.fmri, sessions),
        events=made(steps.events, sessions),
        embeddings=made(targets, [partitions.SHARED, *seen]),
    )


_ABOUT: Final = (
    "The models: from a trial's fMRI to the embedding of the image that was seen. One for each"
    " seed. The shared images are kept for the test. A training that is interrupted goes on where"
    " it was."
)


def group_of(experiment: Experiment) -> str:
    """Group of the web UI that an experiment's assets are in."""
    return "decoding" if experiment.is_default else experiment.identifier
