"""Runs that none of our launchers started: which process executes one, and whether it is there.

``dagster asset materialize``, ``dg launch``, the demo and the stages of the job ``subject`` execute
runs in their own process. If that is killed, nobody is left to end the run: it would be "started"
for good, and hold back its partition. So such a run's process notes itself in the run's tags, and
whoever looks after runs, or waits for their partitions, compares them with the processes there are.
"""

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun

from nsd_pipeline.launchers import process
from nsd_pipeline.launchers.process import RunProcess

PID_TAG: Final = "nsd/pid"
STARTED_TAG: Final = "nsd/pid_started"
HOST_TAG: Final = "nsd/host"
NAMESPACE_TAG: Final = "nsd/pid_namespace"
"""Where the process id counts: containers can share a host's name, and have their own ids."""
SIGNED_TAG: Final = "nsd/signed"
"""Id of the run that noted its own process: a retry starts with its parent's tags."""


def process_tags(running: RunProcess) -> dict[str, str]:
    """Tags by which a process of this host is recognised later."""
    return {
        PID_TAG: str(running.pid),
        STARTED_TAG: repr(running.started),
        HOST_TAG: socket.gethostname(),
    }


def sign(instance: DagsterInstance, run: DagsterRun) -> None:
    """Note this process in the tags of the run that it executes, unless a launcher does so."""
    if os.environ.get(process.RUN_ID_ENV) == run.run_id:
        return
    mine = process_tags(process.identify(os.getpid()))
    instance.add_run_tags(run.run_id, {**mine, NAMESPACE_TAG: _namespace(), SIGNED_TAG: run.run_id})


def signed_host(run: DagsterRun) -> str | None:
    """Host whose process signed the run; None if none did."""
    return run.tags[HOST_TAG] if run.tags.get(SIGNED_TAG) == run.run_id else None


def is_elsewhere(tags: Mapping[str, str]) -> bool:
    """Whether a process that signed is of another host, or of another container on this one."""
    return (tags[HOST_TAG], tags[NAMESPACE_TAG]) != (socket.gethostname(), _namespace())


def how_ended(run: DagsterRun) -> str | None:
    """Say that the process of a signed run is gone; None while it lives, or is out of sight."""
    tags = run.tags
    if is_elsewhere(tags):
        return None
    if not _is_gone(RunProcess(int(tags[PID_TAG]), float(tags[STARTED_TAG]))):
        return None
    return (
        f"Process {tags[PID_TAG]} on {tags[HOST_TAG]}, which executed this run, is gone and did not"
        " end it: it was killed, or the machine was restarted."
    )


def end_if_gone(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Report a signed run as failed if its process is gone; whether the run has ended."""
    ended = how_ended(run)
    if ended is None:
        return False
    # Read after the process ended, so it cannot change the state any more.
    current = instance.get_run_by_id(run.run_id)
    if current is not None and not current.is_finished:
        report_failed(instance, current, ended)
    return True


def report_failed(instance: DagsterInstance, run: DagsterRun, message: str) -> None:
    """Report a run as failed, its state first.

    Dagster alone would write the event, then the state, and its daemon decides once, when it sees
    the event, whether to retry: a run that looks as if in progress then, never.
    """
    failure = DagsterEvent(DagsterEventType.RUN_FAILURE.value, run.job_name, message=message)
    instance.run_storage.handle_run_event(run.run_id, failure, datetime.now(UTC))
    instance.report_run_failed(run, message)


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux: there is one
        return "-"


def _is_gone(running: RunProcess) -> bool:
    if running.is_alive():
        return False
    try:
        os.kill(running.pid, 0)
    except PermissionError:
        # Another user's, and /proc may hide those (hidepid): then nothing can be told.
        return Path(f"/proc/{running.pid}").exists()
    except ProcessLookupError:
        return True
    return True  # a zombie, or another process with its id
