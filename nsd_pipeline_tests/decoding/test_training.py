"""Training learns what is there, nothing else, the same way every time, and survives a kill."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from nsd_pipeline.decoding import (
    Checkpoint,
    HeldRows,
    TrainingConfig,
    build_model,
    clip_loss,
    predict,
    retrieval_metrics,
    train,
    vertex_contributions,
)
from nsd_pipeline.decoding.order import TrialOrder
from nsd_pipeline.errors import NotEnoughDataError, NsdError
from nsd_pipeline.evaluation import query_ranks, table_chance
from nsd_pipeline_tests.decoding.conftest import make_cohort

CONFIG = TrainingConfig(hidden=24, n_epochs=15, batch_size=32, learning_rate=1e-2)


def fit(data, config=CONFIG, **options):
    return train(config, data.split("train"), data.split("val"), device="cpu", **options)


@pytest.fixture(scope="module")
def result(cohort):
    return fit(cohort)


def assert_same_training(one, other):
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    pd.testing.assert_frame_equal(
        one.history.drop(columns="seconds"), other.history.drop(columns="seconds")
    )
    assert (one.best_epoch, one.best_score) == (other.best_epoch, other.best_score)


def score(model, test):
    arguments = test.table["image_id"], test.table["subject"]
    estimates, targets = predict(model, test), test.y_true()
    return retrieval_metrics(estimates, targets, *arguments), table_chance(
        query_ranks(estimates[None], targets, *arguments, seeds=[0])
    )


def test_signal_is_found(result, cohort):
    """The test images are none of those it was trained on."""
    metrics, chance = score(result.model, cohort.split("test"))
    assert metrics["top1_acc"] > 8 * chance["top1_acc"]
    assert metrics["inv_norm_rank_mean_instance-agg"] > 0.9


@pytest.mark.parametrize("model", ["FmriMlp", "FmriLinear"])
def test_noise_is_not(noise, model):
    config = CONFIG.model_copy(update={"model": model})
    metrics, chance = score(fit(noise, config).model, noise.split("test"))
    assert metrics["inv_norm_rank_mean"] == pytest.approx(chance["inv_norm_rank_mean"], abs=0.1)
    assert metrics["top1_acc"] < 3 * chance["top1_acc"]


def test_same_seeds_same_weights(result, cohort):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert_same_training(fit(cohort), result)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_seeds_other_weights(result, cohort):
    for other in (fit(cohort, seed=7), fit(cohort, CONFIG.model_copy(update={"data_seed": 7}))):
        assert not torch.equal(other.model.lin1.weight, result.model.lin1.weight)


def test_it_is_the_plain_recipe(cohort):
    """AdamW as it comes, clip_grad_norm_, OneCycleLR and a stack of single trials."""
    limit = 2.0  # of the gradients' norms here, some are above it
    config = CONFIG.model_copy(update={"n_epochs": 2, "gradient_clip_norm": limit})
    data = cohort.split("train")
    x, y = (
        torch.from_numpy(data.rows.values[data.first_row])[:, :, None],
        torch.from_numpy(data.y_true()),
    )
    states = []

    torch.manual_seed(0)
    model = build_model(config, n_vertices=40, n_times=1, n_outputs=12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05, foreach=False)
    steps_per_epoch = -(-len(x) // 32)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=2 * steps_per_epoch, pct_start=0.1
    )
    torch.manual_seed(0)
    order, clipped = TrialOrder(config.data_seed, len(x)), 0
    for _ in range(2):
        shuffled = order.epoch(lambda generator: torch.randperm(len(x), generator=generator))
        for trials in shuffled.split(32):
            loss = clip_loss(
                model(torch.stack([x[i] for i in trials])), torch.stack([y[i] for i in trials])
            )
            optimizer.zero_grad()
            loss.backward()
            clipped += torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item() > limit
            optimizer.step()
            scheduler.step()
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    assert 0 < clipped < 2 * steps_per_epoch

    trained = fit(cohort, config)
    for name, value in trained.model.state_dict().items():
        torch.testing.assert_close(
            value, states[trained.best_epoch][name], rtol=1e-4, atol=1e-6, msg=name
        )
    assert list(trained.history["step"]) == [steps_per_epoch, 2 * steps_per_epoch]


def test_the_best_epoch_is_kept_and_patience_ends(noise):
    config = CONFIG.model_copy(update={"n_epochs": 30, "patience": 3})
    result = fit(noise, config)
    scores = result.history["val/batch_top5_acc"]
    assert result.best_epoch == scores.idxmax()
    assert result.best_score == scores.max()
    assert result.stopped_early
    assert len(scores) == result.best_epoch + 1 + 3
    assert list(result.history["epoch"]) == list(range(len(scores)))

    validation = noise.split("val")
    ids = validation.table["image_id"], validation.table["subject"]
    again = retrieval_metrics(
        predict(result.model, validation), validation.y_true(), *ids, batch_size=32
    )
    row = result.history.iloc[result.best_epoch]
    batch = {name: value for name, value in again.items() if name.startswith("batch_")}
    assert batch == pytest.approx({name: row[f"val/{name}"] for name in batch}, rel=1e-5)


def test_the_monitor_chooses_the_epoch():
    """Where there is little signal the two disagree about which epoch is best."""
    faint, kept = make_cohort(signal=0.1), {}
    for monitor in ("val/batch_top5_acc", "val/batch_inv_norm_rank_mean"):
        result = fit(faint, CONFIG.model_copy(update={"monitor": monitor, "patience": 15}))
        scores = result.history[monitor]
        assert (result.best_epoch, result.best_score) == (scores.idxmax(), scores.max())
        kept[monitor] = result.best_epoch
    assert len(set(kept.values())) == 2

    validation = faint.split("val")
    one = validation.select(np.arange(validation.n_trials) == 0)
    config = CONFIG.model_copy(update={"n_epochs": 1})
    assert train(config, faint.split("train"), one).best_epoch == 0
    with pytest.raises(NotEnoughDataError, match="1 to validate on"):
        train(config.model_copy(update={"monitor": monitor}), faint.split("train"), one)


def test_as_good_is_not_better(cohort):
    """Weights that do not move score the same every time: the first epoch stays the best."""
    result = fit(cohort, CONFIG.model_copy(update={"learning_rate": 1e-30, "patience": 2}))
    assert len(set(result.history["val/batch_top5_acc"])) == 1
    assert (result.best_epoch, len(result.history)) == (0, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from nsd_pipeline.decoding import Checkpoint, train
from nsd_pipeline_tests.decoding.conftest import make_cohort
from nsd_pipeline_tests.decoding.test_training import CONFIG

fsync, n_written = os.fsync, 0

def fsync_or_die(descriptor):
    global n_written
    n_written += 1
    if n_written == 7:  # each takes two: of the file, and of its folder
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = fsync_or_die
data = make_cohort(signal=1.0)
checkpoint = Checkpoint(Path(sys.argv[1]), "made of this")
train(CONFIG, data.split("train"), data.split("val"), device="cpu", checkpoint=checkpoint)
"""


def test_a_killed_training_goes_on(tmp_path, result, cohort):
    """Killed while the fourth checkpoint is being written, it goes on after the third epoch."""
    path = tmp_path / "scratch" / "training.safetensors"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    checkpoint, epochs = Checkpoint(path, "made of this"), []
    resumed = fit(cohort, checkpoint=checkpoint, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs[0] == 3
    assert_same_training(resumed, result)

    assert_same_training(fit(cohort, checkpoint=checkpoint, on_epoch=pytest.fail), result)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_of_something_else_is_not_used(tmp_path, result, cohort, caplog):
    """Of other settings, damaged, or of another recipe with the very same numbers."""
    path = tmp_path / "training.safetensors"
    own, other = Checkpoint(path, "made of this"), Checkpoint(path, "made of that")
    fit(cohort, CONFIG.model_copy(update={"n_epochs": 1}), checkpoint=own)
    for damage in (lambda: None, lambda: path.write_bytes(b"?" * 100)):
        damage()
        assert_same_training(fit(cohort, checkpoint=own), result)
    fit(cohort, checkpoint=other)
    assert_same_training(fit(cohort, checkpoint=own), result)
    assert [record.message.split("training.safetensors ")[1][:10] for record in caplog.records] == [
        "is of anot",
        "is damaged",
        "is of anot",
        "is of anot",
    ]


def test_a_warm_up_of_one_step(cohort):
    """OneCycleLR divides by zero there."""
    config = CONFIG.model_copy(update={"n_epochs": 1, "batch_size": 24})
    assert len(fit(cohort, config).history) == 1
    data = cohort.split("train")
    ten_steps = data.select(np.arange(data.n_trials) < 240)
    assert train(config, ten_steps, cohort.split("val")).history["step"].item() == 10


def test_contributions_are_where_the_signal_is(cohort):
    """Invalid vertices are 0 in every trial; noise varies, but a trained model looks past it."""
    betas = cohort.rows.values.copy()
    betas[:, 20:30] = np.random.default_rng(0).standard_normal((len(betas), 10))
    betas[:, 30:] = 0
    data = replace(cohort, rows=HeldRows(betas))
    contributions = vertex_contributions(fit(data).model, data.split("test"))
    signal, noise = contributions[:20].mean(), contributions[20:30].mean()
    assert signal > max(0, 2 * noise)
    assert np.isnan(contributions[30:]).all()


def test_too_few_trials_and_broken_betas(cohort):
    training, validation = cohort.split("train"), cohort.split("val")
    nothing = np.zeros(validation.n_trials, dtype=bool)
    with pytest.raises(NotEnoughDataError, match="0 to validate on"):
        train(CONFIG, training, validation.select(nothing))
    betas = training.rows.values.copy()
    betas[training.first_row[5], 3] = np.nan
    with pytest.raises(NsdError, match="loss is nan in epoch 0"):
        train(CONFIG, replace(training, rows=HeldRows(betas)), validation)
