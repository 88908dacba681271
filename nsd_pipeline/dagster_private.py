"""Every part of Dagster that we need and that Dagster does not promise to keep.

No other file of the package imports from ``dagster._*``. Each part says why it is needed and which
public thing would replace it, and has a test in ``nsd_pipeline_tests/test_dagster_private.py``: an
upgrade of Dagster that changes one fails there first.

What ``import dagster`` has loaded anyway is imported here at once. The rest (`worker_command`)
costs half a second more, so it is imported where it is used: `definitions` comes by here, and every
run pays for that.
"""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

# What `record_some_partitions` writes into an event, and what it keeps Dagster from recording by.
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

# A run launcher of one's own: the base class, what it is given and what it answers. Dagster's docs
# offer the base class, but `dagster` does not export it. Would be replaced by: dg.RunLauncher.
from dagster._core.launcher.base import CheckRunHealthResult as CheckRunHealthResult
from dagster._core.launcher.base import LaunchRunContext as LaunchRunContext
from dagster._core.launcher.base import ResumeRunContext as ResumeRunContext
from dagster._core.launcher.base import RunLauncher
from dagster._core.launcher.base import WorkerStatus as WorkerStatus
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

# What makes a class one that dagster.yaml can name and configure; dg.ConfigurableResource is for
# the resources of a code location only. Would be replaced by: a public ConfigurableClass.
from dagster._serdes import ConfigurableClass
from dagster._serdes import ConfigurableClassData as ConfigurableClassData

# --- partitions of a run -------------------------------------------------------------------------


def record_some_partitions(
    context: dg.AssetExecutionContext,
    done: Mapping[str, Mapping[str, Any]],
    version: dg.DataVersion,
    *,
    goes_on: bool,
) -> None:
    """Record those partitions of a run's range that are done, and none of the others.

    Dagster records all of a range once its step ends well, and none if it fails. The metadata that
    it knows its own observed sources by keeps it from recording anything. Would be replaced by: an
    output that says which of its partitions it has.

    `done` is the metadata of each partition that is done (``""`` for an asset without partitions),
    and `version` the data version of all of them. The step `goes_on` if it is about to end well, so
    that the steps after it are run.
    """
    code = context.assets_def.code_versions_by_key[context.asset_key]
    tags = {DATA_VERSION_TAG: version.value, **({CODE_VERSION_TAG: code} if code else {})}
    for partition, metadata in done.items():
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key, partition=partition or None, metadata=metadata, tags=tags
            )
        )
    if goes_on:
        context.add_output_metadata({SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})


def is_last_of_its_run(context: dg.AssetExecutionContext) -> bool:
    """Whether no asset of the same run is made from this one."""
    layer = context.job_def.asset_layer
    in_run = set(layer.executable_asset_keys)
    return in_run.isdisjoint(layer.get(context.asset_key).child_keys)


def range_tags(first: str, last: str) -> dict[str, str]:
    """Tags that make a run one of a range of partitions, both ends included, or of one partition.

    The web UI's list of runs shows the partition of a run, but not its range.

    `dg.RunRequest`, `dg.materialize` and `execute_in_process` take one partition and no range; the
    web UI and ``dagster asset materialize --partition-range`` set these tags. Would be replaced by:
    a ``partition_key_range`` beside ``partition_key``.
    """
    if first == last:
        return {PARTITION_NAME_TAG: first}
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}


def partition_span(run: dg.DagsterRun) -> tuple[str, str] | None:
    """First and last partition that a run is for; None if it has none.

    A `dg.DagsterRun` tells its partitions by its tags alone. Would be replaced by: a
    ``partition_key_range`` of the run, as the context of an asset has it.
    """
    first = run.tags.get(PARTITION_NAME_TAG) or run.tags.get(ASSET_PARTITION_RANGE_START_TAG)
    if first is None:
        return None
    return first, run.tags.get(ASSET_PARTITION_RANGE_END_TAG, first)


# --- launchers -----------------------------------------------------------------------------------


class ConfigurableRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """A run launcher that dagster.yaml can name; what both of Dagster's base classes ask for."""

    def __init__(self, inst_data: ConfigurableClassData | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Where the configuration came from; None for a launcher that was made in Python."""
        return self._inst_data


def worker_command(
    instance: dg.DagsterInstance, run: dg.DagsterRun, *, resume: bool = False
) -> list[str]:
    """Program and arguments of the process that executes a run, ``dagster api execute_run ...``.

    Dagster's launchers build it from these classes: the argument is their JSON. The public
    ``dagster job execute`` starts a run of its own instead of the one that is in the queue. Would
    be replaced by: ``dagster run execute RUN_ID``.

    The run has a `job_code_origin`; `resume` it if it has begun before, and its process ended.
    """
    from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs

    arguments = ResumeRunArgs if resume else ExecuteRunArgs
    assert run.job_code_origin is not None  # noqa: S101, asked for above
    return list(
        arguments(
            job_origin=run.job_code_origin,
            run_id=run.run_id,
            instance_ref=instance.get_ref(),
            set_exit_code_on_failure=True,
        ).get_command_args()
    )


def counts_pools_by_run(instance: dg.DagsterInstance) -> bool:
    """Whether ``concurrency: pools: granularity: run`` is in force, and not ``op``.

    Would be replaced by: a public view of what dagster.yaml configures.
    """
    from dagster._core.instance.config import PoolGranularity

    granularity = instance.get_concurrency_config().pool_config.pool_granularity
    return granularity is PoolGranularity.RUN


def keep_signal_handlers(set_handlers: Callable[[], None]) -> None:
    """Set handlers of signals, now and each time that Dagster would set its own.

    Dagster makes SIGTERM do what SIGINT does each time it changes its handler of SIGINT, several
    times in a run. Would be replaced by: a setting which signals end a run.
    """
    from dagster._utils import interrupts

    interrupts.setup_interrupt_handlers = set_handlers
    set_handlers()
