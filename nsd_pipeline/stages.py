"""The graph as a sequence of runs in this process: what no single asset job can be.

An asset job's assets share one kind of partition, and the way from sessions to a model crosses
three. So whoever wants all of it in one go (the job ``subject``, the demo) runs stage after stage,
each recorded as a run of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from nsd_pipeline import partitions
from nsd_pipeline.assets.backlog import SESSION_ASSETS, ranges
from nsd_pipeline.dagster_private import range_tags


@dataclass(frozen=True)
class Stage:
    """One run: some assets, for one partition or a range of them.

    Parameters
    ----------
    assets
        Names of the assets.
    first, last
        First and last partition, both included; empty for assets that have none.
    """

    assets: tuple[str, ...]
    first: str = ""
    last: str = ""

    @property
    def title(self) -> str:
        """What the stage does, in a line."""
        span = " ... ".join(dict.fromkeys(part for part in (self.first, self.last) if part))
        return f"{', '.join(self.assets)}{f'  [{span}]' if span else ''}"


DESIGN = Stage(("experiment_design",))
REPORT = Stage(("decoding_report",))


def prepare(
    sessions: list[str], *, at_most: int, assets: tuple[str, ...] = SESSION_ASSETS
) -> Iterator[Stage]:
    """Stages that prepare some sessions, given in order, so many at a time."""
    for first, last in ranges(sessions, at_most):
        yield Stage(assets, first, last)


def embed(subjects: tuple[str, ...]) -> Iterator[Stage]:
    """Stages that embed what some subjects saw."""
    for stimulus_set in (partitions.SHARED, *subjects):
        yield Stage(("stimuli", "stimulus_embeddings"), stimulus_set, stimulus_set)


def decode(cohorts: tuple[str, ...]) -> Iterator[Stage]:
    """Stages that train and measure models, and the report of all that there are."""
    for cohort in cohorts:
        yield Stage(("fmri_mlp", "retrieval_metrics"), cohort, cohort)
    yield REPORT


def run_stage(
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    stage: Stage,
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Mapping[str, str]:
    """Run one stage in this process, recorded in an instance as any other run.

    Parameters
    ----------
    config
        Settings of an asset, by its name; assets that the stage does not have are left out.
    tags
        More tags of the run.

    Returns
    -------
    dict
        What each asset says of its last partition: made, or up to date.

    Raises
    ------
    Exception
        Whatever ended the run.
    """
    keys = [dg.AssetKey(asset) for asset in stage.assets]
    job = repository.get_implicit_job_def_for_assets(keys)
    if job is None:
        raise ValueError(f"{stage.title}: these assets are not partitioned alike")
    span = range_tags(stage.first, stage.last) if stage.first else {}
    result = job.execute_in_process(
        run_config={
            "ops": {
                asset: {"config": dict(settings)}
                for asset, settings in (config or {}).items()
                if asset in stage.assets
            },
            "loggers": {"console": {"config": {"log_level": "ERROR"}}},
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
