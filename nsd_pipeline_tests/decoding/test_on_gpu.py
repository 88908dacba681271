"""What a GPU does in another way than the CPU gives the same numbers: tried on the CPU backend."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from nsd_pipeline.decoding import (
    Checkpoint,
    TrainingConfig,
    build_model,
    clip_loss,
    epochs,
    model,
    train_seeds,
    training,
)
from nsd_pipeline.decoding.loader import ResidentLoader
from nsd_pipeline.decoding.validation import validate_together
from nsd_pipeline.evaluation import BatchMetrics
from nsd_pipeline_tests.decoding.test_training import CONFIG, assert_same_training, fit

CPU = torch.device("cpu")


class PretendedGraph:
    """Does at each replay what a graph has recorded; its gradients stay in memory of their own."""

    made = 0

    def __init__(self, compute, batch, parameters, generator, stream):
        type(self).made += 1
        self.compute, self.batch = compute, [tensor.clone() for tensor in batch]
        state = torch.get_rng_state()
        compute(*batch)  # what recording adds to the loss must not count
        torch.set_rng_state(state)

    def __call__(self, *batch):
        for kept, tensor in zip(self.batch, batch, strict=True):
            kept.copy_(tensor)
        self.compute(*self.batch)


@pytest.mark.parametrize("resident", [True, False])
def test_steps_of_a_graph_are_those_of_the_plain_training(cohort, monkeypatch, resident):
    """Full batches by the graph, the short last one without; validation in one go."""
    plain = fit(cohort)
    if resident:
        monkeypatch.setattr(epochs, "load_trials", lambda trials, *_: ResidentLoader(trials, CPU))
    monkeypatch.setattr(PretendedGraph, "made", 0)
    monkeypatch.setattr(epochs, "GraphedGradients", PretendedGraph)
    monkeypatch.setattr(epochs, "graphs_pay", lambda *_: True)
    assert cohort.split("train").n_trials % CONFIG.batch_size
    graphed = fit(cohort)
    assert PretendedGraph.made == 1
    assert_same_training(graphed, plain)


def test_seeds_side_by_side_are_those_of_their_own_trainings(cohort, monkeypatch, tmp_path):
    """Here without dropout, which a GPU draws for each from a generator of its own."""
    monkeypatch.setattr(model, "INPUT_DROPOUT", 0)
    monkeypatch.setattr(model, "BLOCK_DROPOUT", 0)
    config = CONFIG.model_copy(update={"patience": 2})
    alone = {seed: fit(cohort, config, seed=seed) for seed in (3, 1)}
    assert len({len(each.history) for each in alone.values()}) == 2  # one ends before the other
    told, kept = [], {seed: Checkpoint(tmp_path / str(seed), "made of this") for seed in (3, 1)}
    monkeypatch.setattr(training, "graphs_pay", lambda *_: True)
    monkeypatch.setattr(epochs, "load_trials", lambda trials, *_: ResidentLoader(trials, CPU))
    together = train_seeds(
        config,
        cohort.split("train"),
        cohort.split("val"),
        seeds=[3, 1],
        device="cpu",
        on_epoch=lambda seed, row: told.append((row["epoch"], seed)),
        checkpoint_of=kept.get,
    )
    assert told[:4] == [(0, 3), (0, 1), (1, 3), (1, 1)]
    for seed, result in together.items():
        assert_same_training(result, alone[seed])
        again = fit(
            cohort, config, seed=seed, checkpoint=Checkpoint(tmp_path / str(seed), "made of this")
        )
        assert_same_training(again, result)


@pytest.mark.parametrize("norm_kind", ["y", "xy"])
def test_validation_in_one_go_has_the_metrics_of_each_batch(cohort, norm_kind):
    """Also for a short last batch, and for images that a batch has twice."""
    config, data, size = TrainingConfig(hidden=8), cohort.split("val"), 7
    decoder = build_model(config, n_vertices=40, n_times=1, n_outputs=12).eval()
    loader, loss = ResidentLoader(data, CPU), partial(clip_loss, norm_kind=norm_kind)
    assert data.n_trials % size
    metrics, losses, n_same = BatchMetrics(), [], 0
    with torch.inference_mode():
        for numbers in torch.split(torch.arange(data.n_trials), size):
            x, candidate = loader.batch(numbers)
            metrics.update(decoder(x).numpy(), candidate.numpy())
            losses += [loss(decoder(x), candidate).item()] * len(numbers)
            n_same += len(numbers) - len(np.unique(data.target_index[numbers]))
        found = validate_together(loader, data.n_trials, size, decoder, loss)
        broken = copy.deepcopy(decoder)
        broken.lin1.bias[0] = torch.nan
        assert validate_together(loader, data.n_trials, size, broken, loss) is None
    assert n_same
    assert found == pytest.approx({"loss": np.mean(losses), **metrics.compute()}, rel=1e-5)
