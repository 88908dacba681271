"""Every part of Dagster that we need and that Dagster does not promise to keep.

No other file of the package imports from ``dagster._*``. Each part says why it is needed and which
public thing would replace it, and has a test in ``nsd_pipeline_tests/test_dagster_private.py``: an
upgrade of Dagster that changes one fails there first.

What ``import dagster`` has loaded anyway is imported here at once. The rest (`worker_command`,
`start_backfill`) costs half a second more, so it is imported where it is used: `definitions` comes
by here, and every run pays for that.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

# What `record_some_partitions` writes into an event, and what it keeps Dagster from recording by.
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

# A run launcher of one's own: the base class, what it is given and what it answers. Dagster's docs
# offer the base class, but `dagster` does not export it. Would be replaced by: dg.RunLauncher.
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

# What makes a class one that dagster.yaml can name and configure; dg.ConfigurableResource is for
# the resources of a code location only. Would be replaced by: a public ConfigurableClass.
from dagster._serdes import ConfigurableClass, ConfigurableClassData

if TYPE_CHECKING:
    from dagster._core.workspace.context import WorkspaceProcessContext

# Dagster's own names that others import from here.
__all__ = [
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "LaunchRunContext",
    "ResumeRunContext",
    "WorkerStatus",
]

_log = logging.getLogger(__name__)


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
    """Tags that make a run one of a range of partitions, both ends included.

    `dg.RunRequest`, `dg.materialize` and `execute_in_process` take one partition and no range; the
    web UI and ``dagster asset materialize --partition-range`` set these tags. Would be replaced by:
    a ``partition_key_range`` beside ``partition_key``.
    """
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


# --- backfills -----------------------------------------------------------------------------------

SYNC_LAUNCHER: Final = {
    "module": "dagster._core.launcher.sync_in_memory_run_launcher",
    "class": "SyncInMemoryRunLauncher",
}
"""``run_launcher`` of an instance whose runs are executed where they are launched. Would be
replaced by: an in-process launcher that `dagster` exports."""


@dataclass(frozen=True)
class StartedBackfill:
    """A backfill that this process evaluates, instead of Dagster's daemon.

    Would be replaced by: a public call that requests a backfill and waits for it, without a
    webserver and the daemon's pause of 30 seconds.
    """

    backfill_id: str
    _context: "WorkspaceProcessContext"

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of the backfill's runs."""
        return dg.DagsterRun.tags_for_backfill_id(self.backfill_id)

    def evaluate(self) -> bool:
        """Do once what the daemon does every 30 seconds; whether the backfill has ended by then.

        A Failure if it cannot be evaluated.
        """
        from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
        from dagster._daemon.backfill import execute_backfill_iteration

        for error in execute_backfill_iteration(self._context, _log):
            if error is not None:
                raise dg.Failure(error.message)
        now = self._context.instance.get_backfill(self.backfill_id)
        return now is None or now.status in BULK_ACTION_TERMINAL_STATUSES

    def launch(self, run: dg.DagsterRun) -> None:
        """Launch one of its runs, which evaluating has put into the queue."""
        self._context.instance.launch_run(run.run_id, self._context.create_request_context())

    @property
    def outcome(self) -> str:
        """How it stands or ended, such as ``COMPLETED_SUCCESS``; ``CANCELED`` if it was deleted."""
        now = self._context.instance.get_backfill(self.backfill_id)
        return "CANCELED" if now is None else now.status.value


@contextmanager
def start_backfill(
    instance: dg.DagsterInstance,
    assets: Sequence[str],
    partitions: Sequence[str],
    *,
    run_config: Mapping[str, Any],
    definitions: Mapping[str, str],
    location: str,
) -> Iterator[StartedBackfill]:
    """Record a backfill as the web UI does; it goes on whenever it is evaluated.

    Would be replaced by: what `StartedBackfill` says.

    The assets, by name, are partitioned alike; `run_config` is that of each run. They are defined
    in ``{"module_name": ...}`` or ``{"python_file": ...}``, and `location` is the name of the code
    location, by which the web UI finds the assets of the runs.
    """
    from dagster._core.execution.backfill import PartitionBackfill
    from dagster._core.remote_origin import InProcessCodeLocationOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._core.utils import make_new_backfill_id
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

    where = LoadableTargetOrigin(**definitions)
    origin = InProcessCodeLocationOrigin(where, location_name=location)
    with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context:
        requested = PartitionBackfill.from_asset_partitions(
            backfill_id=make_new_backfill_id(),
            asset_graph=context.create_request_context().asset_graph,
            partition_names=partitions,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=run_config,
        )
        instance.add_backfill(requested)
        yield StartedBackfill(requested.backfill_id, context)
