"""A window is the samples that follow an image, whatever the batch, the split and the device."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nsd_pipeline.decoding import (
    TrainingConfig,
    assemble_windows,
    build_model,
    place_windows,
    predict,
    stream_trials,
    train,
    vertex_contributions,
)
from nsd_pipeline.decoding.gather import _OnDevice, _Streamed, gather_trials
from nsd_pipeline.decoding.windows import count_samples, read_windows
from nsd_pipeline.nsd.errors import MappingError, NotEnoughDataError, NsdError
from nsd_pipeline.surface import SeriesLayout

GOLDEN = Path(__file__).parents[1] / "golden"
V, D = 12, 6
IMAGE_IDS = np.arange(40)
EMBEDDINGS = np.random.default_rng(5).standard_normal((40, D)).astype(np.float32)


def layout(tr: float = 1.6, n: int = 60) -> SeriesLayout:
    return SeriesLayout.of_runs(tr, {1: n, 2: n})


def make_trials(*sessions: int, n: int = 20) -> pd.DataFrame:
    """Two runs of images 4 s apart, onsets a little late as scanners have them."""
    rng = np.random.default_rng(3)
    parts = [
        pd.DataFrame(
            {
                "subject": "subj01",
                "session": session,
                "run": np.repeat([1, 2], n),
                "trial": np.arange(2 * n),
                "start": np.tile(4.0 * np.arange(n), 2) + rng.uniform(0, 0.3, 2 * n),
                "image_id": rng.permutation(2 * n) % 40,
                "split": np.where(np.arange(2 * n) < n, "train", "val"),
            }
        )
        for session in sessions
    ]
    return pd.concat(parts, ignore_index=True)


def number_samples(subject, session, samples, out):
    """Samples that say where they are from."""
    out[:] = 1000 * session + samples[:, None] + 0.01 * np.arange(V)


@pytest.fixture
def placed():
    layouts = {("subj01", 1): layout(), ("subj01", 2): layout()}
    return place_windows(make_trials(1, 2), layouts, start=2.0, duration=7.0)


@pytest.fixture
def data(placed):
    windows = placed
    return assemble_windows(
        windows.trials, windows.n_times, V, number_samples, IMAGE_IDS, EMBEDDINGS
    )


def test_golden_windows_are_the_samples_that_a_batch_holds():
    golden = json.loads((GOLDEN / "windows.json").read_text())
    for tr, n_times in ((1.6, 4), (4 / 3, 5), (1.0, 7)):
        cases = [case for case in golden["windows"] if abs(case["tr"] - tr) < 1e-3]
        assert cases
        onsets = [case["onset"] for case in cases]
        layouts = {("subj01", 1): SeriesLayout(cases[0]["tr"], {1: (0, 30), 2: (30, 1000)})}
        trials = make_trials(1, n=len(cases))[len(cases) :].assign(start=onsets)
        windows = place_windows(trials, layouts, start=golden["start"], duration=golden["duration"])
        assert (windows.n_times, windows.n_dropped) == (n_times, 0)
        data = assemble_windows(
            windows.trials.assign(image_id=0), n_times, V, number_samples,
            IMAGE_IDS, EMBEDDINGS,
        )  # fmt: skip
        x, _ = data.gather(torch.device("cpu"), len(cases))(torch.arange(len(cases)))
        expected = np.array([case["samples"] for case in cases]) + 1000 + 30
        np.testing.assert_allclose(x[:, 0], expected)


def test_batches_are_windows_of_one_series(data):
    # Samples that no window needs are not held: the first ones, and those after the last image.
    assert data.series.shape[1] == V
    assert data.n_trials * 2 < len(data.series) < 240 - 2
    val = data.split("val")
    assert np.shares_memory(val.series, data.series)
    gather = val.gather(torch.device("cpu"), 8)
    picked = torch.tensor([3, 0, val.n_trials - 1])
    x, y = gather(picked)
    assert x.shape == (3, V, 4)
    rows = val.trials["sample"].to_numpy()[picked, None] + np.arange(4)
    session = val.trials["session"].to_numpy()[picked, None]
    np.testing.assert_allclose(x[:, 0], 1000 * session + rows)
    np.testing.assert_array_equal(y, val.y_true()[picked])
    # What a batch costs: its own samples, in the same buffer each time, and nothing is moved.
    again, _ = gather(torch.tensor([1, 2]))
    assert again.data_ptr() == x.data_ptr()
    assert x.transpose(1, 2).is_contiguous()


def test_windows_beyond_their_run_are_dropped_and_counted():
    # The last two of 20 images start at 72 and 76 s: their windows end after samples 50 and 53.
    for n, dropped in ((53, 0), (52, 2), (50, 2), (49, 4)):
        windows = place_windows(
            make_trials(1).assign(start=lambda t: t["trial"] % 20 * 4.0),
            {("subj01", 1): layout(n=n)},
            start=2.0,
            duration=7.0,
        )
        assert windows.n_dropped == dropped
        last = windows.trials["sample"] - np.where(windows.trials["run"] == 2, n, 0) + 4
        assert last.max() <= n
    with pytest.raises(NotEnoughDataError, match=r"None of 40 trials has a window of 7\.0 s"):
        place_windows(make_trials(1), {("subj01", 1): layout(n=3)}, start=2.0, duration=7.0)


def test_sessions_that_do_not_fit_are_named():
    layouts = {("subj01", 1): layout(), ("subj01", 2): layout(tr=4 / 3)}
    with pytest.raises(NsdError, match=r"subj01_ses01 has 1\.6 s, subj01_ses02 has 1\.3333 s"):
        place_windows(make_trials(1, 2), layouts, start=2.0, duration=7.0)
    one_run = SeriesLayout(1.6, {1: (0, 60)})
    with pytest.raises(MappingError, match="subj01_ses01 lack run 2"):
        place_windows(make_trials(1), {("subj01", 1): one_run}, start=2.0, duration=7.0)


def test_a_model_of_four_time_points_learns_from_windows(placed):
    windows = placed
    targets = {
        key: EMBEDDINGS[group["image_id"]] for key, group in windows.trials.groupby("session")
    }
    mixing = np.random.default_rng(0).standard_normal((D, V)).astype(np.float32)

    def respond(subject, session, samples, out):
        """Images move the third sample of their window, and noise all of them."""
        out[:] = np.random.default_rng(session).standard_normal(out.shape)
        third = windows.trials.loc[windows.trials["session"] == session, "sample"] + 2
        out[np.searchsorted(samples, third.to_numpy())] += 3 * targets[session] @ mixing

    data = assemble_windows(windows.trials, windows.n_times, V, respond, IMAGE_IDS, EMBEDDINGS)
    config = TrainingConfig(hidden=32, n_epochs=30, learning_rate=1e-2, batch_size=16, patience=30)
    result = train(config, data.split("train"), data.split("val"), device="cpu")
    assert result.model.settings["n_repetition_times"] == 4
    assert result.best_score > 3 * 5 / 16 / 2  # half again above the chance of top 5 among 16
    assert predict(result.model, data).shape == (data.n_trials, D)
    assert vertex_contributions(result.model, data).shape == (V,)


@pytest.mark.parametrize(("tr", "n_times"), [(1.6, 4), (4 / 3, 5), (1.0, 7)])
def test_the_reference_model_gets_the_time_points_of_the_repetition_time(tr, n_times):
    windows = place_windows(
        make_trials(1), {("subj01", 1): layout(tr, n=100)}, start=2.0, duration=7.0
    )
    model = build_model(TrainingConfig(), n_vertices=V, n_times=windows.n_times, n_outputs=1536)
    assert model.settings["n_repetition_times"] == windows.n_times == n_times


def test_windows_larger_than_memory_come_from_the_store(placed, data):
    """With room for all of them it is the same training; with little room, the same windows."""
    trials, n_times, _ = placed
    chunks = []

    def read(subject, session, samples, out):
        chunks.append(len(samples))
        number_samples(subject, session, samples, out)

    def stream(window):
        return stream_trials(
            trials, V, read_windows(trials, n_times, V, read), IMAGE_IDS, EMBEDDINGS,
            chunk_trials=10, window=window, n_times=n_times,
        )  # fmt: skip

    config = TrainingConfig(hidden=8, n_epochs=2, batch_size=16)
    in_memory, streamed = (
        train(config, each.split("train"), each.split("val"), device="cpu")
        for each in (data, stream(len(trials)))
    )
    for name, value in in_memory.model.state_dict().items():
        assert torch.equal(value, streamed.model.state_dict()[name])
    assert count_samples(trials, n_times) == len(data.series)
    assert max(chunks) <= 10 * n_times

    order = torch.arange(data.n_trials)
    gather, expected = (each.gather(torch.device("cpu"), 16) for each in (stream(20), data))
    gather.expect(order)
    for batch in torch.split(order, 16):
        for value, right in zip(gather(batch), expected(batch), strict=True):
            torch.testing.assert_close(value, right, rtol=0, atol=0)


def test_half_precision_halves_the_series(placed, data):
    half = assemble_windows(
        placed.trials, placed.n_times, V, number_samples, IMAGE_IDS, EMBEDDINGS, dtype="float16"
    )
    assert half.series.nbytes == data.series.nbytes / 2
    x, _ = half.gather(torch.device("cpu"), 4)(torch.arange(4))
    expected, _ = data.gather(torch.device("cpu"), 4)(torch.arange(4))
    assert x.dtype == torch.float16
    torch.testing.assert_close(x.float(), expected, rtol=1e-3, atol=0)


def test_windows_must_lie_in_the_series(data):
    with pytest.raises(ValueError, match="beyond the series"):
        replace(data, first=data.first + 50)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gets_the_same_windows(data):
    train_data, device = data.split("train"), torch.device("cuda")
    on_host = gather_trials(train_data, torch.device("cpu"), 16)
    for on_gpu in (_OnDevice(train_data, device), _Streamed(train_data, device, 16)):
        for trials in torch.randperm(train_data.n_trials).split(16):
            for expected, value in zip(on_host(trials), on_gpu(trials), strict=True):
                torch.testing.assert_close(value.cpu(), expected, rtol=0, atol=0)
