"""Rows of the graph: loading it, a session in one run, and a subject's sessions in one run."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.harness import Bar, Inputs, Row, Side, Sides, fact
from benchmarks.worker import Outcome, Repeat, Settings
from nsd_pipeline.nsd.layout import session_key

ASSETS: Final = ("betas", "events", "fsaverage_events", "fsaverage5_betas")
SUBJECT: Final = "subj01"

_LOAD: Final = "the whole graph"
_DAGSTER: Final = "import dagster alone"
_SESSION: Final = "one session, one run"
_BACKFILL: Final = "all sessions, one run"
_NOTHING_TO_DO: Final = "s a session when all are up to date: Dagster's share, and looking"


@contextmanager
def _nothing(_folder: Path, _quick: bool) -> Iterator[Inputs]:
    yield Inputs({})


@contextmanager
def _mirror(folder: Path, quick: bool, *, n_sessions: int) -> Iterator[Inputs]:
    n_sessions = min(n_sessions, 3) if quick else n_sessions
    mirror = _make_mirror(folder / f"mirror_{n_sessions}", n_sessions, 2 if quick else 63)
    yield Inputs(
        {"mirror": str(mirror), "n_sessions": n_sessions},
        work=f"{n_sessions} session{'s' * (n_sessions > 1)} of {18 if quick else 750} trials,"
        " local mirror",
    )


def _make_mirror(folder: Path, n_sessions: int, trials_per_run: int) -> Path:
    """Write a subject's sessions in NSD's layout: noise where it is read, holes elsewhere.

    All sessions are the same two files, by hard links.
    """
    from nsd_pipeline.demo.experiment import DemoSettings, make_design, write_tables
    from nsd_pipeline.nsd import layout
    from nsd_pipeline_tests.nsd.mgh_files import write_sparse_betas

    # Past the checks of a demo, which is kept small: these are all of a subject's sessions.
    settings = DemoSettings.model_construct(
        subjects=1, sessions=n_sessions, trials_per_run=trials_per_run, volumes=False
    )
    if n_sessions == 1:
        settings = DemoSettings(**settings.model_dump())
    write_tables(folder, make_design(settings), settings)
    originals = [folder / key for key in layout.betas_keys(SUBJECT, 1, "fsaverage")]
    for seed, path in enumerate(originals):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sparse_betas(path, np.random.default_rng(seed), settings.session_trials)
    for session in range(2, n_sessions + 1):
        keys = layout.betas_keys(SUBJECT, session, "fsaverage")
        for original, key in zip(originals, keys, strict=True):
            os.link(original, folder / key)
    return folder


def load_in_new_process(settings: Settings) -> Repeat:
    """Start Python and import something, as every run and every step process does."""
    command = [sys.executable, "-c", f"import {settings['module']}"]

    def repeat() -> Outcome:
        subprocess.run(command, check=True)  # noqa: S603, the command is ours
        return Outcome()

    return repeat


def run_sessions(settings: Settings) -> Repeat:
    """Materialize sessions in one run of an instance on disk; then the same run once more."""
    import dagster as dg

    from nsd_pipeline.definitions import build_defs

    first, last = (session_key(SUBJECT, n) for n in (1, settings["n_sessions"]))

    def materialize(
        defs: Any, instance: Any, assets: tuple[str, ...], **tags: str
    ) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        selection = [dg.AssetKey(asset) for asset in assets]
        job = defs.get_repository_def().get_implicit_job_def_for_assets(selection)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        job.execute_in_process(
            instance=instance,
            asset_selection=selection,
            run_config=quiet,
            tags={f"dagster/asset_partition_range_{name}": key for name, key in tags.items()},
        )
        return time.perf_counter() - start, time.process_time() - cpu

    def repeat() -> Outcome:
        near = Path(settings["mirror"]).parent
        with (
            tempfile.TemporaryDirectory(dir=near) as store,
            tempfile.TemporaryDirectory(dir=near) as home,
            dg.DagsterInstance.local_temp(home) as instance,
        ):
            defs = build_defs(settings["mirror"], store)
            materialize(defs, instance, ("experiment_design",))
            seconds, _ = materialize(defs, instance, ASSETS, start=first, end=last)
            again, again_cpu = materialize(defs, instance, ASSETS, start=first, end=last)
        n_sessions = settings["n_sessions"]
        facts = {
            "s a session": seconds / n_sessions,
            _NOTHING_TO_DO: again / n_sessions,
            "s of processor time for that": again_cpu / n_sessions,
        }
        return Outcome(facts=facts, seconds=seconds)

    return repeat


def _seconds(name: str, sides: Sides) -> float:
    return sides[name].seconds


ROWS: Final = (
    Row(
        "code-location",
        "Loading the code location",
        _nothing,
        (
            Side(_LOAD, load_in_new_process, {"module": "nsd_pipeline.definitions"}),
            Side(_DAGSTER, load_in_new_process, {"module": "dagster"}),
        ),
        (Bar("s to load", partial(_seconds, _LOAD), 2, at_most=True),),
    ),
    Row(
        "session-run",
        "A session from files to Zarr through the graph",
        partial(_mirror, n_sessions=1),
        (Side(_SESSION, run_sessions),),
        warm_up=False,
    ),
    Row(
        "subject-backfill",
        "A subject's sessions from files to Zarr through the graph",
        partial(_mirror, n_sessions=40),
        (Side(_BACKFILL, run_sessions),),
        (fact(_NOTHING_TO_DO, _BACKFILL, 0.25, at_most=True),),
        limit="Dagster commits every event to SQLite by itself, and each waits for the disk; what "
        "is left is processor time, in the last column.",
        repetitions=1,
        warm_up=False,
    ),
)
