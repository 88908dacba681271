"""The processes of runs on this host: start one, recognise it later, stop it.

``dagster asset materialize``, ``dg launch``, the demo and the job ``subject`` execute runs in their
own process. If that is killed, nobody is left to end the run: it would be "started"
for good, and hold back its partition. So such a run's process notes itself in the run's tags, and
whoever looks after runs, or waits for their partitions, compares them with the processes there are.
"""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun

RUN_ID_ENV: Final = "NSD_RUN_ID"
"""Names the run in its process's environment, so that the process is found by it, and that the
process knows that a launcher looks after it."""
HIDDEN: Final = ".dagster/nsd/"
"""Begins tags that the web UI does not show: what is left tells people something."""
PID_TAG: Final = "nsd/pid"
HOST_TAG: Final = "nsd/host"
STARTED_TAG: Final = f"{HIDDEN}pid_started"
NAMESPACE_TAG: Final = f"{HIDDEN}pid_namespace"
"""Where the process id counts: containers can share a host's name, and have their own ids."""
SIGNED_TAG: Final = f"{HIDDEN}signed"
"""Id of the run that noted its own process: a retry starts with its parent's tags."""


@dataclass(frozen=True)
class RunProcess:
    """A process that stays recognisable: process ids are reused, but not with the same start time.

    `pid` is also the id of its process group; `started` is in seconds since the epoch.
    """

    pid: int
    started: float

    def is_alive(self) -> bool:
        """Whether it still runs; a process that ended and was not reaped yet does not."""
        try:
            process = psutil.Process(self.pid)
            # The clock may have been corrected since the start time was read.
            same = abs(process.create_time() - self.started) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stop(self, grace: float) -> None:
        """Ask the process to end; a thread kills its group if it is there after `grace` seconds."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGTERM)
        threading.Thread(target=self._kill_after, args=(grace,), daemon=True).start()

    def kill(self) -> None:
        """Kill the process and what it started in its group."""
        if self.is_alive():
            os.killpg(self.pid, signal.SIGKILL)

    def _kill_after(self, grace: float) -> None:
        try:
            psutil.wait_procs([psutil.Process(self.pid)], timeout=grace)
        except psutil.NoSuchProcess:
            return
        self.kill()


def start(
    command: Sequence[str],
    *,
    run_id: str,
    environment: Mapping[str, str],
    log: Path,
    keep: Sequence[int],
) -> subprocess.Popen[bytes]:
    """Start a run's process in a session of its own, which outlives this process.

    `environment` is all of its environment but the run's id, its output is appended to `log`, and
    it inherits the file descriptors in `keep`. No shell is involved.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - Dagster's own command for the run
            list(command),
            env={**environment, RUN_ID_ENV: run_id},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(keep),
            start_new_session=True,
        )


def identify(pid: int) -> RunProcess:
    """Describe the running process with this id; ``psutil.NoSuchProcess`` if there is none."""
    return RunProcess(pid, psutil.Process(pid).create_time())


def find(run_id: str) -> RunProcess | None:
    """Find a run's process by its environment, where the launcher died before it noted the pid."""
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(RUN_ID_ENV) == run_id
                and process.pid == os.getpgid(process.pid)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                return RunProcess(process.pid, process.create_time())
        except (psutil.Error, OSError):
            continue
    return None


def tail(log: Path) -> str:
    """Last 20 lines of a log file, at most 8 KiB; empty if there is no such file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-20:])


def process_tags(running: RunProcess) -> dict[str, str]:
    """Tags by which a process of this host is recognised later."""
    return {
        PID_TAG: str(running.pid),
        STARTED_TAG: repr(running.started),
        HOST_TAG: socket.gethostname(),
    }


def sign(instance: DagsterInstance, run: DagsterRun) -> None:
    """Note this process in the tags of the run that it executes, unless a launcher does so."""
    if os.environ.get(RUN_ID_ENV) == run.run_id:
        return
    mine = process_tags(identify(os.getpid()))
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
    running = RunProcess(int(tags[PID_TAG]), float(tags[STARTED_TAG]))
    if is_elsewhere(tags) or not _is_gone(running):
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
