"""A cohort is put together once, in place, and nothing is mixed up on the way."""

import numpy as np
import pandas as pd
import pytest
import torch

from nsd_pipeline.decoding import assemble_trials
from nsd_pipeline.decoding.gather import _OnDevice, _Streamed, gather_trials
from nsd_pipeline.nsd.errors import ArtifactError, MappingError, NotEnoughDataError

IMAGE_IDS = np.array([50, 7, 300, 12])
EMBEDDINGS = np.arange(8, dtype=np.float32).reshape(4, 2)


def make_trials():
    """Nullable types, as event tables have them; subj02 comes first, its trials out of order."""
    return pd.DataFrame(
        {
            "subject": pd.array(["subj02"] * 2 + ["subj01"] * 3, dtype="string"),
            "session": pd.array([2, 2, 1, 1, 1], dtype="Int64"),
            "trial": pd.array([1, 0, 0, 1, 2], dtype="Int64"),
            "image_id": pd.array([7, 12, 300, 7, 50], dtype="Int64"),
            "split": pd.array(["test", "train", "train", None, "val"], dtype="string"),
        }
    )


def fill(subject, session, trials, out):
    """Betas that say where they are from: subject, session, trial."""
    out[:] = int(subject[-1]) * 100 + session * 10 + trials[:, None]


def test_every_trial_gets_its_betas_and_its_target():
    slices = []

    def read(subject, session, trials, out):
        slices.append(out)
        fill(subject, session, trials, out)

    data = assemble_trials(make_trials(), 3, read, IMAGE_IDS, EMBEDDINGS)
    np.testing.assert_array_equal(data.betas[:, 0], [220, 221, 110, 111, 112])
    np.testing.assert_array_equal(data.trials["image_id"], [12, 7, 300, 7, 50])
    np.testing.assert_array_equal(data.y_true()[:, 0], [6, 2, 4, 2, 0])
    assert all(np.shares_memory(part, data.betas) for part in slices)
    assert np.shares_memory(data.targets, EMBEDDINGS)


def test_some_trials_of_a_session_get_their_own_betas():
    data = assemble_trials(make_trials().drop(index=[0, 3]), 3, fill, IMAGE_IDS, EMBEDDINGS)
    np.testing.assert_array_equal(data.betas[:, 0], [220, 110, 112])


def test_splits_are_views_that_batches_follow():
    data = assemble_trials(make_trials(), 3, fill, IMAGE_IDS, EMBEDDINGS)
    train = data.split("train")
    assert np.shares_memory(train.betas, data.betas)
    x, y = train.gather(torch.device("cpu"), 4)(torch.tensor([1, 0]))
    assert x.shape == (2, 3, 1)
    np.testing.assert_array_equal(x[:, 0, 0], [110, 220])
    np.testing.assert_array_equal(y[:, 0], [4, 6])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gets_the_same_batches(cohort):
    train, device = cohort.split("train"), torch.device("cuda")
    on_host = gather_trials(train, torch.device("cpu"), 16)
    for on_gpu in (_OnDevice(train, device), _Streamed(train, device, 16)):
        for trials in torch.randperm(train.n_trials).split(16):
            for expected, value in zip(on_host(trials), on_gpu(trials), strict=True):
                torch.testing.assert_close(value.cpu(), expected, rtol=0, atol=0)


def test_what_is_missing_is_named():
    trials = make_trials()
    with pytest.raises(ArtifactError, match=r"2 images have no embedding.*12, 300"):
        assemble_trials(trials, 3, fill, IMAGE_IDS[:2], EMBEDDINGS[:2])
    with pytest.raises(MappingError, match=r"subj01_ses01 list trial 2 twice"):
        assemble_trials(pd.concat([trials, trials[4:]]), 3, fill, IMAGE_IDS, EMBEDDINGS)
    with pytest.raises(NotEnoughDataError):
        assemble_trials(trials[:0], 3, fill, IMAGE_IDS, EMBEDDINGS)
    data = assemble_trials(trials, 3, fill, IMAGE_IDS, EMBEDDINGS)
    with pytest.raises(NotEnoughDataError, match=r"split 'test'.*subj02_ses02, subj01_ses01"):
        data.select((data.trials["split"] == "train").to_numpy(bool, na_value=False)).split("test")
