"""Dagster's history of runs, in the folder that ``DAGSTER_HOME`` names.

Dagster creates the databases of a new folder in whatever process comes first, and two that come at
once spoil them, often for good: tables twice, or two revisions of one schema. So our own commands
open the history under a lock. Dagster's commands open it before they load anything of ours; for
them, ``nsd prepare`` does it beforehand.
"""

import os
from pathlib import Path
from shutil import disk_usage
from typing import Final

import dagster as dg
from filelock import FileLock

from nsd_pipeline.errors import NsdError, StorageFullError

LOCK_FILE: Final = "nsd_prepare.lock"
"""In ``DAGSTER_HOME``; held while the history is opened, not while it is used."""
_ROOM: Final = 2**20
"""Bytes without which SQLite cannot even open a database: it writes beside it."""


def open_history() -> dg.DagsterInstance:
    """Open the history of this environment, and create it where there is none yet.

    An NsdError if ``DAGSTER_HOME`` is not set to a folder that can be used, or its history is
    damaged; a StorageFullError if its disk is full.
    """
    named = os.environ.get("DAGSTER_HOME")
    if not named or not Path(named).expanduser().is_absolute():
        raise NsdError(
            f"DAGSTER_HOME is {named!r}, not the absolute path of a folder."
            if named
            else "DAGSTER_HOME is not set.",
            next_step="name the folder that keeps the history of runs: export"
            " DAGSTER_HOME=$PWD/.dagster",
        )
    home = Path(named).expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / LOCK_FILE):
            return dg.DagsterInstance.get()
    except OSError as error:
        _refuse_full(home, error)
        raise NsdError(
            f"{home} cannot be used as DAGSTER_HOME: {error}.",
            next_step="choose a folder on this machine that you can write to.",
        ) from error
    except dg.DagsterError:  # such as a mistake in dagster.yaml, which it names
        raise
    except Exception as error:  # of the database's libraries, whichever those are
        _refuse_full(home, error)
        raise NsdError(
            f"The history of runs in {home} cannot be opened: {error}",
            next_step=f"end what uses it, move {home / 'history'} and {home / 'schedules'} away,"
            " and run `nsd prepare`. Artifacts are not touched; the web UI forgets the runs.",
        ) from error


def _refuse_full(home: Path, error: Exception) -> None:
    """Say so if a full disk is the reason; SQLite itself also calls that a disk I/O error."""
    folder = home if home.exists() else home.parent
    if "full" in str(error) or (folder.exists() and disk_usage(folder).free < _ROOM):
        raise StorageFullError(
            f"The disk of DAGSTER_HOME ({home}) is full, so no run can be recorded.",
            next_step="make room there (logs of runs lie below storage and may go), or move the"
            " folder to another disk and set DAGSTER_HOME; then run `nsd prepare`. What is there"
            " of the history is kept.",
        ) from error
