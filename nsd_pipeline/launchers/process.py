"""The process of a run on this host: start it, recognise it later, stop it."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

RUN_ID_ENV: Final = "NSD_RUN_ID"
"""Names the run in its process's environment, so that the process is found by it, and that the
process knows that a launcher looks after it."""


@dataclass(frozen=True)
class RunProcess:
    """A process that stays recognisable: process ids are reused, but not with the same start time.

    Parameters
    ----------
    pid
        Process id; also the id of its process group.
    started
        Start time in seconds since the epoch.
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

    def stop(self, grace: float) -> threading.Thread:
        """Ask the process to end, and kill its group if it is still there after a while.

        Parameters
        ----------
        grace
            Seconds it has to end by itself.

        Returns
        -------
        threading.Thread
            Ends when the process has; need not be waited for.
        """
        self._signal(signal.SIGTERM)
        thread = threading.Thread(target=self._kill_after, args=(grace,), daemon=True)
        thread.start()
        return thread

    def kill(self) -> None:
        """Kill the process and what it started in its group."""
        if self.is_alive():
            os.killpg(self.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

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

    Parameters
    ----------
    command
        Program and arguments; no shell is involved.
    run_id
        The run.
    environment
        The process's whole environment.
    log
        File to which its output is appended.
    keep
        File descriptors that it inherits.
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
    """Describe the running process with this id.

    Raises
    ------
    psutil.NoSuchProcess
        If there is none.
    """
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


def tail(log: Path, *, n_lines: int = 20) -> str:
    """Last lines of a log file, at most 8 KiB; empty if there is no such file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-n_lines:])
