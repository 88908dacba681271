"""What a cohort is made of, and that it stays so while it is read."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsd_pipeline import partitions
from nsd_pipeline.assets import keys
from nsd_pipeline.assets.cohort import check_unchanged, find_cohort, read_targets
from nsd_pipeline.assets.embeddings import EMBEDDINGS_FILE
from nsd_pipeline.assets.presets import PRESETS
from nsd_pipeline.embeddings import write_embeddings
from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Store

MADE_BY = {"asset": "any", "partition": None, "code_version": "1"}
GIANT = {
    "model": "facebook/dinov2-giant", "weights": "commit:1234567890", "layers": 0.6667,
    "token_aggregation": "mean", "image_size": 518, "processor": "model", "dtype": "float32",
    "hidden_state": 26, "n_blocks": 40, "device": "cuda",
}  # fmt: skip


def put(store: Store, key: str, fingerprint: str) -> None:
    with store.write(key, **MADE_BY, fingerprint=fingerprint, inputs={}, config={}) as draft:
        (draft.folder / "file").write_text(fingerprint)


def put_embeddings(store: Store, stimulus_set: str, width: int = 4, **changes: Any) -> None:
    encoder, key = {**GIANT, **changes}, keys.stimulus_embeddings(stimulus_set)
    ids = np.arange(3) + 10 * partitions.STIMULUS_SETS.index(stimulus_set)
    with store.write(key, **MADE_BY, fingerprint=str(encoder), inputs={}, config={}) as draft:
        values = np.ones((3, width), np.float32)
        write_embeddings(draft.folder / EMBEDDINGS_FILE, ids, values, encoder)
        draft.metadata["encoder"] = encoder


def test_a_cohort_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    preset = PRESETS["betas"]
    for session in ("subj01_ses01", "subj01_ses02"):
        put(store, preset.fmri_key(session), "first")
        put(store, preset.events_key(session), "first")
    for stimulus_set in ("shared", "subj01"):
        put_embeddings(store, stimulus_set)
    cohort = find_cohort(store, "subj01", preset)
    check_unchanged(store, cohort)

    put(store, preset.fmri_key("subj01_ses03"), "first")
    put(store, preset.events_key("subj01_ses03"), "first")
    check_unchanged(store, cohort)  # one more is for the next training

    put(store, preset.fmri_key("subj01_ses02"), "second")
    with pytest.raises(ArtifactError, match="was replaced while subj01's data was read") as told:
        check_unchanged(store, cohort)
    assert preset.fmri_key("subj01_ses02") in str(told.value)


def test_embeddings_of_two_encoders_are_refused_before_training_by_name(tmp_path: Path) -> None:
    store, preset = open_store(tmp_path), PRESETS["betas"]
    put(store, preset.fmri_key("subj01_ses01"), "first")
    put(store, preset.events_key("subj01_ses01"), "first")
    put_embeddings(store, "shared")
    put_embeddings(store, "subj01", device="cpu")  # where it ran makes no other encoder
    cohort = find_cohort(store, "subj01", preset)
    assert cohort.encoder["model"] == "facebook/dinov2-giant"
    assert read_targets(store, cohort)[1].shape == (6, 4)

    put_embeddings(store, "subj01", layers=0.5, hidden_state=20)
    with pytest.raises(ArtifactError, match=r"hidden state 26 .*subj01.* hidden state 20 "):
        find_cohort(store, "subj01", preset)
    other = {"model": "facebook/dinov2-large", "weights": "commit:abcdef0123"}
    put_embeddings(store, "subj01", width=3, **other)
    with pytest.raises(ArtifactError, match=r"dinov2-giant .*dinov2-large ") as told:
        find_cohort(store, "subj01", preset)
    assert "with the same encoder" in str(told.value)

    # One encoder by its settings, but a file that was exchanged.
    put_embeddings(store, "subj01", width=3)
    with pytest.raises(ArtifactError, match="shared has 4, subj01 has 3"):
        read_targets(store, find_cohort(store, "subj01", preset))


@pytest.mark.parametrize("damage", ["file is missing", "torn manifest", "no manifest"])
def test_a_damaged_session_does_not_leave_the_cohort(tmp_path: Path, damage: str) -> None:
    """It is an error, and again at the next attempt; only who deletes a session takes it away."""
    store = open_store(tmp_path)
    preset = PRESETS["betas"]
    for session in ("subj01_ses01", "subj01_ses02"):
        put(store, preset.fmri_key(session), "first")
        put(store, preset.events_key(session), "first")
    for stimulus_set in ("shared", "subj01"):
        put_embeddings(store, stimulus_set)
    key = preset.fmri_key("subj01_ses02")
    manifest = tmp_path / "manifests" / f"{key}.json"
    match damage:
        case "file is missing":
            (tmp_path / key / "file").unlink()
        case "torn manifest":
            manifest.write_text(manifest.read_text()[:50])
        case _:
            manifest.unlink()
    for _ in range(2):
        with pytest.raises(ArtifactError, match=f"{key} is damaged"):
            find_cohort(open_store(tmp_path), "subj01", preset)

    manifest.unlink(missing_ok=True)
    shutil.rmtree(tmp_path / key)
    assert find_cohort(store, "subj01", preset).sessions == ["subj01_ses01"]
