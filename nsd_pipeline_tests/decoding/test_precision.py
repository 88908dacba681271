"""Half precision is what it says, and nothing that was not asked for."""

import numpy as np
import pytest
import torch

from nsd_pipeline.decoding import assemble_trials, predict, retrieval_metrics
from nsd_pipeline.decoding.gather import _OnDevice, _ReadOntoDevice, _Streamed, gather_trials
from nsd_pipeline.decoding.stream import _Window
from nsd_pipeline_tests.decoding.test_stream import Store
from nsd_pipeline_tests.decoding.test_training import CONFIG, fit, score

CPU = torch.device("cpu")


def keep(cohort, dtype):
    ids = np.arange(len(cohort.targets)) + 1000
    rows = iter(np.split(cohort.betas, 2))

    def read(subject, session, trials, out):
        out[:] = next(rows)

    return assemble_trials(cohort.trials, 40, read, ids, cohort.targets, dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_betas_are_rounded_once_and_handed_out_as_they_are_kept(cohort, dtype):
    data = keep(cohort, dtype)
    assert data.betas.nbytes == cohort.betas.nbytes / 2
    trials = torch.tensor([3, 399, 0])
    x, y = data.gather(CPU, 4)(trials)
    rounded = torch.from_numpy(cohort.betas[trials]).to(getattr(torch, dtype))
    assert torch.equal(x[:, :, 0], rounded)
    assert np.array_equal(y, cohort.y_true()[trials])

    window = Store(cohort).stream(dtype=dtype).gather(CPU, 4)
    assert torch.equal(window(trials)[0], x)
    window.expect(trials)
    assert torch.equal(window(trials)[0], x)


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
    ids = validation.trials["image_id"], validation.trials["subject"]
    again = retrieval_metrics(
        predict(results["bfloat16"].model, validation), validation.y_true(), *ids, batch_size=32
    )
    row = results["bfloat16"].history.iloc[0]
    assert again["batch_pearson_corr"] == pytest.approx(row["val/batch_pearson_corr"], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_way_to_a_device_gives_the_same_batches(cohort, dtype):
    """The ways that a GPU takes, on the CPU."""
    data, stream = keep(cohort, dtype), Store(cohort).stream(dtype=dtype)
    on_host = gather_trials(data, CPU, 16)
    ways = [
        _OnDevice(data, CPU),
        _Streamed(data, CPU, 16),
        _Streamed(stream, CPU, 16, _Window(stream, 16)),
        _ReadOntoDevice(stream, CPU, _Window(stream, 16)),
    ]
    for way in ways:
        order = way.shuffle(torch.Generator().manual_seed(0))
        assert np.array_equal(np.sort(order), np.arange(400))
        way.expect(order)
        for trials in torch.split(order, 16):
            for expected, value in zip(on_host(trials), way(trials), strict=True):
                assert torch.equal(value, expected)
