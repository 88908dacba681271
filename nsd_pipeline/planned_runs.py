"""The graph as a sequence of runs in this process: what no single asset job can be.

An asset job's assets share one kind of partition, and the way from sessions to a model crosses
three. So the job ``subject``, ``nsd run`` and the demo start one run after the other, each recorded
as a run of its own.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from nsd_pipeline import partitions
from nsd_pipeline.checks import AtChance
from nsd_pipeline.dagster_private import range_tags
from nsd_pipeline.decoding.cohort import sessions_with
from nsd_pipeline.nsd.layout import OPERATOR_SPACES, Space, parse_session_key
from nsd_pipeline.steps.events import FsaverageEvents
from nsd_pipeline.steps.forecast import Wanted
from nsd_pipeline.steps.measurement import Metrics, RetrievalMetrics
from nsd_pipeline.steps.operators import Operator
from nsd_pipeline.steps.running import in_words
from nsd_pipeline.steps.series_files import BoldConfig
from nsd_pipeline.steps.series_surface import SeriesConfig
from nsd_pipeline.steps.sessions import Preparation, look_at_sessions
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store


@dataclass(frozen=True)
class PlannedRun:
    """One run: some assets (by name), for a partition or a range of them, both ends included.

    Assets without partitions have an empty `first` and `last`.
    """

    assets: tuple[str, ...]
    first: str = ""
    last: str = ""

    @property
    def title(self) -> str:
        """What the run does, in a line."""
        span = " ... ".join(dict.fromkeys(part for part in (self.first, self.last) if part))
        return f"{', '.join(self.assets)}{f'  [{span}]' if span else ''}"

    def run_config(self, settings: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
        """Configuration of the run: settings of its assets, by their names; others are left out."""
        return {
            "ops": {
                asset: {"config": dict(of_asset)}
                for asset, of_asset in (settings or {}).items()
                if asset in self.assets
            },
            # Whatever goes wrong is told by whoever called; the stack trace is in the history.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }


DESIGN = PlannedRun(("experiment_design",))
REPORT = PlannedRun(("decoding_report",))


def operators(sessions: Iterable[str], space: Space | None) -> Iterator[PlannedRun]:
    """Runs that make what some sessions' fMRI in a space needs once a subject."""
    if space in OPERATOR_SPACES:
        for subject in dict.fromkeys(parse_session_key(session)[0] for session in sessions):
            partition = partitions.subject_space(subject, space)
            yield PlannedRun((Operator.name,), partition, partition)


def prepare(
    sessions: Sequence[str], prepared: Preparation, *, at_most: int
) -> Iterator[PlannedRun]:
    """Runs that prepare some sessions, given in order, each at most a number of them."""
    assets = tuple(step.name for step in prepared.steps)
    for first, last in partitions.ranges(sessions, at_most):
        yield PlannedRun(assets, first, last)


def embed(
    subjects: Iterable[str], experiments: Iterable[type[Metrics]] = (RetrievalMetrics,)
) -> Iterator[PlannedRun]:
    """Runs that embed what some subjects saw, by the encoders of some experiments."""
    targets = dict.fromkeys(each.model.targets.name for each in experiments)
    for stimulus_set in (partitions.SHARED, *subjects):
        yield PlannedRun(("stimuli", *targets), stimulus_set, stimulus_set)


def decode(
    cohorts: Sequence[str], experiments: Iterable[type[Metrics]] = (RetrievalMetrics,)
) -> Iterator[PlannedRun]:
    """Runs that train and measure models of some experiments, and the report of all there are."""
    for metrics in experiments:
        assert metrics.partitions is not None  # noqa: S101  # models are cut by cohort
        for cohort in cohorts:
            if cohort in metrics.partitions.get_partition_keys():
                yield PlannedRun((metrics.model.name, metrics.name), cohort, cohort)
    yield REPORT


def execute(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    planned: PlannedRun,
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterable[str]:
    """Do one run in this process, recorded in an instance as any other run.

    Returns what the assets say of their artifacts, each once: made, or up to date. Raises whatever
    ends the run.
    """
    keys = [dg.AssetKey(asset) for asset in planned.assets]
    job = repository.get_implicit_job_def_for_assets(keys)
    if job is None:
        raise ValueError(f"{planned.title}: these assets are not partitioned alike")
    span = range_tags(planned.first, planned.last) if planned.first else {}
    result = job.execute_in_process(
        run_config=planned.run_config(config),
        instance=instance,
        asset_selection=keys,
        tags={**span, **(tags or {})},
    )
    events = result.get_asset_materialization_events()
    return dict.fromkeys(str(each.materialization.metadata["status"].value) for each in events)


@dataclass(frozen=True)
class Stage:
    """Runs of one kind, by what people call them.

    Without `alone`, nothing comes after one that fails. `note` says what there is, in words.
    """

    name: str
    runs: Sequence[PlannedRun]
    alone: bool = False
    note: str = ""


def to_the_end(
    wanted: Wanted,
    source: Source,
    store: Store,
    *,
    preparations: Iterable[Preparation],
    bold: BoldConfig | None = None,
    series: SeriesConfig | None = None,
) -> Iterator[Stage]:
    """Everything from the design to the report, for what was asked for.

    Which sessions are left is looked up when the design has been made; `preparations` says what is
    prepared of them. Time series come from where `bold` says, and `series` says what is done to
    them: those that somebody made with other settings are then made again. With None, for the
    default settings, they are left alone.
    """
    yield Stage("experiment_design", [DESIGN])
    bold = bold or BoldConfig()
    for prepared in preparations:
        states = look_at_sessions(
            source, store, wanted.sessions, prepared.space, bold=bold, series=series
        )
        left = states.to_do
        if series is not None and prepared.space is None:
            left = sorted(left + states["left alone"])
        # Time series in a space of BIDS derivatives say themselves where they are.
        space = prepared.space or (None if bold.derivatives else bold.space)
        runs = [*operators(left, space), *prepare(left, prepared, at_most=1)]
        yield Stage(prepared.name, runs, alone=True, note=str(states))
    # Of a subject whom the source has not got, or all of whose sessions failed, there is nothing.
    folder = FsaverageEvents.folder()
    seen = [each for each in wanted.subjects if sessions_with(store, folder, [each])]
    yield Stage("images", [*embed(seen, wanted.experiments)] if seen else [])
    yield Stage("models", [*decode(wanted.cohorts, wanted.experiments)], alone=True)


@dataclass(frozen=True)
class Done:
    """A run that has ended.

    `said` is what its assets say of their artifacts; `problem`, in words, is why it failed, or that
    its models are at chance, else empty.
    """

    stage: Stage
    planned: PlannedRun
    seconds: float
    said: str
    problem: str
    failed: bool


def carry_out(stages: Iterable[Stage], do: Callable[[PlannedRun], Iterable[str]]) -> Iterator[Done]:
    """Do run after run, and yield each when it has ended, whatever became of it.

    `do` does one: `execute`, bound to where runs are recorded. A model at chance is made all the
    same, so what comes after it is done, such as the report that says so.
    """
    for stage in stages:
        for planned in stage.runs:
            started = time.perf_counter()
            said, problem, failed = "failed", "", True
            try:
                said, failed = "; ".join(do(planned)), False
            except AtChance as found:
                said, problem, failed = "made, but at chance", str(found.description), False
            except dg.Failure as failure:
                problem = str(failure.description)
            except Exception as error:  # whatever it is, of Dagster or of the machine
                problem = in_words(error)
            yield Done(stage, planned, time.perf_counter() - started, said, problem, failed)
            if failed and not stage.alone:
                return
