"""Whatever there is of memory and processes, the model is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from nsd_pipeline.decoding import Memory
from nsd_pipeline_tests.pipeline import Pipeline


def test_from_memory_from_the_store_and_in_two_processes(
    pipeline: Callable[..., Pipeline], two_sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    graph = pipeline(begin=two_sessions)

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
