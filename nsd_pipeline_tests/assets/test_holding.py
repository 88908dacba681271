"""Windows are held in memory, in half of it, or not at all, as the options say."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nsd_pipeline.assets.holding import N_VERTICES, hold_windows
from nsd_pipeline.decoding import StreamedTrials, WindowData
from nsd_pipeline.decoding.windows import Windows
from nsd_pipeline.nsd.errors import NotEnoughDataError

N_TRIALS = 30


def hold(**options):
    chosen = {"memory_gb": None, "data_dtype": "float32", "batch_size": 8, "n_processes": 1}
    trials = pd.DataFrame(
        {
            "subject": "subj01",
            "session": 1,
            "trial": np.arange(N_TRIALS),
            "image_id": 7,
            "sample": 3 * np.arange(N_TRIALS),
        }
    )
    return hold_windows(
        Windows(trials, 4, 0),
        lambda subject, session, samples, out: out.fill(0),
        np.array([7]),
        np.ones((1, 5), np.float32),
        SimpleNamespace(**chosen | options),
    )


def test_windows_are_held_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = 3 * (N_TRIALS - 1) + 4  # neighbours share one sample, which is there once
    in_memory = hold()
    assert isinstance(in_memory, WindowData)
    assert in_memory.series.shape == (samples, N_VERTICES)
    needed = in_memory.series.nbytes / 1e9
    assert isinstance(hold(memory_gb=needed), WindowData)
    half = hold(memory_gb=needed / 2, data_dtype="bfloat16")
    assert isinstance(half, WindowData)
    with pytest.raises(NotEnoughDataError, match=r"set memory_gb to \d"):
        hold(memory_gb=needed - 1e-6)
    monkeypatch.setattr("nsd_pipeline.assets.holding.available_bytes", lambda: 1000)
    streamed = hold()
    assert isinstance(streamed, StreamedTrials)
    assert (streamed.n_times, streamed.n_vertices) == (4, N_VERTICES)
