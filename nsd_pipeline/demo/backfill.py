"""A backfill like those of the web UI, carried out in this process.

Dagster's daemon looks at backfills every 30 seconds and starts a process for each of their runs,
which would double the time that the demo takes. Here the same code of Dagster's evaluates the
backfill at once, and the runs that it puts into the queue are executed where they are launched.
What is left in the history is what any backfill leaves; the web UI's daemon would complete one that
was interrupted.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from nsd_pipeline.dagster_private import SYNC_LAUNCHER, start_backfill
from nsd_pipeline.nsd.layout import parse_session_key
from nsd_pipeline.planned_runs import PlannedRun

DEFINITIONS: Final = {"module_name": "nsd_pipeline.definitions"}
LOCATION: Final = "nsd_pipeline"
"""Name of the code location in workspace.yaml, so that the web UI knows what the runs are of."""

_HERE: Final[dict[str, Any]] = {
    "run_launcher": SYNC_LAUNCHER,
    # Not at once: backfills are evaluated in an event loop, and runs need one of their own.
    "run_coordinator": {"module": "dagster", "class": "QueuedRunCoordinator"},
    # There is no daemon that would retry a run, and a backfill waits for one that will be retried.
    "run_retries": {"enabled": False},
}


@dataclass(frozen=True)
class Backfill(PlannedRun):
    """Some assets for some sessions (keys, ascending), of which each stretch is a run."""

    sessions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What the backfill does, in a line."""
        subjects = dict.fromkeys(parse_session_key(session)[0] for session in self.sessions)
        sessions = f"{len(self.sessions)} session{'s' * (len(self.sessions) > 1)}"
        return f"{', '.join(self.assets)}  [backfill: {sessions} of {', '.join(subjects)}]"


def run_backfill(
    history: dg.DagsterInstance,
    backfill: Backfill,
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    definitions: Mapping[str, str] = DEFINITIONS,
) -> Sequence[str]:
    """Carry out a backfill in this process, recorded in a history as any other one.

    `config` has settings of assets by their names, and `definitions` says where these are defined,
    as `start_backfill` takes it. Returns what there is to say of the artifacts, each once, sorted:
    made, or up to date. A Failure has the messages of the steps that failed.
    """
    with (
        # The same folder once more. Nothing of it is temporary, whatever the name says.
        dg.DagsterInstance.local_temp(history.root_directory, overrides=_HERE) as instance,
        start_backfill(
            instance,
            backfill.assets,
            backfill.sessions,
            run_config=backfill.run_config(config),
            definitions=definitions,
            location=LOCATION,
        ) as started,
    ):
        queued = dg.RunsFilter(tags=started.tags, statuses=[dg.DagsterRunStatus.QUEUED])
        while not started.evaluate():
            # In the order of their creation: the last check that was planned is the one shown.
            waiting = instance.get_runs(queued, ascending=True)
            for run in waiting:
                started.launch(run)
            if not waiting:  # the daemon of a web UI that is open was faster
                time.sleep(1)
        runs = instance.get_run_ids(dg.RunsFilter(tags=started.tags))
        if started.outcome != "COMPLETED_SUCCESS":
            failures = "\n".join(_failures(instance, runs))
            raise dg.Failure(failures or f"the backfill is {started.outcome}")
        made = dg.DagsterEventType.ASSET_MATERIALIZATION
        found = [entry for run in runs for entry in instance.all_logs(run, of_type=made)]
    artifacts = [entry.asset_materialization for entry in found if entry.asset_materialization]
    return sorted({str(each.metadata["status"].value) for each in artifacts})


def _failures(instance: dg.DagsterInstance, runs: Sequence[str]) -> Iterator[str]:
    """Message of every step that failed: what its author has to say, or else the exception."""
    for run in runs:
        for entry in instance.all_logs(run, of_type=dg.DagsterEventType.STEP_FAILURE):
            data = entry.get_dagster_event().step_failure_data
            plain = data.user_failure_data.description if data.user_failure_data else None
            yield plain or (data.error.message if data.error else entry.message)
