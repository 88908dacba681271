"""Half precision is what it says, and nothing that was not asked for."""

import numpy as np
import pytest
import torch

from nsd_pipeline.decoding import Memory, assemble_trials, predict, retrieval_metrics
from nsd_pipeline.decoding.loader import HostLoader, ResidentLoader, load_trials
from nsd_pipeline_tests.decoding.readers import sessions_of
from nsd_pipeline_tests.decoding.test_stream import stream
from nsd_pipeline_tests.decoding.test_training import CONFIG, fit, score

CPU = torch.device("cpu")


def keep(cohort, dtype):
    ids = np.arange(len(cohort.targets)) + 1000
    sessions, memory = sessions_of(cohort), Memory(dtype=dtype)
    return assemble_trials(cohort.table, sessions, ids, cohort.targets, memory=memory)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_betas_are_rounded_once_and_given_as_they_are_kept(cohort, dtype):
    data = keep(cohort, dtype)
    assert data.rows.values.nbytes == cohort.rows.values.nbytes / 2
    assert data.rows.dtype == dtype
    batches = [torch.tensor([3, 399, 0])]
    rounded = torch.from_numpy(cohort.rows.values[batches[0]]).to(getattr(torch, dtype))
    for kept in (data, stream(cohort, dtype=dtype)):
        ((x, y),) = load_trials(kept, CPU, 4).batches(batches)
        assert torch.equal(x[:, :, 0], rounded)
        assert np.array_equal(y, cohort.y_true()[batches[0]])


def test_the_signal_is_found_in_half_precision(cohort):
    reference, chance = score(fit(cohort).model, cohort.split("test"))
    config = CONFIG.model_copy(update={"precision": "bfloat16"})
    result = fit(keep(cohort, "bfloat16"), config)
    metrics, _ = score(result.model, cohort.split("test"))
    assert metrics["inv_norm_rank_mean"] == pytest.approx(reference["inv_norm_rank_mean"], abs=0.05)
    assert metrics["top1_acc"] > 8 * chance["top1_acc"]
    assert all(value.dtype == torch.float32 for value in result.model.state_dict().values())


def test_steps_are_rounded_and_validation_is_not(cohort):
    results = {}
    for precision in ("float32", "bfloat16"):
        config = CONFIG.model_copy(update={"n_epochs": 1, "precision": precision})
        results[precision] = fit(cohort, config)
    assert not torch.equal(
        results["float32"].model.lin1.weight, results["bfloat16"].model.lin1.weight
    )
    validation = cohort.split("val")
    ids = validation.table["image_id"], validation.table["subject"]
    again = retrieval_metrics(
        predict(results["bfloat16"].model, validation), validation.y_true(), *ids, batch_size=32
    )
    row = results["bfloat16"].history.iloc[0]
    assert again["batch_pearson_corr"] == pytest.approx(row["val/batch_pearson_corr"], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_way_to_a_device_gives_the_same_batches(cohort, dtype):
    """The ways that a GPU takes, on the CPU."""
    data, stored = keep(cohort, dtype), stream(cohort, dtype=dtype)
    ways = [
        ResidentLoader(data, CPU),
        ResidentLoader(stored, CPU),
        HostLoader(stored, CPU, 16),
    ]
    for way in ways:
        order = way.shuffle(torch.Generator().manual_seed(0))
        assert np.array_equal(np.sort(order), np.arange(400))
        batches = order.split(16)
        on_host = HostLoader(data, CPU, 16).batches(batches)
        for expected, given in zip(on_host, way.batches(batches), strict=True):
            for one, other in zip(expected, given, strict=True):
                assert torch.equal(one, other)
