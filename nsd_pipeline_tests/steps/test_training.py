"""Whatever there is of memory and processes, the model is the same."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from nsd_pipeline.assets.cohort import Cohort
from nsd_pipeline.assets.presets import PRESETS
from nsd_pipeline.assets.settings import FmriMlpConfig
from nsd_pipeline.assets.training import TrainingPlan, alone
from nsd_pipeline.decoding.rows import Memory, available_bytes
from nsd_pipeline.errors import NsdError
from nsd_pipeline_tests.pipeline import Pipeline


def test_from_memory_from_the_store_and_in_two_processes(
    pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    graph = pipeline()
    graph.run_sessions("subj01_ses01", "subj01_ses02")
    for stimulus_set in ("shared", "subj01"):
        graph.run_images(stimulus_set)

    def train(**config: Any) -> tuple[dict[str, Any], pd.DataFrame, dict[str, torch.Tensor]]:
        settings = {"n_epochs": 3, "hidden": 8, "batch_size": 16, **config}
        facts = graph.run("fmri_mlp", first="subj01", config={"fmri_mlp": settings})["fmri_mlp"]
        folder = graph.artifacts / "fmri_mlp/subj01"
        history = pd.read_parquet(folder / "history.parquet").drop(columns="seconds")
        return facts, history, load_file(folder / "model.safetensors")

    facts, history, weights = train()
    assert facts["data"] == "in memory"
    again, _, _ = train(n_processes=2)
    assert again["status"] == "up to date, nothing was redone"

    # So few trials fit into any memory. With room to shuffle all of them, the order is the same.
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "holds", lambda *_: False)
        streamed, from_store, streamed_weights = train(memory_gb=4)
    assert streamed["data"].startswith("read in every epoch, shuffled among")
    pd.testing.assert_frame_equal(from_store, history)
    assert all(torch.equal(value, streamed_weights[name]) for name, value in weights.items())

    # Patience makes it another training, and has no effect in three epochs.
    told, together, shared_weights = train(patience=7, n_processes=2)
    assert told["status"] == "made"
    pd.testing.assert_frame_equal(together, history, rtol=1e-5, atol=1e-5)
    for name, value in weights.items():
        # AdamW moves a weight with next to no gradient by the sign of a rounding error.
        assert (shared_weights[name] - value).norm() < 1e-4 * value.norm(), name
    assert graph.leftovers() == []


def make_plan(tmp_path: Path) -> TrainingPlan:
    return TrainingPlan(
        store_url="s3://lab/artifacts",
        cohort=Cohort(
            name="all",
            preset=PRESETS["neuralbench"],
            sessions=["subj01_ses01"],
            stimulus_sets=["shared"],
            inputs={"a": "b"},
            space="func1mm",
            encoder={"model": "facebook/dinov2-giant", "network_size": [224, 224]},
        ),
        config=FmriMlpConfig(precision="bfloat16", head_sizes=[8], data_dtype="float16"),
        folder=tmp_path,
        checkpoint=tmp_path / "scratch" / "checkpoint",
        recipe="1a2b",
    )


def test_a_plan_survives_json(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert TrainingPlan.from_json(plan.to_json()) == plan


def test_a_model_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from nsd_pipeline.assets.training import TrainingPlan, alone\n"
        "plan = TrainingPlan.from_json(sys.argv[1])\n"
        "with alone(plan): print('training', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, plan.to_json()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == b"training\n"
        with pytest.raises(NsdError, match="all is being trained by another process"), alone(plan):
            pass
        other.kill()
    with alone(plan):  # a killed one holds nothing
        pass


def test_a_container_limits_the_memory(tmp_path: Path) -> None:
    free = available_bytes(tmp_path)
    assert free > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path) > 0.5 * free
    (tmp_path / "memory.max").write_text("1500\n")
    assert available_bytes(tmp_path) == 500
