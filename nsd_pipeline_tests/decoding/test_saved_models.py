"""Models survive the disk, and what is not a model says so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nsd_pipeline.decoding import (
    FmriLinear,
    FmriMlp,
    TrainingConfig,
    build_model,
    load_model,
    save_model,
)
from nsd_pipeline.errors import ArtifactError, NsdError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    "model",
    [
        FmriMlp(9, 6, hidden=5, n_blocks=3, n_repetition_times=2, head_sizes=(7, 4)),
        FmriMlp(9, 6, hidden=5, n_blocks=0, n_repetition_times=2, head_sizes=()),
        FmriLinear(9, 6, n_repetition_times=2),
    ],
)
def test_a_saved_model_estimates_the_same(tmp_path, model):
    save_model(tmp_path, model, TrainingConfig(n_epochs=3))
    loaded = load_model(tmp_path)
    x = torch.randn(4, 9, 2)
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=0, atol=0)
    assert loaded.settings == model.settings
    assert not loaded.training
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1, "the umask's, of both"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == type(model).__name__
    assert TrainingConfig(**config["training"]).n_epochs == 3


@pytest.mark.parametrize("prefix", ["", "model."])
def test_reference_weights_load_as_they_are(tmp_path, prefix):
    golden = np.load(GOLDEN / "fmri_mlp_0.npz")
    state = {
        prefix + key.removeprefix("state/"): torch.from_numpy(golden[key])
        for key in golden.files
        if key.startswith("state/")
    }
    save_file(state, tmp_path / "model.safetensors")
    with torch.no_grad():
        y = load_model(str(tmp_path))(torch.from_numpy(golden["x"]))
    np.testing.assert_allclose(y.numpy(), golden["y"], rtol=1e-5, atol=1e-6)


def test_what_is_no_model(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ArtifactError, match="There is no"):
        load_model(tmp_path)
    save_model(tmp_path, FmriLinear(9, 6), TrainingConfig())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="damaged"):
        load_model(tmp_path)
    save_file({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ArtifactError, match="does not hold the weights"):
        load_model(tmp_path)


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    old = FmriLinear(9, 6)
    save_model(tmp_path, old, TrainingConfig())

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path, FmriLinear(9, 5), TrainingConfig())
    assert load_model(tmp_path).settings == old.settings
    assert not list(tmp_path.glob("*.partial"))


def test_a_head_of_the_wrong_width_is_refused():
    config = TrainingConfig(head_sizes=[32, 8])
    assert build_model(config, n_vertices=5, n_times=1, n_outputs=8).settings["head_sizes"] == [
        32,
        8,
    ]
    with pytest.raises(NsdError, match="image embeddings have 9 values"):
        build_model(config, n_vertices=5, n_times=1, n_outputs=9)


@pytest.mark.parametrize("model", ["FmriMlp", "FmriLinear"])
@pytest.mark.parametrize("n_times", [1, 4])
def test_time_can_start_as_a_mean_and_draws_nothing_else_differently(
    model: str, n_times: int
) -> None:
    states = {}
    for start in ("auto", "reference", "mean"):
        torch.manual_seed(0)
        config = TrainingConfig(model=model, time_weights=start, hidden=4)
        built = build_model(config, n_vertices=5, n_times=n_times, n_outputs=3)
        states[start] = built.state_dict()
    over_time = {"out_time_agg.weight", "out_time_agg.bias"}
    for name, value in states["reference"].items():
        assert torch.equal(value, states["mean"][name]) == (name not in over_time)
    assert (states["mean"]["out_time_agg.weight"] == 1 / n_times).all()
    assert (states["mean"]["out_time_agg.bias"] == 0).all()
    # Betas have one time point, windows have several.
    like = "mean" if n_times == 1 else "reference"
    assert all(torch.equal(value, states[like][name]) for name, value in states["auto"].items())
