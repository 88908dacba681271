"""Materializes the whole graph on whatever source the definitions point at, stage by stage."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import dagster as dg

from nsd_pipeline import partitions
from nsd_pipeline.nsd.layout import parse_session_key

_RANGE_START, _RANGE_END = (
    "dagster/asset_partition_range_start",
    "dagster/asset_partition_range_end",
)


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


def stages(sessions: list[str]) -> Iterator[Stage]:
    """Everything there is to run for some sessions, in order.

    Parameters
    ----------
    sessions
        Sessions at hand, ascending and without gaps within a subject.
    """
    yield Stage(("experiment_design",))
    subjects = []
    for subject, keys in groupby(sessions, key=lambda key: parse_session_key(key)[0]):
        subjects.append(subject)
        first, *_, last = [*keys] * 2
        yield Stage(("betas", "events", "fsaverage_events", "fsaverage5_betas"), first, last)
    for stimulus_set in (partitions.SHARED, *subjects):
        yield Stage(("stimuli", "stimulus_embeddings"), stimulus_set, stimulus_set)
    for cohort in (*subjects, partitions.ALL):
        yield Stage(("fmri_mlp", "retrieval_metrics"), cohort, cohort)
    yield Stage(("decoding_report",))


def run_stage(
    defs: dg.Definitions, instance: dg.DagsterInstance, stage: Stage
) -> Mapping[str, str]:
    """Run one stage in this process, recorded in an instance as any other run.

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
    job = defs.get_repository_def().get_implicit_job_def_for_assets(keys)
    if job is None:
        raise ValueError(f"{stage.title}: these assets are not partitioned alike")
    span = {_RANGE_START: stage.first, _RANGE_END: stage.last} if stage.first else {}
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    result = job.execute_in_process(
        run_config=quiet, instance=instance, asset_selection=keys, tags=span
    )
    return {
        event.asset_key.to_user_string(): str(event.materialization.metadata["status"].value)
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
