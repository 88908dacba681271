"""Training a cohort's model on what the store holds, in this process or in several.

Several processes are started by ``torch.distributed.run``, one a GPU (or on the CPU, where there is
none), as ``python -m nsd_pipeline.decoding.processes <plan> <device> ...``; each reads its data for
itself.
"""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from nsd_pipeline import decoding
from nsd_pipeline.decoding.cohort import Cohort, check_unchanged, read_data
from nsd_pipeline.decoding.config import OnEpoch, TrainingConfig
from nsd_pipeline.decoding.rows import Integers
from nsd_pipeline.errors import NsdError, Remake
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Store

TRIALS_FILE: Final = "trials.parquet"
VERTICES_FILE: Final = "vertices.npy"
HISTORY_FILE: Final = "history.parquet"

if TYPE_CHECKING:
    import pandas as pd
    import torch

_EPOCH = "epoch "
"""Begins a line of a process's output that has an epoch's row, as JSON."""
_ERROR_FILE = "error.json"
_RESULT_FILE = "result.json"


class TrainingPlan(BaseModel):
    """One training: everything that its processes have to know.

    `store_url` is where fMRI and embeddings are. `folder` holds ``trials.parquet``, with the
    splits, and ``vertices.npy`` if the model is restricted to a region; models and history go
    there. `start_from` is the folder of the models whose weights are begun with (None: random
    ones), and `checkpoints` that of the files that say where each seed's training stands. `recipe`
    is a digest of all that the model is made from: a checkpoint of another one is not used.
    """

    model_config = ConfigDict(frozen=True)

    store_url: str
    cohort: Cohort
    config: TrainingConfig
    folder: Path
    start_from: Path | None = None
    checkpoints: Path
    recipe: str


def train_model(
    plan: TrainingPlan,
    store: Store,
    lease: Callable[[], AbstractContextManager[str | None]],
    on_epoch: OnEpoch,
) -> dict[str, Any]:
    """Train a cohort's model with each seed; write them and their history to the plan's folder.

    `store` is that of the plan, opened. `lease` holds a device for the length of a ``with`` block
    and gives its name for torch (None leaves the choice to torch); it is called once for each
    process. `on_epoch` is called after every epoch, with its row of the history and its ``seed``.
    Returns metadata of the models that were written.

    An NsdError if there are GPUs but fewer than processes, if its data cannot be used, or if a
    process failed.
    """
    import torch

    n_processes = plan.config.n_processes
    n_gpus = torch.cuda.device_count() if n_processes > 1 else 0
    if 0 < n_gpus < n_processes:
        raise NsdError(
            f"{n_processes} processes were asked for, but this run has {n_gpus} GPUs.",
            next_step=f"set n_processes to {n_gpus}, or start it where there are more GPUs.",
        )
    with ExitStack() as held:
        devices = [held.enter_context(lease()) for _ in range(n_processes)]
        if n_processes > 1:
            return _train_in_processes(plan, devices, on_epoch)
        metadata = _train_here(plan, store, devices[0], on_epoch)
    assert metadata is not None  # noqa: S101  # this is the only process
    return metadata


def _train_here(
    plan: TrainingPlan, store: Store, device: str | None, on_epoch: OnEpoch
) -> dict[str, Any] | None:
    """Train in this process, which may be one of several.

    Returns metadata of the models that were written; None in all but the first process.
    """
    import pandas as pd
    from torch import distributed

    trials = pd.read_parquet(plan.folder / TRIALS_FILE)
    data = read_data(
        store,
        plan.cohort,
        trials[trials["split"].isin(["train", "val"])],
        plan.config,
        read_vertices(plan.folder),
    )
    check_unchanged(store, plan.cohort)
    fitted = _fit(plan, data.split("train"), data.split("val"), device, on_epoch)
    kept = "in memory"
    if isinstance(data.rows, decoding.StoredRows):
        kept = f"read in every epoch, shuffled among {data.rows.window} trials"
        check_unchanged(store, plan.cohort)  # it was read until now
    if distributed.is_initialized() and distributed.get_rank() != 0:
        return None
    for seed, model in fitted.models.items():
        decoding.save_model(seed_folder(plan.folder, plan.config, seed), model, plan.config)
    fitted.history.to_parquet(plan.folder / HISTORY_FILE, index=False)
    first = fitted.models[plan.config.seeds[0]]
    monitor = plan.config.monitor
    return {
        "vertices": data.n_vertices,
        "parameters": decoding.n_parameters(first),
        monitor: float(np.mean([each[monitor] for each in fitted.trainings])),
        "trainings": fitted.trainings,
        "device": str(next(first.parameters()).device),
        "seconds of training": fitted.seconds,
        "data": kept,
    }


class _Fitted(NamedTuple):
    """Models by seed, their history, how each came about in a line, and how long all took."""

    models: "Mapping[int, decoding.Decoder]"
    history: "pd.DataFrame"
    trainings: list[dict[str, float]]
    seconds: float


def _fit(
    plan: TrainingPlan,
    learn: "decoding.Trials",
    validate: "decoding.Trials",
    device: str | None,
    on_epoch: OnEpoch,
) -> _Fitted:
    """Train a model for each seed, or fit a ridge regression."""
    import pandas as pd

    config, monitor = plan.config, plan.config.monitor
    if config.model == "ridge":
        begun = time.perf_counter()
        ridge = decoding.fit_ridge(
            learn,
            validate,
            alphas=config.alphas,
            per_target=config.alpha_per_target,
            device=device,
            batch_size=config.batch_size,
        )
        line = {
            "smallest alpha": float(ridge.alphas.min()),
            "largest alpha": float(ridge.alphas.max()),
            "val/r2": ridge.scores["val/r2"],
            monitor: ridge.scores[monitor],
        }
        seconds = time.perf_counter() - begun
        return _Fitted({config.seeds[0]: ridge.model}, ridge.history, [line], seconds)
    # A seed that is done keeps its checkpoint until all are: a run that goes on finds it finished.
    results = decoding.train_seeds(
        config,
        learn,
        validate,
        seeds=config.seeds,
        device=device,
        on_epoch=lambda seed, row: on_epoch({**row, "seed": seed}),
        checkpoint_of=lambda seed: decoding.Checkpoint(
            plan.checkpoints / f"seed_{seed}", plan.recipe
        ),
        start_of=partial(_start_of, plan),
    )
    history = pd.concat(
        [result.history.assign(seed=seed) for seed, result in results.items()], ignore_index=True
    )
    lines = [
        {
            "seed": seed,
            "epochs": len(result.history),
            "best epoch": int(result.best_epoch),
            monitor: float(result.best_score),
        }
        for seed, result in results.items()
    ]
    models = {seed: result.model for seed, result in results.items()}
    return _Fitted(models, history, lines, float(history["seconds"].sum()))


def _start_of(plan: TrainingPlan, seed: int) -> "Mapping[str, torch.Tensor] | None":
    """Weights that a seed's training begins with; None for random ones.

    Those of the same seed, or of the first one where there is no such.
    """
    if plan.start_from is None:
        return None
    folder = plan.start_from / f"seed_{seed}"
    found = folder if folder.exists() else plan.start_from
    return decoding.load_model(found, trusted=plan.config).state_dict()


def read_vertices(folder: Path) -> Integers | None:
    """Numbers (V,) of the fsaverage5 vertices that a model has; None if it has all of them."""
    path = folder / VERTICES_FILE
    return np.load(path, allow_pickle=False) if path.exists() else None


def seed_folder(folder: Path, config: TrainingConfig, seed: int) -> Path:
    """Where the model of a seed lies: the first one in the artifact's own folder, as ever."""
    return folder if seed == config.seeds[0] else folder / f"seed_{seed}"


def _train_in_processes(
    plan: TrainingPlan, devices: Sequence[str | None], on_epoch: OnEpoch
) -> dict[str, Any]:
    """Train in one process for each device; the result is that of one process, to rounding."""
    n_processes = len(devices)
    scratch = plan.checkpoints
    plan_file, error_file = scratch / "plan.json", scratch / _ERROR_FILE
    plan_file.write_text(plan.model_dump_json())
    error_file.unlink(missing_ok=True)
    threads = max(1, (os.cpu_count() or 1) // n_processes)
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(n_processes), "--local-addr", "127.0.0.1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"),
        *("-m", "nsd_pipeline.decoding.processes", str(plan_file)),
        *(device or "cpu" for device in devices),
    ]
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(  # noqa: S603  # our own module
        command,
        env={"OMP_NUM_THREADS": str(threads), **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101
            for line in process.stdout:
                if line.startswith(_EPOCH):
                    on_epoch(json.loads(line.removeprefix(_EPOCH)))
                else:
                    last.append(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode == 0:
        metadata: dict[str, Any] = json.loads((scratch / _RESULT_FILE).read_text())
        return metadata
    if error_file.exists():
        told = json.loads(error_file.read_text())
        raise NsdError(**told | {"remake": told["remake"] and Remake(**told["remake"])})
    raise NsdError(
        f"A process of the training of {plan.cohort.name} ended with exit code"
        f" {process.returncode}. It said last:\n{''.join(last)}",
        next_step="see whether it ran out of memory; with fewer processes each has more.",
    )


def _work(plan_file: Path, devices: Sequence[str]) -> None:
    """Be one of the processes that ``torch.distributed.run`` started."""
    import torch

    plan = TrainingPlan.model_validate_json(plan_file.read_text())
    device = devices[int(os.environ["LOCAL_RANK"])]
    if device != "cpu":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        metadata = _train_here(
            plan,
            open_store(plan.store_url),
            device,
            lambda row: print(_EPOCH + json.dumps(row), flush=True),
        )
    except NsdError as error:
        remake = error.remake and asdict(error.remake)
        told = {"problem": error.problem, "next_step": error.next_step, "remake": remake}
        (plan_file.parent / _ERROR_FILE).write_text(json.dumps(told))
        raise
    if metadata is not None:
        (plan_file.parent / _RESULT_FILE).write_text(json.dumps(metadata))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _work(Path(sys.argv[1]), sys.argv[2:])
