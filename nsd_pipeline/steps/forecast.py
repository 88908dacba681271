"""What it takes to make what is missing: bytes, requests, disk, memory and time, before it starts.

Time and size are those of the newest artifacts of the store, for each session, image or trial; of
a step that the store has none of, they are `DEFAULTS`. How many there are of each is counted, from
the design and the manifests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from nsd_pipeline import partitions
from nsd_pipeline.decoding.choice import subjects_involved
from nsd_pipeline.errors import ArtifactError, NotEnoughDataError, NsdError
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import ExperimentDesign
from nsd_pipeline.steps.decoding import FmriMlp
from nsd_pipeline.steps.events import Events, FsaverageEvents
from nsd_pipeline.steps.images import Embeddings, Stimuli
from nsd_pipeline.steps.measurement import Metrics, RetrievalMetrics
from nsd_pipeline.steps.raw import Betas, Design
from nsd_pipeline.steps.report import Report
from nsd_pipeline.steps.series_files import SeriesEvents, SeriesFiles
from nsd_pipeline.steps.series_surface import Series
from nsd_pipeline.steps.sessions import BETAS_STEPS, Preparation, SessionStates
from nsd_pipeline.steps.spaces import space_of, surface_step
from nsd_pipeline.steps.step import SECONDS, Step, Tools
from nsd_pipeline.steps.surface import SurfaceBetas
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.transfer import BLOCK

_IMAGE_BYTES: Final = int(np.prod(layout.IMAGE_SHAPE))
_FRAME_BYTES: Final = layout.FSAVERAGE5_VERTICES * 4
_NEWEST: Final = 10
"""Artifacts that a rate is the median of: those made last, by the machine that is used now."""
DEFAULT_BYTES_A_SECOND: Final = 12.5e6
"""From a bucket, where nothing was measured: a line of 100 Mbit/s."""


@dataclass(frozen=True)
class Rate:
    """What one unit (a session, an image, a trial) takes: seconds, and bytes on disk."""

    seconds: float
    disk_bytes: float


DEFAULTS: Final[Mapping[type[Step], Rate]] = {
    Design: Rate(5, 12e6),
    Betas: Rate(0.1, 0),
    Events: Rate(0.5, 30e3),
    FsaverageEvents: Rate(0.2, 30e3),
    SurfaceBetas: Rate(1, 61.5e6),
    SeriesFiles: Rate(0.5, 0),
    SeriesEvents: Rate(0.5, 30e3),
    Series: Rate(12, 208e6),
    Stimuli: Rate(1e-3, 0),
    Embeddings: Rate(1.8, 6200),
    FmriMlp: Rate(0.02, 1000),
    RetrievalMetrics: Rate(1e-2, 1500),
    Report: Rate(10, 3e6),
}
"""On two CPU cores with DINOv2-giant (docs/benchmarks.md), beside what fetching takes. A GPU embeds
some hundred times as fast."""
MEMORY: Final[Mapping[type[Step], float]] = {
    Embeddings: 4e9,
    FmriMlp: 2e9,
    RetrievalMetrics: 2e9,
}
"""Bytes in memory, beside the betas of a model: what tests allow (docs/performance.md)."""
_LEAST_MEMORY: Final = 1e9
_ROWS_OF_WINDOW: Final = 3.5
"""Rows of a trial where windows share those that overlap: NSD is 59 GB of them, 17 GB of betas."""


@dataclass(frozen=True)
class Forecast:
    """What one step still has to make of what was asked for, and what that takes.

    `basis` says where time and size come from: so many artifacts of this store, or the defaults.
    """

    step: str
    artifacts: int
    fetched_bytes: int
    requests: int
    disk_bytes: int
    memory_bytes: int
    seconds: float
    basis: str


@dataclass(frozen=True)
class Wanted:
    """What was asked for: sessions by their keys, cohorts, and experiments."""

    sessions: Sequence[str]
    cohorts: Sequence[str]
    experiments: Sequence[type[Metrics]]

    def __post_init__(self) -> None:
        """Refuse an experiment that has a model of none of the cohorts: it would be passed over."""
        for each in self.experiments:
            if not {*self.cohorts} & {*each.partition_keys()}:
                raise NsdError(
                    f"The experiment {each.model.experiment.name} has a model of each subject, and"
                    f" none of {', '.join(self.cohorts)}.",
                    next_step="name subjects.",
                )

    @property
    def preparations(self) -> list[Preparation]:
        """What is prepared of the sessions."""
        return Preparation.for_all(each.model.experiment.training for each in self.experiments)

    @property
    def subjects(self) -> list[str]:
        """Whose sessions are asked for."""
        return list(dict.fromkeys(layout.parse_session_key(each)[0] for each in self.sessions))


class Looked(NamedTuple):
    """How the sessions stand for some experiments: `look_at_sessions`.

    `session_bytes` is what a session takes to fetch where whole files are: time series, and betas
    in another space than fsaverage.
    """

    prepared: Preparation
    states: SessionStates
    session_bytes: int


def forecast(
    snapshot: Snapshot,
    design: ExperimentDesign,
    wanted: Wanted,
    looked: Sequence[Looked],
    open_source: Callable[[], Source],
) -> list[Forecast]:
    """Say what is left to make of what was asked for, step by step, and what it takes.

    ``looked`` is all that has to be prepared of the sessions. A source that is a mirror is read
    where it lies, so that nothing is fetched.
    """
    in_place = open_source().local_path(layout.EXPDESIGN_KEY) is not None
    count = _Counting(snapshot, design, open_source, in_place)
    found = []
    if snapshot.find(Design.key()) is None:
        found.append(count.of(Design, 1, 1))
    counted: set[str] = set()
    for prepared, states, session_bytes in looked:
        likes = BETAS_STEPS if prepared.space else prepared.steps
        for like, step in zip(likes, prepared.steps, strict=True):
            # What is stale is taken for stale as a whole.
            left = [
                key
                for key in states.to_do
                if key in states["stale"]
                or not isinstance(snapshot.found.get(step.key(key)), Manifest)
            ]
            # Events are the same for all spaces.
            left = [key for key in left if step.key(key) not in counted]
            counted.update(map(step.key, left))
            n_bytes = requests = 0
            if like is Betas and not in_place and prepared.space == layout.DEFAULT_SPACE:
                sessions = (layout.parse_session_key(key)[1] for key in left)
                requests = 2 * sum(map(design.n_trials, sessions))
                n_bytes = requests * _FRAME_BYTES
            elif like in (Betas, SeriesFiles) and not in_place:
                n_bytes = len(left) * session_bytes
                requests = ceil(n_bytes / BLOCK)
            if left:
                found.append(count.of(step, len(left), len(left), n_bytes, requests, like=like))
    to_do = {each.prepared.space: each.states.to_do for each in looked}
    found += count.images(wanted, sorted({key for keys in to_do.values() for key in keys}))
    found += count.models(wanted, to_do)
    return found


class _Counting:
    """Counts what is to be made, and multiplies it with what one of it takes."""

    def __init__(
        self,
        snapshot: Snapshot,
        design: ExperimentDesign,
        open_source: Callable[[], Source],
        in_place: bool,
    ) -> None:
        self._snapshot, self._design = snapshot, design
        self._open_source, self._in_place = open_source, in_place

    def of(
        self,
        step: type[Step],
        artifacts: int,
        units: float,
        fetched_bytes: int = 0,
        requests: int = 0,
        *,
        held_bytes: float = 0,
        like: type[Step] | None = None,
    ) -> Forecast:
        """What some artifacts of a step take; `held_bytes` come on top of its memory."""
        rate, n_measured = self._rate(step)
        fetching = 0.0
        if not n_measured:
            rate = DEFAULTS[like or step]
            fetching = fetched_bytes / DEFAULT_BYTES_A_SECOND
        return Forecast(
            step=step.name,
            artifacts=artifacts,
            fetched_bytes=fetched_bytes,
            requests=requests,
            disk_bytes=round(max(rate.disk_bytes * units, fetched_bytes)),
            memory_bytes=round(MEMORY.get(like or step, _LEAST_MEMORY) + held_bytes),
            seconds=rate.seconds * units + fetching,
            basis=f"{n_measured} made here" if n_measured else "defaults",
        )

    def _rate(self, step: type[Step]) -> tuple[Rate, int]:
        """What a unit took in the newest artifacts, and how many these are."""
        made = [
            (found, units)
            for key in self._snapshot.keys(step.folder())
            if isinstance(found := self._snapshot.found[key], Manifest)
            and found.asset == step.name
            and SECONDS in found.metadata
            and found.config.get("in_place", self._in_place) == self._in_place
            and (units := _units(step, found)) > 0
        ]
        newest = sorted(made, key=lambda each: each[0].created)[-_NEWEST:]
        if not newest:
            return Rate(0, 0), 0
        seconds = median(float(each.metadata[SECONDS]) / units for each, units in newest)
        n_bytes = median(each.n_bytes / units for each, units in newest)
        return Rate(seconds, n_bytes), len(newest)

    def images(self, wanted: Wanted, to_do: Sequence[str]) -> list[Forecast]:
        """Fetching and embedding the images that no session showed before."""
        new, sets = self._new_images(Stimuli, wanted, to_do)
        n_bytes = 0 if self._in_place else new * _IMAGE_BYTES
        found = []
        if sets:
            requests = 0 if self._in_place else new
            found.append(self.of(Stimuli, sets, new, n_bytes, requests))
        for step in dict.fromkeys(each.model.targets for each in wanted.experiments):
            new, sets = self._new_images(step, wanted, to_do)
            if sets:
                found.append(self.of(step, sets, new, like=Embeddings))
        return found

    def _new_images(
        self, step: type[Step], wanted: Wanted, to_do: Sequence[str]
    ) -> tuple[int, int]:
        """Images that a step has not got yet, and stimulus sets that they are of."""
        new = sets = 0
        for stimulus_set in (partitions.SHARED, *wanted.subjects):
            made = self._snapshot.recorded.get(step.key(stimulus_set))
            there = int(made.metadata.get("images", 0)) if made else 0
            needed = self._images_of(stimulus_set, wanted, to_do)
            if needed > there:
                new, sets = new + needed - there, sets + 1
        return new, sets

    def _images_of(self, stimulus_set: str, wanted: Wanted, to_do: Sequence[str]) -> int:
        """Images of a stimulus set that the sessions show which are there, or will be."""
        shared = stimulus_set == partitions.SHARED
        subjects = layout.SUBJECTS if shared else (stimulus_set,)
        sessions = [each for each in self._at_hand(to_do) if each.startswith(tuple(subjects))]
        shown = set()
        for session in sessions:
            trials = self._design.trials(*layout.parse_session_key(session))
            shown.update(trials.loc[trials["shared"] == shared, "image_id"].tolist())
        return len(shown)

    def _at_hand(self, to_do: Sequence[str], step: type[Step] = FsaverageEvents) -> list[str]:
        """Sessions that have a step's artifact, or will have it."""
        start = f"{step.folder()}/"
        there = {key.removeprefix(start).replace("/", "_") for key in self._snapshot.keys(start)}
        return sorted(there.union(to_do) & set(partitions.SESSIONS))

    def models(
        self, wanted: Wanted, sessions_to_do: Mapping[layout.Space | None, Sequence[str]]
    ) -> list[Forecast]:
        """Training and measuring what has not been, or would not be made again just so."""
        found, any_new = [], False
        for metrics in wanted.experiments:
            training = metrics.model.experiment.training
            space = space_of(training)
            to_do = sessions_to_do[space]
            fmri = surface_step(space) if space else Series
            own = {
                cohort: partitions.subjects_of_cohort(cohort)
                for cohort in wanted.cohorts
                if cohort in metrics.partition_keys()
            }
            involved = {each: subjects_involved(own[each], training) for each in own}
            cohorts = [
                cohort
                for cohort in own
                if self._trials_of(own[cohort], to_do, fmri)
                and self._is_new(metrics, cohort, involved[cohort], to_do)
            ]
            if not cohorts:
                continue
            any_new = True
            n_trials = [self._trials_of(involved[cohort], to_do, fmri) for cohort in cohorts]
            tested = sum(
                self._trials_of(own[cohort], to_do, fmri, tested=True) for cohort in cohorts
            )
            rows = 1 if space else _ROWS_OF_WINDOW
            held = max(n_trials) * 2 * rows * _FRAME_BYTES
            units = sum(n_trials) * len(training.seeds)
            found.append(self.of(metrics.model, len(cohorts), units, held_bytes=held, like=FmriMlp))
            found.append(self.of(metrics, len(cohorts), tested, like=RetrievalMetrics))
        if any_new:
            found.append(self.of(Report, 1, 1))
        return found

    def _is_new(
        self,
        metrics: type[Metrics],
        cohort: str,
        subjects: tuple[str, ...],
        to_do: Sequence[str],
    ) -> bool:
        more = any(each.startswith(subjects) for each in to_do)
        return more or any(self._would_change(step, cohort) for step in (metrics.model, metrics))

    def _would_change(self, step: type[Step], cohort: str) -> bool:
        try:
            opened = step(Tools(self._snapshot, self._open_source))
            return opened.look(cohort).change is not None
        # Something that it is made from is not there yet.
        except (ArtifactError, NotEnoughDataError):
            return True

    def _trials_of(
        self,
        subjects: tuple[str, ...],
        to_do: Sequence[str],
        fmri: type[Step],
        *,
        tested: bool = False,
    ) -> int:
        """Trials of the sessions that are there or will be, or those of shared images only."""
        sessions = [
            layout.parse_session_key(each)
            for each in self._at_hand(to_do, fmri)
            if each.startswith(subjects)
        ]
        if tested:
            return sum(int(self._design.trials(*each)["shared"].sum()) for each in sessions)
        return sum(self._design.n_trials(session) for _, session in sessions)


def _units(step: type[Step], made: Manifest) -> float:
    """How many units an artifact has: of images, trials, or one."""
    if issubclass(step, Embeddings):
        return float(made.metadata.get("images embedded now", 0))
    if issubclass(step, Stimuli):
        return float(made.metadata.get("images", 0))
    trials = made.metadata.get("trials")
    if isinstance(trials, dict):  # a model's, by their split
        return float(sum(trials.values())) * len(made.config.get("seeds", [0]))
    if issubclass(step, Metrics):
        return float(made.metadata.get("test trials", 0))
    return 1.0
