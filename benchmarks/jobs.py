"""Rows of whole jobs: from files to test metrics, and again after a change.

All sides start from the same generated files, on one subject, with the same small encoder, and are
processes of their own that write below a folder of their own. `NSD_BENCH_SESSIONS` says how many
sessions of 750 trials there are: 1.2 GB of disk and minutes each.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from benchmarks.harness import BenchmarkError, Inputs, Row, Side, faster, fewer, less_memory
from benchmarks.worker import Outcome, Repeat, Settings

N_SESSIONS: Final = int(os.environ.get("NSD_BENCH_SESSIONS", "4"))
NEURALBENCH: Final = Path(__file__).parents[1] / "build/neuralbench"
"""An environment of its own: `make build/neuralbench/.installed`."""
EXPERIMENTS: Final = """\
mlp: {seeds: [0]}
ridge: {model: ridge}
layer: {seeds: [0], encoder: {layers: 1.0}}
linear: {model: FmriLinear, seeds: [0]}
seeds: {seeds: [1]}
windows: {preset: neuralbench, monitor: val/batch_inv_norm_rank_mean, seeds: [33]}
"""
CHANGES: Final = {
    "another layer of the encoder": ("layer", ("--layers", "1.0", "--model", "mlp")),
    "another model": ("linear", ("--model", "linear")),
    "another seed": ("seeds", ("--seed", "1", "--model", "mlp")),
}
"""What is changed: the experiment for ours, the options of the script."""

_OURS, _SCRIPT, _THEIRS = "ours", "a script of today", "neuralbench 0.4.0"
_CHANCES: Final = 2
"""How many times chance a result is at least, or the planted signal was not found."""
_BLOCK: Final = 512


@dataclass(frozen=True)
class Used:
    """What a command took, with the processes that it started and waited for.

    Attributes
    ----------
    seconds
        Wall-clock time; processor time is counted by the harness.
    peak_bytes
        Largest resident memory of any of its processes.
    read_bytes
        Bytes that came from the disk.
    """

    seconds: float
    peak_bytes: int
    read_bytes: int


def run_command(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Used:
    """Run a command in a folder to its end; what it prints goes to ``log.txt`` there.

    Raises
    ------
    BenchmarkError
        If it fails, with the end of what it printed.
    """
    start = time.perf_counter()
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603, the commands are ours
            command,
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        # Not `wait`: only this tells what this one process took.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = (folder / "log.txt").read_text(errors="replace")[-2000:]
        raise BenchmarkError(f"{' '.join(command)} ended with {process.returncode}:\n{end}")
    seconds = time.perf_counter() - start
    return Used(seconds, 1024 * usage.ru_maxrss, _BLOCK * usage.ru_inblock)


def disk_bytes(folder: Path) -> int:
    """Bytes of disk that the files below a folder take."""
    return sum(_BLOCK * path.lstat().st_blocks for path in folder.rglob("*") if not path.is_dir())


@contextmanager
def dataset(folder: Path, quick: bool) -> Iterator[Inputs]:
    """One subject's betas, recordings and images, and an encoder; made once for all rows."""
    from nsd_pipeline.demo import generate, write_tiny_encoder

    n_sessions = 2 if quick else N_SESSIONS
    made = generate(
        folder / "jobs_nsd",
        subjects=1,
        sessions=n_sessions,
        trials_per_run=9 if quick else 63,
        signal="bold",
        spaces=(),
    )
    encoder = write_tiny_encoder(folder / "jobs_encoder")
    settings = {
        "nsd": str(made.folder.absolute()),
        "encoder": str(encoder.absolute()),
        "n_sessions": n_sessions,
        "chance": 5 / len(made.shared_image_ids),
        "folder": str((folder / "jobs").absolute()),
    }
    cold = [str(path) for path in made.folder.rglob("*") if path.is_file()]
    work = (
        f"{n_sessions} sessions of {made.settings.session_trials} trials, {len(made.image_ids)} "
        "images, a DINOv2 of 3 blocks of width 64, files not in the page cache"
    )
    yield Inputs(settings, cold, work)


# --- what each side runs -----------------------------------------------------------------------


def run_ours(settings: Settings, *experiments: str, kind: str = "betas") -> list[Used]:
    """`nsd run` with some experiments of the file, or what it does for windows."""
    folder = Path(settings["folder"]) / f"ours_{kind}"
    environment = {
        "NSD_SOURCE": settings["nsd"],
        "NSD_ENCODER": settings["encoder"],
        "NSD_STORAGE": str(folder / "artifacts"),
        "NSD_EXPERIMENTS": str(folder / "experiments.yaml"),
        "NSD_BIDS_DERIVATIVES": f"{settings['nsd']}/derivatives",
        "NSD_BIDS_RAW": f"{settings['nsd']}/nsddata_rawdata",
        "DAGSTER_HOME": str(folder / "history"),
    }
    nsd = str(Path(sys.executable).with_name("nsd"))
    n_sessions = settings["n_sessions"]
    commands = []
    if not folder.exists():
        (folder / "history").mkdir(parents=True)
        (folder / "history/dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        (folder / "experiments.yaml").write_text(EXPERIMENTS)
        commands.append([nsd, "prepare"])
    if kind == "windows":
        script = Path(__file__).with_name("jobs_windows.py")
        commands.append([sys.executable, str(script), str(n_sessions)])
    else:
        chosen = [word for name in experiments for word in ("--experiment", name)]
        commands.append([nsd, "run", "subj01", "--sessions", f"1-{n_sessions}", *chosen])
    return [run_command(command, folder, environment) for command in commands]


def our_top5(settings: Settings, *experiments: str, kind: str = "betas") -> list[float]:
    """Top-5 accuracy of experiments of ours that were run."""
    made = Path(settings["folder"]) / f"ours_{kind}" / "artifacts/experiments"
    tables = [
        pd.read_parquet(made / f"{name}/metrics/subj01/metrics.parquet") for name in experiments
    ]
    return [float(table.set_index("metric")["value"]["top5_acc"]) for table in tables]


def run_script(settings: Settings, *options: str) -> list[Used]:
    """The script, in the folder where it keeps what it has read."""
    folder = Path(settings["folder"]) / "script"
    folder.mkdir(parents=True, exist_ok=True)
    script = str(Path(__file__).with_name("jobs_script.py"))
    arguments = (settings["nsd"], settings["encoder"], str(settings["n_sessions"]))
    return [run_command([sys.executable, script, *arguments, *options], folder, {})]


def script_top5(settings: Settings) -> list[float]:
    """Top-5 accuracy of the models that the script has just trained."""
    path = Path(settings["folder"]) / "script/result.json"
    return list(json.loads(path.read_text()).values())


def _outcome(settings: Settings, kind: str, used: Sequence[Used], top5: Sequence[float]) -> Outcome:
    """What a whole job took, and whether it found what was planted: that much all sides share."""
    return Outcome(
        {"far above chance": np.array(top5) > _CHANCES * settings["chance"]},
        {
            **{f"top-5 accuracy of model {n}": value for n, value in enumerate(top5, 1)},
            "GB read": sum(each.read_bytes for each in used) / 1e9,
            "GB left on the disk": disk_bytes(Path(settings["folder"]) / kind) / 1e9,
        },
        sum(each.seconds for each in used),
        max(each.peak_bytes for each in used),
    )


def _anew(settings: Settings, kind: str) -> None:
    shutil.rmtree(Path(settings["folder"]) / kind, ignore_errors=True)


# --- sides -------------------------------------------------------------------------------------


def ours_on_betas(settings: Settings) -> Repeat:
    """From files to the metrics of ridge and MLP, by `nsd run`."""

    def repeat() -> Outcome:
        _anew(settings, "ours_betas")
        used = run_ours(settings, "ridge", "mlp")
        return _outcome(settings, "ours_betas", used, our_top5(settings, "ridge", "mlp"))

    return repeat


def script_on_betas(settings: Settings) -> Repeat:
    """The same by the script."""

    def repeat() -> Outcome:
        _anew(settings, "script")
        used = run_script(settings, "--model", "ridge", "--model", "mlp")
        return _outcome(settings, "script", used, script_top5(settings))

    return repeat


def ours_again(settings: Settings) -> Repeat:
    """Each change in turn, by `nsd run`, after the whole job on betas."""
    if not (Path(settings["folder"]) / "ours_betas").exists():
        run_ours(settings, "ridge", "mlp")

    def repeat() -> Outcome:
        names = [experiment for experiment, _ in CHANGES.values()]
        used = [run_ours(settings, name)[0] for name in names]
        return _changed(settings, "ours_betas", used, our_top5(settings, *names))

    return repeat


def script_again(settings: Settings) -> Repeat:
    """Each change in turn, by the script, which has kept betas and embeddings."""
    if not (Path(settings["folder"]) / "script").exists():
        run_script(settings, "--model", "ridge", "--model", "mlp")

    def repeat() -> Outcome:
        used, top5 = [], []
        for _, options in CHANGES.values():
            used += run_script(settings, *options)
            top5 += script_top5(settings)
        return _changed(settings, "script", used, top5)

    return repeat


def _changed(settings: Settings, kind: str, used: Sequence[Used], top5: Sequence[float]) -> Outcome:
    whole = _outcome(settings, kind, used, top5)
    seconds = {f"s, {what}": each.seconds for what, each in zip(CHANGES, used, strict=True)}
    return Outcome(whole.values, {**seconds, **whole.facts}, whole.seconds, whole.peak_bytes)


def ours_on_windows(settings: Settings) -> Repeat:
    """From recordings to the metrics of the reference's task."""

    def repeat() -> Outcome:
        _anew(settings, "ours_windows")
        used = run_ours(settings, kind="windows")
        return _outcome(
            settings, "ours_windows", used, our_top5(settings, "windows", kind="windows")
        )

    return repeat


def neuralbench_on_windows(settings: Settings) -> Repeat:
    """The same by neuralbench's own code."""
    folder = Path(settings["folder"]) / "neuralbench"
    script = str(Path(__file__).with_name("jobs_neuralbench.py"))
    arguments = (settings["nsd"], settings["encoder"], str(settings["n_sessions"]))

    def repeat() -> Outcome:
        _anew(settings, "neuralbench")
        folder.mkdir(parents=True)
        command = [str(NEURALBENCH / "bin/python"), script, *arguments]
        used = [run_command(command, folder, {})]
        result = json.loads((folder / "result.json").read_text())
        return _outcome(settings, "neuralbench", used, [result["test/full_retrieval/top5_acc"]])

    return repeat


# --- rows --------------------------------------------------------------------------------------

_IS_THERE: Final = (NEURALBENCH / ".installed").exists()

ROWS: Final = (
    Row(
        "job-windows",
        "The whole job on windows: recordings to the reference's test metrics",
        dataset,
        (
            Side(_OURS, ours_on_windows),
            *((Side(_THEIRS, neuralbench_on_windows),) if _IS_THERE else ()),
        ),
        (faster(_OURS, _THEIRS, 1), less_memory(_OURS, _THEIRS, 1)) if _IS_THERE else (),
        repetitions=1,
        warm_up=False,
        limit=(
            "neuralbench's own configuration, study, extractors, training and metrics; what was "
            "changed for generated data is said in benchmarks/jobs_neuralbench.py."
            if _IS_THERE
            else "neuralbench 0.4.0 was not run: make build/neuralbench/.installed (5 GB)."
        ),
        patience=7200,
    ),
    Row(
        "job-betas",
        "The whole job on betas: files to the test metrics of ridge and MLP",
        dataset,
        (Side(_OURS, ours_on_betas), Side(_SCRIPT, script_on_betas)),
        (faster(_OURS, _SCRIPT, 1), less_memory(_OURS, _SCRIPT, 1)),
        repetitions=1,
        warm_up=False,
        patience=7200,
    ),
    Row(
        "job-again",
        "The second experiment on betas: what has to be done again",
        dataset,
        (Side(_OURS, ours_again), Side(_SCRIPT, script_again)),
        (
            *(fewer(f"s, {what}", _OURS, _SCRIPT, 1) for what in CHANGES),
            less_memory(_OURS, _SCRIPT, 1),
        ),
        repetitions=1,
        warm_up=False,
        limit="The script has kept betas and embeddings as .npy and trusts them. Ours looks whether"
        " files, settings and code are still those, trains, and measures with intervals, ceilings,"
        " figures and the report of all experiments; the script computes one number.",
        patience=7200,
    ),
)
