"""The graph as a sequence of runs in this process: what no single asset job can be.

An asset job's assets share one kind of partition, and the way from sessions to a model crosses
three. So the job ``subject`` and the demo start one run after the other, each recorded as a run of
its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from nsd_pipeline import partitions
from nsd_pipeline.dagster_private import range_tags
from nsd_pipeline.nsd.layout import OPERATOR_SPACES, Space, parse_session_key
from nsd_pipeline.steps.measurement import Metrics, RetrievalMetrics
from nsd_pipeline.steps.operators import Operator
from nsd_pipeline.steps.sessions import Preparation


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


DESIGN = PlannedRun(("experiment_design",))
REPORT = PlannedRun(("decoding_report",))


def operators(sessions: Iterable[str], space: Space | None) -> Iterator[PlannedRun]:
    """Runs that make what some sessions' betas in a space need once a subject."""
    if space in OPERATOR_SPACES:
        for subject in dict.fromkeys(parse_session_key(session)[0] for session in sessions):
            partition = partitions.subject_space(subject, space)
            yield PlannedRun((Operator.name,), partition, partition)


def prepare(
    sessions: Sequence[str], prepared: Preparation, *, at_most: int
) -> Iterator[PlannedRun]:
    """Runs that prepare some sessions, given in order, each at most a number of them."""
    yield from operators(sessions, prepared.space)
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
) -> Mapping[str, str]:
    """Do one run in this process, recorded in an instance as any other run.

    Whatever ends the run is raised.

    Parameters
    ----------
    config
        Settings of an asset, by its name; those of assets that the run does not have are left out.

    Returns
    -------
    dict
        What each asset says of its last partition: made, or up to date.
    """
    keys = [dg.AssetKey(asset) for asset in planned.assets]
    job = repository.get_implicit_job_def_for_assets(keys)
    if job is None:
        raise ValueError(f"{planned.title}: these assets are not partitioned alike")
    span = range_tags(planned.first, planned.last) if planned.first else {}
    result = job.execute_in_process(
        run_config={
            "ops": {
                asset: {"config": dict(settings)}
                for asset, settings in (config or {}).items()
                if asset in planned.assets
            },
            # Whatever goes wrong is raised, and told by whoever called.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        instance=instance,
        asset_selection=keys,
        tags={**span, **(tags or {})},
    )
    return {
        event.asset_key.to_user_string(): str(event.materialization.metadata["status"].value)
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
