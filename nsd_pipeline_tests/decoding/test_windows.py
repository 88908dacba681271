"""A window is the samples that follow an image, whatever the batch, the split and the device."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nsd_pipeline.decoding import (
    HeldRows,
    Memory,
    StoredRows,
    TrainingConfig,
    assemble_trials,
    build_model,
    place_windows,
    predict,
    train,
    vertex_contributions,
)
from nsd_pipeline.decoding.loader import HostLoader, ResidentLoader, load_trials
from nsd_pipeline.errors import MappingError, NotEnoughDataError, NsdError
from nsd_pipeline.surface import SeriesLayout
from nsd_pipeline_tests.decoding.readers import Session

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


def numbered(*sessions: int, n_samples: int = 1100, chunk_rows: int = 30):
    """Sessions whose samples say where they are from."""
    sample = np.arange(n_samples)[:, None] + 0.01 * np.arange(V)
    return {
        ("subj01", session): Session((1000 * session + sample).astype(np.float32), chunk_rows)
        for session in sessions
    }


def assemble(windows, sessions, **options):
    return assemble_trials(
        windows.trials,
        sessions,
        IMAGE_IDS,
        EMBEDDINGS,
        n_times=windows.n_times,
        first="sample",
        **options,
    )


@pytest.fixture
def placed():
    layouts = {("subj01", 1): layout(), ("subj01", 2): layout()}
    return place_windows(make_trials(1, 2), layouts, start=2.0, duration=7.0)


@pytest.fixture
def data(placed):
    return assemble(placed, numbered(1, 2, n_samples=120))


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
        data = assemble(windows._replace(trials=windows.trials.assign(image_id=0)), numbered(1))
        ((x, _),) = load_trials(data, torch.device("cpu"), len(cases)).batches(
            [torch.arange(len(cases))]
        )
        expected = np.array([case["samples"] for case in cases]) + 1000 + 30
        np.testing.assert_allclose(x[:, 0], expected)


def test_batches_are_windows_of_one_series(data):
    # Samples that no window needs are not held: the first ones, and those after the last image.
    assert data.n_vertices == V
    assert data.n_trials * 2 < data.rows.n_rows < 240 - 2
    val = data.split("val")
    assert val.rows is data.rows
    picked = torch.tensor([3, 0, val.n_trials - 1])
    batches = load_trials(val, torch.device("cpu"), 8).batches([picked, torch.tensor([1, 2])])
    x, y = next(batches)
    assert x.shape == (3, V, 4)
    rows = val.table["sample"].to_numpy()[picked, None] + np.arange(4)
    session = val.table["session"].to_numpy()[picked, None]
    np.testing.assert_allclose(x[:, 0], 1000 * session + rows)
    np.testing.assert_array_equal(y, val.y_true()[picked])
    # What a batch costs: its own samples, in the same buffer each time, and nothing is moved.
    again, _ = next(batches)
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

    def respond(session):
        """Images move the third sample of their window, and noise all of them."""
        values = np.random.default_rng(session).standard_normal((120, V)).astype(np.float32)
        third = windows.trials.loc[windows.trials["session"] == session, "sample"] + 2
        values[third] += 3 * targets[session] @ mixing
        return Session(values)

    data = assemble(windows, {("subj01", session): respond(session) for session in (1, 2)})
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
    sessions = numbered(1, 2, n_samples=120)
    rows = StoredRows(list(sessions.values()), block_rows=30, window=len(placed.trials))
    assert rows.starts.tolist() == [0, 120, 240]
    session = placed.trials["session"].to_numpy()
    stored = replace(
        data, rows=rows, first_row=rows.starts[session - 1] + placed.trials["sample"].to_numpy()
    )
    config = TrainingConfig(hidden=8, n_epochs=2, batch_size=16)
    in_memory, streamed = (
        train(config, each.split("train"), each.split("val"), device="cpu")
        for each in (data, stored)
    )
    for name, value in in_memory.model.state_dict().items():
        assert torch.equal(value, streamed.model.state_dict()[name])

    few = replace(stored, rows=replace(rows, window=20))
    batches = torch.arange(data.n_trials).split(16)
    loaders = [load_trials(each, torch.device("cpu"), 16) for each in (few, data)]
    for one, other in zip(*(loader.batches(batches) for loader in loaders), strict=True):
        for value, right in zip(one, other, strict=True):
            torch.testing.assert_close(value, right, rtol=0, atol=0)
    # A block's windows are read at once, those that go on in the next block with it.
    assert max(len(rows) for each in sessions.values() for rows in each.reads) <= 30 + 3


def test_half_precision_halves_the_series(placed, data):
    half = assemble(placed, numbered(1, 2, n_samples=120), memory=Memory(dtype="float16"))
    assert half.rows.values.nbytes == data.rows.values.nbytes / 2
    batches = [torch.arange(4)]
    ((x, _),), ((expected, _),) = (
        load_trials(each, torch.device("cpu"), 4).batches(batches) for each in (half, data)
    )
    assert x.dtype == torch.float16
    torch.testing.assert_close(x.float(), expected, rtol=1e-3, atol=0)


def test_windows_must_lie_in_the_series(data):
    with pytest.raises(ValueError, match="beyond the rows"):
        replace(data, first_row=data.first_row + 50)
    with pytest.raises(ValueError, match="known dtype"):
        HeldRows(data.rows.values.astype(np.float64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gets_the_same_windows(data):
    train_data, device = data.split("train"), torch.device("cuda")
    batches = torch.randperm(train_data.n_trials).split(16)
    for on_gpu in (ResidentLoader(train_data, device), HostLoader(train_data, device, 16)):
        on_host = load_trials(train_data, torch.device("cpu"), 16).batches(batches)
        for expected, given in zip(on_host, on_gpu.batches(batches), strict=True):
            for one, other in zip(expected, given, strict=True):
                torch.testing.assert_close(other.cpu(), one, rtol=0, atol=0)
