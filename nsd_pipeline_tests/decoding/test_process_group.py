"""Several processes train the model that one would."""

import os
import subprocess
import sys

import pandas as pd
import torch
from safetensors.torch import load_file

from nsd_pipeline.decoding import Checkpoint, train
from nsd_pipeline_tests.decoding.test_training import CONFIG

# Of 257 trials, the last batch of 64 has one, so that one of two processes has none.
N_TRIALS = 257
CASES = {
    "reference": {"batch_size": 64, "n_epochs": 3},
    "both ways": {"batch_size": 64, "n_epochs": 2, "norm_kind": "xy", "symmetric": True},
}

MEMBER = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
from nsd_pipeline_tests.decoding.test_process_group import run_cases
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
)
run_cases(folder / str(rank))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def run_cases(folder):
    """Train every case, and write down what came of it."""
    from safetensors.torch import save_file

    from nsd_pipeline_tests.decoding.conftest import make_cohort

    data = make_cohort(signal=1.0, n_trials=600).split("train")
    folder.mkdir()
    training = data.select(range_mask(data.n_trials, 0, N_TRIALS))
    validation = data.select(range_mask(data.n_trials, N_TRIALS, N_TRIALS + 65))
    for name, settings in CASES.items():
        config = CONFIG.model_copy(update=settings)
        checkpoint = Checkpoint(folder.parent / f"{folder.name} {name} checkpoint", name)
        result = train(config, training, validation, device="cpu", checkpoint=checkpoint)
        save_file(result.model.state_dict(), folder / f"{name}.safetensors")
        result.history.to_parquet(folder / f"{name}.parquet")


def range_mask(n, start, stop):
    import numpy as np

    assert stop <= n
    return (np.arange(n) >= start) & (np.arange(n) < stop)


def test_two_processes_give_the_updates_of_one(tmp_path):
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(rank), str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    run_cases(tmp_path / "alone")
    assert [member.wait(60) for member in members] == [0, 0]
    for name in CASES:
        one, *several = (
            load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("alone", "0", "1")
        )
        for key, value in one.items():
            assert torch.equal(several[0][key], several[1][key]), key
            torch.testing.assert_close(several[0][key], value, rtol=1e-4, atol=1e-6, msg=key)
        histories = [
            pd.read_parquet(tmp_path / folder / f"{name}.parquet").drop(columns="seconds")
            for folder in ("alone", "0", "1")
        ]
        pd.testing.assert_frame_equal(histories[1], histories[2])
        pd.testing.assert_frame_equal(histories[0], histories[1], rtol=1e-5)
    # The first one alone keeps a checkpoint.
    assert len(list(tmp_path.glob("0 * checkpoint"))) == len(CASES)
    assert not list(tmp_path.glob("1 * checkpoint"))
