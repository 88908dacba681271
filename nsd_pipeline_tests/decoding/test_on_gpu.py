"""What a GPU does in another way than the CPU gives the same numbers: tried on the CPU backend."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from nsd_pipeline.decoding import TrainingConfig, build_model, clip_loss, training
from nsd_pipeline.decoding.loader import ResidentLoader
from nsd_pipeline.decoding.validation import validate_together
from nsd_pipeline.evaluation import BatchMetrics
from nsd_pipeline_tests.decoding.test_training import CONFIG, assert_same_training, fit

CPU = torch.device("cpu")


class PretendedGraph:
    """Does at each replay what a graph has recorded; its gradients stay in memory of their own."""

    made = 0

    def __init__(self, compute, parameters, batch_size, device):
        type(self).made += 1
        self.compute, self.batch_size = compute, batch_size

    def __call__(self, trials):
        assert len(trials) == self.batch_size
        self.compute(trials)


def test_steps_of_a_graph_are_those_of_the_plain_training(cohort, monkeypatch):
    """Full batches by the graph, the short last one without; validation in one go."""
    plain = fit(cohort)
    monkeypatch.setattr(training, "load_trials", lambda trials, *_: ResidentLoader(trials, CPU))
    monkeypatch.setattr(training, "GraphedGradients", PretendedGraph)
    monkeypatch.setattr(training, "_graphs_pay", lambda *_: True)
    assert cohort.split("train").n_trials % CONFIG.batch_size
    graphed = fit(cohort)
    assert PretendedGraph.made == 1
    assert_same_training(graphed, plain)


@pytest.mark.parametrize("norm_kind", ["y", "xy"])
def test_validation_in_one_go_has_the_metrics_of_each_batch(cohort, norm_kind):
    """Also for a short last batch, and for images that a batch has twice."""
    config, data, size = TrainingConfig(hidden=8), cohort.split("val"), 7
    model = build_model(config, n_vertices=40, n_times=1, n_outputs=12).eval()
    loader, loss = ResidentLoader(data, CPU), partial(clip_loss, norm_kind=norm_kind)
    assert data.n_trials % size
    metrics, losses, n_same = BatchMetrics(), [], 0
    with torch.inference_mode():
        for numbers in torch.split(torch.arange(data.n_trials), size):
            x, candidate = loader.batch(numbers)
            metrics.update(model(x).numpy(), candidate.numpy())
            losses += [loss(model(x), candidate).item()] * len(numbers)
            n_same += len(numbers) - len(np.unique(data.target_index[numbers]))
        found = validate_together(loader, data.n_trials, size, model, loss)
        broken = copy.deepcopy(model)
        broken.lin1.bias[0] = torch.nan
        assert validate_together(loader, data.n_trials, size, broken, loss) is None
    assert n_same
    assert found == pytest.approx({"loss": np.mean(losses), **metrics.compute()}, rel=1e-5)
