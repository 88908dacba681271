"""What a cohort is made of, and that it stays so while it is read."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsd_pipeline.decoding.cohort import (
    EMBEDDINGS_FILE,
    Cohort,
    check_unchanged,
    read_targets,
    sessions_with,
)
from nsd_pipeline.embeddings import write_embeddings
from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Store

MADE_BY = {"asset": "any", "partition": None, "code_version": "1", "config": {}, "inputs": {}}
GIANT = {
    "model": "facebook/dinov2-giant", "weights": "commit:1234567890", "layers": 0.6667,
    "token_aggregation": "mean", "image_size": 518, "processor": "model", "dtype": "float32",
    "hidden_state": 26, "n_blocks": 40, "device": "cuda",
}  # fmt: skip
SESSIONS = ("subj01_ses01", "subj01_ses02")


def put(store: Store, key: str, fingerprint: str = "first", **metadata: str) -> None:
    with store.write(key, **MADE_BY, fingerprint=fingerprint) as draft:
        (draft.folder / "file").write_text(fingerprint)
        draft.metadata.update(metadata)


def put_session(store: Store, session: str, space: str = "fsaverage") -> None:
    put(store, fmri_key(session), space=space)
    put(store, fmri_key(session).replace("betas.zarr", "events"))


def fmri_key(session: str) -> str:
    return f"betas.zarr/{session.replace('_', '/')}"


def put_embeddings(store: Store, stimulus_set: str, width: int = 4, **changes: Any) -> None:
    encoder = {**GIANT, **changes}
    ids = np.arange(3) + 10 * (stimulus_set == "subj01")
    with store.write(f"images/{stimulus_set}", **MADE_BY, fingerprint=str(encoder)) as draft:
        values = np.ones((3, width), np.float32)
        write_embeddings(draft.folder / EMBEDDINGS_FILE, ids, values, encoder)
        draft.metadata["encoder"] = encoder


def find(store: Store, key: str) -> Manifest:
    manifest = store.find(key)
    assert manifest is not None
    return manifest


def cohort_of(store: Store, sessions: Sequence[str] = SESSIONS) -> Cohort:
    fmri = {session: find(store, fmri_key(session)) for session in sessions}
    return Cohort.of(
        "subj01",
        fmri=fmri,
        events={
            session: find(store, made.key.replace("betas.zarr", "events"))
            for session, made in fmri.items()
        },
        embeddings={each: find(store, f"images/{each}") for each in ("shared", "subj01")},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two sessions, and their images."""
    made = open_store(tmp_path)
    for session in SESSIONS:
        put_session(made, session)
    for stimulus_set in ("shared", "subj01"):
        put_embeddings(made, stimulus_set)
    return made


def test_a_cohort_that_changes_while_it_is_read_is_told(store: Store) -> None:
    cohort = cohort_of(store)
    assert cohort.sessions == list(SESSIONS)
    check_unchanged(store, cohort)
    put_session(store, "subj01_ses03")
    check_unchanged(store, cohort)  # one more is for the next training

    put(store, fmri_key("subj01_ses02"), "second")
    with pytest.raises(ArtifactError, match="was replaced while subj01's data was read") as told:
        check_unchanged(store, cohort)
    assert fmri_key("subj01_ses02") in str(told.value)


def test_a_cohort_that_is_taken_away_while_it_is_read_is_told(store: Store, tmp_path: Path) -> None:
    cohort, key = cohort_of(store), fmri_key("subj01_ses02")
    (tmp_path / "manifests" / f"{key}.json").unlink()
    shutil.rmtree(tmp_path / key)
    with pytest.raises(ArtifactError, match=f"{key} was replaced"):
        check_unchanged(store, cohort)


def test_embeddings_of_two_encoders_are_refused_before_training_by_name(store: Store) -> None:
    put_embeddings(store, "subj01", device="cpu")  # where it ran makes no other encoder
    cohort = cohort_of(store)
    assert cohort.encoder["model"] == "facebook/dinov2-giant"
    assert read_targets(store, cohort)[1].shape == (6, 4)

    put_embeddings(store, "subj01", layers=0.5, hidden_state=20)
    with pytest.raises(ArtifactError, match=r"hidden state 26 .*subj01.* hidden state 20 "):
        cohort_of(store)
    other = {"model": "facebook/dinov2-large", "weights": "commit:abcdef0123"}
    put_embeddings(store, "subj01", width=3, **other)
    with pytest.raises(ArtifactError, match=r"dinov2-giant .*dinov2-large ") as told:
        cohort_of(store)
    assert "with the same encoder" in str(told.value)

    # One encoder by its settings, but a file that was exchanged.
    put_embeddings(store, "subj01", width=3)
    with pytest.raises(ArtifactError, match="shared has 4, subj01 has 3"):
        read_targets(store, cohort_of(store))


def test_a_trained_model_is_of_the_encoder_that_it_was_trained_with(store: Store) -> None:
    cohort = cohort_of(store)
    cohort.require_encoder({**GIANT, "device": "cpu"}, "fmri_mlp")
    with pytest.raises(ArtifactError, match=r"trained on .*dinov2-small.* now of .*dinov2-giant"):
        cohort.require_encoder(
            {**GIANT, "model": "facebook/dinov2-small", "weights": "commit:1"}, "fmri_mlp"
        )


def test_a_model_is_trained_on_one_space(store: Store) -> None:
    assert cohort_of(store).space == "fsaverage"
    put_session(store, "subj01_ses03", space="func1mm")
    with pytest.raises(ArtifactError, match="ses01 came from fsaverage, that of subj01_ses03 from"):
        cohort_of(store, (*SESSIONS, "subj01_ses03"))


@pytest.mark.parametrize("damage", ["file is missing", "torn manifest", "no manifest"])
def test_a_damaged_session_does_not_leave_the_cohort(
    store: Store, tmp_path: Path, damage: str
) -> None:
    """It is an error, and again at the next attempt; only who deletes a session takes it away."""
    key = fmri_key("subj01_ses02")
    manifest = tmp_path / "manifests" / f"{key}.json"
    match damage:
        case "file is missing":
            (tmp_path / key / "file").unlink()
        case "torn manifest":
            manifest.write_text(manifest.read_text()[:50])
        case _:
            manifest.unlink()
    for _ in range(2):
        again = open_store(tmp_path)
        assert sessions_with(again, "betas.zarr", ["subj01"]) == list(SESSIONS)
        with pytest.raises(ArtifactError, match=f"{key} is damaged"):
            cohort_of(again)

    manifest.unlink(missing_ok=True)
    shutil.rmtree(tmp_path / key)
    assert sessions_with(store, "betas.zarr", ["subj01"]) == ["subj01_ses01"]
