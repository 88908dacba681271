"""What a cohort is made of, and that it stays so while it is read."""

import shutil
from pathlib import Path

import pytest

from nsd_pipeline.assets import keys
from nsd_pipeline.assets.cohort import check_unchanged, find_cohort
from nsd_pipeline.assets.presets import PRESETS
from nsd_pipeline.nsd.errors import ArtifactError
from nsd_pipeline.storage.store import Store, open_store


def put(store: Store, key: str, fingerprint: str) -> None:
    made_by = {"asset": "any", "partition": None, "code_version": "1"}
    with store.write(key, **made_by, fingerprint=fingerprint, inputs={}, config={}) as draft:
        (draft.folder / "file").write_text(fingerprint)


def test_a_cohort_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    preset = PRESETS["betas"]
    for session in ("subj01_ses01", "subj01_ses02"):
        put(store, preset.fmri_key(session), "first")
        put(store, preset.events_key(session), "first")
    for stimulus_set in ("shared", "subj01"):
        put(store, keys.stimulus_embeddings(stimulus_set), "first")
    cohort = find_cohort(store, "subj01", preset)
    check_unchanged(store, cohort)

    put(store, preset.fmri_key("subj01_ses03"), "first")
    put(store, preset.events_key("subj01_ses03"), "first")
    check_unchanged(store, cohort)  # one more is for the next training

    put(store, preset.fmri_key("subj01_ses02"), "second")
    with pytest.raises(ArtifactError, match="was replaced while subj01's data was read") as told:
        check_unchanged(store, cohort)
    assert preset.fmri_key("subj01_ses02") in str(told.value)


@pytest.mark.parametrize("damage", ["file is missing", "torn manifest", "no manifest"])
def test_a_damaged_session_does_not_leave_the_cohort(tmp_path: Path, damage: str) -> None:
    """It is an error, and again at the next attempt; only who deletes a session takes it away."""
    store = open_store(tmp_path)
    preset = PRESETS["betas"]
    for session in ("subj01_ses01", "subj01_ses02"):
        put(store, preset.fmri_key(session), "first")
        put(store, preset.events_key(session), "first")
    for stimulus_set in ("shared", "subj01"):
        put(store, keys.stimulus_embeddings(stimulus_set), "first")
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
