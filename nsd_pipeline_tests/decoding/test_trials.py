"""A cohort is put together once, in place, and nothing is mixed up on the way."""

import numpy as np
import pandas as pd
import pytest
import torch

from nsd_pipeline.decoding import HeldRows, Memory, StoredRows, Trials, assemble_trials
from nsd_pipeline.decoding import rows as rows_module
from nsd_pipeline.decoding.loader import HostLoader, ResidentLoader, load_trials
from nsd_pipeline.errors import ArtifactError, MappingError, NotEnoughDataError
from nsd_pipeline_tests.decoding.readers import Session

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


def session(subject, number):
    """Betas that say where they are from: subject, session, trial."""
    return Session(np.add.outer(np.arange(4), [100 * subject + 10 * number] * 3).astype(np.float32))


@pytest.fixture
def sessions():
    return {("subj02", 2): session(2, 2), ("subj01", 1): session(1, 1)}


def test_every_trial_gets_its_betas_and_its_target(sessions):
    data = assemble_trials(make_trials(), sessions, IMAGE_IDS, EMBEDDINGS)
    np.testing.assert_array_equal(data.rows.values[:, 0], [220, 221, 110, 111, 112])
    np.testing.assert_array_equal(data.table["image_id"], [12, 7, 300, 7, 50])
    np.testing.assert_array_equal(data.y_true()[:, 0], [6, 2, 4, 2, 0])
    assert np.shares_memory(data.targets, EMBEDDINGS)


def test_some_trials_of_a_session_get_their_own_betas(sessions):
    trials = make_trials().drop(index=[0, 3])
    data = assemble_trials(trials, sessions, IMAGE_IDS, EMBEDDINGS)
    np.testing.assert_array_equal(data.rows.values[:, 0], [220, 110, 112])


def test_splits_are_views_that_batches_follow(sessions):
    data = assemble_trials(make_trials(), sessions, IMAGE_IDS, EMBEDDINGS)
    train = data.split("train")
    assert train.rows is data.rows
    ((x, y),) = load_trials(train, torch.device("cpu"), 4).batches([torch.tensor([1, 0])])
    assert x.shape == (2, 3, 1)
    np.testing.assert_array_equal(x[:, 0, 0], [110, 220])
    np.testing.assert_array_equal(y[:, 0], [4, 6])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gets_the_same_batches(cohort):
    train, device = cohort.split("train"), torch.device("cuda")
    batches = torch.randperm(train.n_trials).split(16)
    for on_gpu in (ResidentLoader(train, device), HostLoader(train, device, 16)):
        on_host = load_trials(train, torch.device("cpu"), 16).batches(batches)
        for expected, value in zip(on_host, on_gpu.batches(batches), strict=True):
            for one, other in zip(expected, value, strict=True):
                torch.testing.assert_close(other.cpu(), one, rtol=0, atol=0)


def test_what_is_missing_is_named(sessions):
    trials = make_trials()
    with pytest.raises(ArtifactError, match=r"2 images have no embedding.*12, 300"):
        assemble_trials(trials, sessions, IMAGE_IDS[:2], EMBEDDINGS[:2])
    with pytest.raises(MappingError, match=r"subj01_ses01 list trial 2 twice"):
        assemble_trials(pd.concat([trials, trials[4:]]), sessions, IMAGE_IDS, EMBEDDINGS)
    with pytest.raises(NotEnoughDataError):
        assemble_trials(trials[:0], sessions, IMAGE_IDS, EMBEDDINGS)
    data = assemble_trials(trials, sessions, IMAGE_IDS, EMBEDDINGS)
    with pytest.raises(NotEnoughDataError, match=r"split 'test'.*subj02_ses02, subj01_ses01"):
        data.select((data.table["split"] == "train").to_numpy(bool, na_value=False)).split("test")
    with pytest.raises(ValueError, match="beyond the rows"):
        Trials(
            rows=HeldRows(np.zeros((3, 2), np.float32)),
            first_row=np.array([2]),
            n_times=2,
            targets=EMBEDDINGS,
            target_index=np.array([0]),
            table=trials[:1],
        )


def test_where_rows_are_kept_follows_from_the_settings_alone(monkeypatch):
    """What is free decides at most whether there is an error: never in which order trials come."""
    values = np.zeros((200, 20_000), np.float32)  # 16 MB
    trials = pd.DataFrame(
        {"subject": "subj01", "session": 1, "trial": np.arange(200), "image_id": 7}
    )

    def rows(**options):
        sessions = {("subj01", 1): Session(values, chunk_rows=1)}
        kept = Memory(**{"batch_size": 2, **options})
        return assemble_trials(trials, sessions, IMAGE_IDS, EMBEDDINGS, memory=kept).rows

    for free in (10**12, 17e6):
        monkeypatch.setattr(rows_module, "available_bytes", lambda free=free: free)
        assert isinstance(rows(), HeldRows)
        assert isinstance(rows(gb=0.016), HeldRows)
        assert isinstance(rows(gb=0.008, dtype="bfloat16"), HeldRows)
        stored = rows(gb=0.0159)
        assert isinstance(stored, StoredRows)
        assert stored.window == Memory(gb=0.0159, batch_size=2).window(
            values=20_000, block_trials=1
        )
    monkeypatch.setattr(rows_module, "available_bytes", lambda: 1_000_000)
    assert isinstance(rows(gb=0.016), HeldRows)  # whoever says so is believed
    with pytest.raises(NotEnoughDataError, match=r"0\.016 GB, but 0\.001 GB.*\n.*set memory_gb"):
        rows()


def test_a_container_limits_the_memory(tmp_path):
    free = rows_module.available_bytes(tmp_path)
    assert free > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert rows_module.available_bytes(tmp_path) > 0.5 * free
    (tmp_path / "memory.max").write_text("1500\n")
    assert rows_module.available_bytes(tmp_path) == 500
