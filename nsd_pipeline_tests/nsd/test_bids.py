"""Finding runs by their names: NSD's prepared time series, and BIDS derivatives."""

import json
from pathlib import Path

import numpy as np
import pytest

from nsd_pipeline.errors import ArtifactError, InvalidFileError, MappingError, SourceError
from nsd_pipeline.nsd.bids import event_onsets, find_runs
from nsd_pipeline.nsd.series_runs import read_runs, write_runs

FUNC = "sub-02/ses-nsd03/func"
STEM = "sub-02_ses-nsd03_task-nsdcore"


def touch(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs in three spaces, a resting run, and what else such folders hold."""
    derivatives, raw = tmp_path / "derivatives", tmp_path / "raw"
    func = derivatives / "BOLD" / FUNC
    for run in (1, 2):
        stem = func / f"{STEM}_run-{run:02d}"
        for ending in (
            "_hemi-L_space-fsaverage6_bold.func.gii",
            "_hemi-R_space-fsaverage6_bold.func.gii",
            "_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz",
            "_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz",
            "_space-T1w_desc-preproc_bold.nii.gz",
            "_space-T1w_boldref.nii.gz",
            "_desc-confounds_timeseries.tsv",
        ):
            touch(Path(f"{stem}{ending}"))
        touch(raw / FUNC / f"{STEM}_run-{run:02d}_events.tsv", "onset\t73k_id\n")
    touch(func / "sub-02_ses-nsd03_task-rest_run-01_hemi-L_space-fsaverage6_bold.func.gii")
    touch(raw / "task-nsdcore_bold.json", json.dumps({"RepetitionTime": 1.6}))
    return derivatives, raw


def test_every_space_of_every_run_is_found(trees) -> None:
    found = find_runs(*trees, "subj02", 3, [1, 2])
    assert [(each.run, each.space, each.kind) for each in found] == [
        (run, space, kind)
        for run in (1, 2)
        for space, kind in (
            ("MNI152NLin6Asym_res-2", "mni"),
            ("T1w", "other"),
            ("fsaverage6", "surface"),
        )
    ]
    assert {each.tr for each in found} == {1.6}
    mni, t1w, surface = found[3:]
    assert mni.mask is not None
    assert mni.mask.endswith("run-02_space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz")
    assert t1w.mask is None
    assert [Path(name).name.split("_")[4] for name in surface.files] == ["hemi-L", "hemi-R"]
    assert surface.confounds == mni.confounds is not None
    assert surface.onsets.endswith("run-02_events.tsv")
    write_runs(trees[0], found)
    assert read_runs(trees[0]) == found
    (trees[0] / "runs.json").write_text("[{}]")
    with pytest.raises(ArtifactError, match=r"runs\.json is not a readable list"):
        read_runs(trees[0])


def test_the_innermost_sidecar_of_the_raw_data_counts_and_derivatives_must_agree(trees) -> None:
    derivatives, raw = trees
    touch(raw / FUNC / f"{STEM}_run-02_bold.json", json.dumps({"RepetitionTime": 2.0}))
    found = find_runs(derivatives, raw, "subj02", 3, [1, 2])
    assert {(each.run, each.tr) for each in found} == {(1, 1.6), (2, 2.0)}
    sidecar = derivatives / "BOLD" / FUNC / f"{STEM}_run-02_hemi-R_space-fsaverage6_bold.json"
    touch(sidecar, json.dumps({"RepetitionTime": 1.6}))
    with pytest.raises(InvalidFileError, match=r"hemi-R.* has 1\.6 s, .*bold\.json has 2 s"):
        find_runs(derivatives, raw, "subj02", 3, [1, 2])
    touch(sidecar, "{")
    with pytest.raises(InvalidFileError, match="not a readable sidecar"):
        find_runs(derivatives, raw, "subj02", 3, [1, 2])


def test_what_is_missing_is_named(trees) -> None:
    derivatives, raw = trees
    with pytest.raises(SourceError, match=r"lacks a recording of run 3, 4 of subj02_ses03 \(of 4"):
        find_runs(derivatives, raw, "subj02", 3, [1, 2, 3, 4])
    with pytest.raises(SourceError, match=r"has nothing of subj02_ses04: .* sub-02/ses-nsd04"):
        find_runs(derivatives, raw, "subj02", 4, [1])
    func = derivatives / "BOLD" / FUNC
    double = func / f"{STEM}_acq-b_run-1_hemi-L_space-fsaverage6_bold.func.gii"
    touch(double)
    with pytest.raises(InvalidFileError, match=r"are both of run 0?1 in fsaverage6"):
        find_runs(derivatives, raw, "subj02", 3, [1, 2])
    double.unlink()
    (raw / FUNC / f"{STEM}_run-02_events.tsv").unlink()
    with pytest.raises(SourceError, match=r"has no events\.tsv of run 2"):
        find_runs(derivatives, raw, "subj02", 3, [1, 2])
    (func / f"{STEM}_run-01_hemi-R_space-fsaverage6_bold.func.gii").unlink()
    with pytest.raises(InvalidFileError, match=r"run-01_hemi-L.* has no hemi-R beside it"):
        find_runs(derivatives, raw, "subj02", 3, [1, 2])


def test_events_without_an_image_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\t73k_id\n8.1\t3\t7\n0.066\t3\t73000\n4.2\t3\tn/a\n")
    onsets = event_onsets(path)
    np.testing.assert_array_equal(onsets.seconds, [0.066, 8.1])
    np.testing.assert_array_equal(onsets.numbers, [73_000, 7])
    path.write_text("onset\tduration\n8.1\t3\n")
    with pytest.raises(MappingError, match=r"events\.tsv has no column 73k_id"):
        event_onsets(path)
