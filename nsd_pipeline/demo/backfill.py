"""A backfill like those of the web UI, carried out in this process.

Dagster's daemon looks at backfills every 30 seconds and starts a process for each of their runs,
which would double the time that the demo takes. Here the same code of Dagster's evaluates the
backfill at once, and the runs that it puts into the queue are executed where they are launched.
What is left in the history is what any backfill leaves; the web UI's daemon would complete one that
was interrupted.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionStatus,
    PartitionBackfill,
)
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import make_new_backfill_id
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._time import get_current_timestamp

from nsd_pipeline.nsd.layout import parse_session_key

DEFINITIONS: Final = LoadableTargetOrigin(module_name="nsd_pipeline.definitions")
LOCATION: Final = "nsd_pipeline"
"""Name of the code location in workspace.yaml, so that the web UI knows what the runs are of."""

_HERE: Final[dict[str, Any]] = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    # Not at once: backfills are evaluated in an event loop, and runs need one of their own.
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "QueuedRunCoordinator",
    },
    # There is no daemon that would retry a run, and a backfill waits for one that will be retried.
    "run_retries": {"enabled": False},
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backfill:
    """Some assets for some sessions.

    Parameters
    ----------
    assets
        Names of the assets, all of them partitioned by session.
    sessions
        Session keys, ascending; each stretch without gaps is a run.
    """

    assets: tuple[str, ...]
    sessions: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the backfill does, in a line."""
        subjects = dict.fromkeys(parse_session_key(session)[0] for session in self.sessions)
        sessions = f"{len(self.sessions)} session{'s' * (len(self.sessions) > 1)}"
        return f"{', '.join(self.assets)}  [backfill: {sessions} of {', '.join(subjects)}]"


@contextmanager
def runs_here(instance: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """Open an instance once more, so that what is launched is executed at once in this process."""
    reference = InstanceRef.from_dir(instance.root_directory, overrides=_HERE)
    with dg.DagsterInstance.from_ref(reference) as here:
        yield here


def run_backfill(
    instance: dg.DagsterInstance,
    backfill: Backfill,
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    definitions: LoadableTargetOrigin = DEFINITIONS,
) -> Sequence[str]:
    """Carry out a backfill in this process, recorded as any other one.

    Parameters
    ----------
    instance
        Where it is recorded; `runs_here`.
    config
        Settings of an asset, by its name; assets that the backfill does not have are left out.
    definitions
        Where the assets are defined.

    Returns
    -------
    list
        What there is to say of the artifacts, each once, sorted: made, or up to date.

    Raises
    ------
    Failure
        With the messages of the steps that failed.
    """
    origin = InProcessCodeLocationOrigin(definitions, location_name=LOCATION)
    target = InProcessWorkspaceLoadTarget(origin)
    with WorkspaceProcessContext(instance, target) as context:
        graph = context.create_request_context().asset_graph
        requested = PartitionBackfill.from_asset_partitions(
            backfill_id=make_new_backfill_id(),
            asset_graph=graph,
            partition_names=backfill.sessions,
            asset_selection=[dg.AssetKey(asset) for asset in backfill.assets],
            backfill_timestamp=get_current_timestamp(),
            tags={},
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config={
                "ops": {
                    asset: {"config": dict(settings)}
                    for asset, settings in (config or {}).items()
                    if asset in backfill.assets
                },
                # Failures are raised below; their stack traces are in the history.
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        instance.add_backfill(requested)
        tags = dg.DagsterRun.tags_for_backfill_id(requested.backfill_id)
        queued = dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.QUEUED])
        while True:
            for error in execute_backfill_iteration(context, _log):
                if error is not None:
                    raise dg.Failure(error.message)
            status = _status(instance, requested)
            if status in BULK_ACTION_TERMINAL_STATUSES:
                break
            # In the order of their creation: the last check that was planned is the one shown.
            waiting = instance.get_runs(queued, ascending=True)
            for run in waiting:
                instance.launch_run(run.run_id, context.create_request_context())
            if not waiting:  # the daemon of a web UI that is open was faster
                time.sleep(1)
    runs = instance.get_run_ids(dg.RunsFilter(tags=tags))
    if status is not BulkActionStatus.COMPLETED_SUCCESS:
        raise dg.Failure("\n".join(_failures(instance, runs)) or f"the backfill is {status.value}")
    return sorted(set(_outcomes(instance, runs)))


def _status(instance: dg.DagsterInstance, backfill: PartitionBackfill) -> BulkActionStatus:
    now = instance.get_backfill(backfill.backfill_id)
    return BulkActionStatus.CANCELED if now is None else now.status


def _failures(instance: dg.DagsterInstance, runs: Sequence[str]) -> Iterator[str]:
    """Message of every step that failed: what its author has to say, or else the exception."""
    for run in runs:
        for entry in instance.all_logs(run, of_type=dg.DagsterEventType.STEP_FAILURE):
            data = entry.get_dagster_event().step_failure_data
            plain = data.user_failure_data.description if data.user_failure_data else None
            yield plain or (data.error.message if data.error else entry.message)


def _outcomes(instance: dg.DagsterInstance, runs: Sequence[str]) -> Iterator[str]:
    for run in runs:
        for entry in instance.all_logs(run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            if entry.asset_materialization is not None:
                yield str(entry.asset_materialization.metadata["status"].value)
