"""``dagster`` inside a Slurm job: the same program, deaf to SIGTERM.

Slurm announces the end of a job by SIGTERM, be it the time limit, preemption or scancel. Dagster
takes a SIGTERM that nobody asked it for as a failure of its own, and the run would never say what
happened. Deaf to it, the run lives until Slurm kills it a little later (KillWait), and the launcher
reports what Slurm says. SIGINT still ends a run: the launcher sends it to terminate one.

A blocked or ignored signal would be inherited by the run's own helpers, which are stopped by
SIGTERM; a handler is not.
"""

import runpy
import signal

from nsd_pipeline.dagster_private import keep_signal_handlers


def ignore_sigterm() -> None:
    """Handle SIGTERM by doing nothing, where Dagster would handle it like SIGINT."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)


if __name__ == "__main__":
    keep_signal_handlers(ignore_sigterm)
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
