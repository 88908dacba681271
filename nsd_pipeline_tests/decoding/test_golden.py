"""The reference's own numbers: model, loss and metrics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nsd_pipeline.decoding import (
    TEMPERATURE_START,
    FmriMlp,
    TrainingConfig,
    build_model,
    clip_loss,
    n_parameters,
    retrieval_metrics,
)
from nsd_pipeline.decoding.order import TrialOrder

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["fmri_mlp_0", "fmri_mlp_1"])
def test_reference_weights_give_the_reference_estimates(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    spec = json.loads(str(golden["spec"]))
    state = {
        key.removeprefix("state/"): torch.from_numpy(golden[key])
        for key in golden.files
        if key.startswith("state/")
    }
    model = FmriMlp(
        spec["V"], spec["out"], spec["hidden"], spec["blocks"], spec["T"], head_sizes=(24,)
    ).eval()
    model.load_state_dict(state)
    assert list(model.state_dict()) == list(state)

    with torch.no_grad():
        y = model(torch.from_numpy(golden["x"]))
    np.testing.assert_allclose(y.numpy(), golden["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [0, 1])
def test_a_seed_draws_the_reference_s_weights(case):
    golden = np.load(GOLDEN / "seeds.npz")
    spec = json.loads(str(golden["specs"]))[case]
    torch.manual_seed(spec["seed"])
    model = FmriMlp(
        spec["V"], spec["out"], spec["hidden"], spec["blocks"], spec["T"], head_sizes=(spec["out"],)
    )
    names = [key for key in golden.files if key.startswith(f"{case}/")]
    assert [f"{case}/{name}" for name in model.state_dict()] == names
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), golden[f"{case}/{name}"], err_msg=name)


def test_trials_come_in_the_reference_s_order():
    golden = np.load(GOLDEN / "seeds.npz")
    n_trials = int(golden["order/n"])
    order = TrialOrder(TrainingConfig().data_seed, n_trials)

    def shuffle(generator):
        return torch.randperm(n_trials, generator=generator)

    epochs = [order.epoch(shuffle).tolist() for _ in golden["order/epochs"]]
    assert epochs == golden["order/epochs"].tolist()


def test_full_size_has_the_reference_parameters():
    golden = json.loads((GOLDEN / "fmri_mlp_seed_config.json").read_text())
    with torch.device("meta"):
        model = FmriMlp(20_484, 1536)
    assert n_parameters(model) == golden["n_params"]
    assert {k: list(v.shape) for k, v in model.named_parameters()} == golden["shapes"]


def test_defaults_are_those_of_the_task():
    """REFERENCE, "The task's configuration"; and the rates of dropout that no golden file shows."""
    config = TrainingConfig()
    assert (config.hidden, config.n_blocks, config.batch_size, config.n_epochs) == (128, 2, 64, 40)
    assert (config.learning_rate, config.weight_decay, config.warmup_fraction) == (1e-4, 0.05, 0.1)
    assert (config.gradient_clip_norm, config.patience) == (1.0, 5)
    assert (config.seeds[0], config.data_seed) == (0, 33)
    assert (config.norm_kind, config.symmetric) == ("y", False)
    assert config.monitor == "val/batch_top5_acc"
    assert all(field.description for field in TrainingConfig.model_fields.values())

    with torch.device("meta"):
        model = build_model(config, n_vertices=20_484, n_times=4, n_outputs=1536)
    assert n_parameters(model) == 5_214_853
    rates = [layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    assert rates == [0.5, 0.15, 0.15]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("norm_kind", ["x", "y", "xy", None])
def test_loss_and_gradient(norm_kind, symmetric):
    golden = np.load(GOLDEN / "clip_loss.npz")
    estimate = torch.from_numpy(golden["estimate"]).requires_grad_()
    loss = clip_loss(
        estimate, torch.from_numpy(golden["candidate"]), norm_kind=norm_kind, symmetric=symmetric
    )
    loss.backward()
    case = f"norm={norm_kind}/symmetric={symmetric}"
    np.testing.assert_allclose(loss.item(), golden[f"loss/{case}"], rtol=1e-5)
    np.testing.assert_allclose(estimate.grad, golden[f"grad/{case}"], rtol=1e-5, atol=1e-7)


def test_loss_at_the_start_of_a_learnable_temperature():
    golden = np.load(GOLDEN / "clip_loss.npz")
    temperature = torch.tensor(TEMPERATURE_START, requires_grad=True)
    estimate, candidate = (
        torch.from_numpy(golden["estimate"]),
        torch.from_numpy(golden["candidate"]),
    )
    loss = clip_loss(estimate, candidate, temperature=temperature)
    loss.backward()
    np.testing.assert_allclose(
        loss.item(), golden["loss/norm=y/symmetric=False/temperature"], rtol=1e-5
    )
    assert temperature.grad != 0


def test_every_retrieval_metric():
    golden = np.load(GOLDEN / "retrieval.npz")
    expected = json.loads((GOLDEN / "retrieval.json").read_text())
    metrics = retrieval_metrics(
        golden["y_pred"],
        golden["y_true"],
        golden["group"],
        golden["subject"],
        set_sizes=(None, 25),
        batch_size=expected["batch_size"],
    )
    assert metrics == pytest.approx(expected["metrics"], rel=1e-5)
