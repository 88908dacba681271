"""Derivatives as tools and people name and fill them: which files are taken for which run."""

import json
from pathlib import Path

import pytest

from nsd_pipeline.errors import InvalidFileError, SourceError
from nsd_pipeline.nsd.bids import find_runs
from nsd_pipeline.nsd.series_runs import BoldRun

FUNC = "sub-01/ses-nsd01/func"
STEM = "sub-01_ses-nsd01_task-nsdcore"
MNI = "space-MNI152NLin6Asym"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Events of two runs, and no derivatives yet."""
    (tmp_path / "derivatives" / FUNC).mkdir(parents=True)
    raw = tmp_path / "raw" / FUNC
    raw.mkdir(parents=True)
    for run in (1, 2):
        (raw / f"{STEM}_run-{run:02d}_events.tsv").touch()
    return tmp_path


def derive(tree: Path, *names: str) -> None:
    """Files of run 1; `{}` in a name stands for both hemispheres."""
    for name in names:
        for side in "LR" if "{}" in name else "-":
            (tree / "derivatives" / FUNC / f"{STEM}_{name.format(side)}").touch()


def find(tree: Path, *runs: int) -> list[BoldRun]:
    return find_runs(tree / "derivatives", tree / "raw", "subj01", 1, runs or (1,))


def called(path: str | None) -> str | None:
    return path and Path(path).name.removeprefix(f"{STEM}_run-01_")


@pytest.mark.parametrize(
    ("surface", "volumes", "mask", "confounds"),
    [
        pytest.param(
            "hemi-{}_space-fsaverage5_bold.func.gii",
            f"{MNI}_res-2_desc-preproc_bold.nii",
            f"{MNI}_res-2_desc-brain_mask.nii",
            "desc-confounds_timeseries.tsv",
            id="now, not compressed",
        ),
        pytest.param(
            "space-fsaverage5_hemi-{}.func.gii",
            f"{MNI}_res-2_desc-preproc_bold.nii.gz",
            f"{MNI}_res-2_desc-brain_mask.nii.gz",
            "desc-confounds_regressors.tsv",
            id="fMRIPrep 1.2 to 1.5",
        ),
        pytest.param(
            "bold_space-fsaverage5.{}.func.gii",
            f"bold_{MNI}_res-2_preproc.nii.gz",
            f"bold_{MNI}_res-2_brainmask.nii.gz",
            "bold_confounds.tsv",
            id="fMRIPrep 1.0",
        ),
    ],
)
def test_names_of_every_release(tree, surface: str, volumes: str, mask: str, confounds) -> None:
    derive(tree, *(f"run-01_{name}" for name in (surface, volumes, mask, confounds)))
    mni, on_surface = find(tree)
    assert (mni.space, mni.kind, called(mni.mask)) == ("MNI152NLin6Asym_res-2", "mni", mask)
    assert [called(name) for name in mni.files] == [volumes]
    assert (on_surface.space, on_surface.kind) == ("fsaverage5", "surface")
    assert [called(name) for name in on_surface.files] == [surface.format(side) for side in "LR"]
    assert called(mni.confounds) == called(on_surface.confounds) == confounds


def test_the_space_says_more_only_where_two_would_have_one_name(tree) -> None:
    derive(
        tree,
        "run-01_hemi-{}_space-fsaverage_den-10k_bold.func.gii",
        f"run-01_{MNI}_desc-preproc_bold.nii.gz",
    )
    assert [each.space for each in find(tree)] == ["MNI152NLin6Asym", "fsaverage"]
    derive(
        tree,
        "run-01_hemi-{}_space-fsaverage_den-41k_bold.func.gii",
        "run-01_hemi-{}_space-fsaverage_den-41k_desc-denoised_bold.func.gii",
        # An unpacked copy is the same recording; the packed one was always taken.
        f"run-01_{MNI}_desc-preproc_bold.nii",
    )
    mni, *surfaces = find(tree)
    assert [called(name) for name in mni.files] == [f"{MNI}_desc-preproc_bold.nii.gz"]
    assert [each.space for each in surfaces] == [
        "fsaverage_den-10k",
        "fsaverage_den-41k",
        "fsaverage_den-41k_desc-denoised",
    ]


def test_two_reconstructions_keep_their_own_confounds(tree) -> None:
    for rec in ("a", "b"):
        derive(tree, f"rec-{rec}_run-01_{MNI}_desc-preproc_bold.nii.gz")
        derive(tree, f"rec-{rec}_run-01_desc-confounds_timeseries.tsv")
    found = {each.space: Path(each.confounds or "").name for each in find(tree)}
    assert found == {
        f"MNI152NLin6Asym_rec-{rec}": f"{STEM}_rec-{rec}_run-01_desc-confounds_timeseries.tsv"
        for rec in ("a", "b")
    }
    (tree / "raw" / FUNC / f"{STEM}_acq-x_run-1_events.tsv").touch()
    with pytest.raises(InvalidFileError, match=r"_run-1_events.* and .*_run-01_events.*are both"):
        find(tree)


def test_what_is_no_recording_is_passed_over(tree) -> None:
    derive(tree, "run-01_hemi-{}_space-fsaverage5_bold.func.gii")
    func = tree / "derivatives" / FUNC
    for name in [path.name for path in func.iterdir()]:
        (func / f"._{name}").touch()
        (func / ".ipynb_checkpoints").mkdir(exist_ok=True)
        (func / ".ipynb_checkpoints" / name).touch()
    (func / ".DS_Store").touch()
    (func / f"{STEM}_run-01_{MNI}_desc-preproc_bold.nii").mkdir()
    assert [each.space for each in find(tree)] == ["fsaverage5"]


def test_what_was_looked_for_is_said(tree) -> None:
    derive(tree, "run-01_hemi-{}_space-fsaverage5_bold.func.gii")
    derive(tree, f"run-02_{MNI}_desc-denoised_bold.nii.gz")
    with pytest.raises(SourceError) as error:
        find(tree, 1, 2)
    for words in (
        "lacks a recording of run 2 of subj01_ses01 (of 2 runs)",
        "*_task-nsdcore_*run-02*_space-*_bold.func.gii",
        "*_task-nsdcore_*run-02*_space-*_desc-preproc_bold.nii,",
        f"It has {STEM}_run-02_{MNI}_desc-denoised_bold.nii.gz",
        '`leave_out`: ["subj01_ses01_run02"]',
    ):
        assert words in str(error.value)
    with pytest.raises(SourceError, match=r"There is no folder .*/elsewhere"):
        find_runs(tree / "elsewhere", tree / "raw", "subj01", 1, [1])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
def test_sidecars_in_any_encoding(tree, encoding: str) -> None:
    derive(tree, "run-01_hemi-{}_space-fsaverage5_bold.func.gii")
    sidecar = tree / "raw" / "task-nsdcore_bold.json"
    text = json.dumps(
        {"RepetitionTime": 1.6, "Institution": "Universit\u00e4t"}, ensure_ascii=False
    )
    sidecar.write_bytes(text.encode(encoding))
    assert find(tree)[0].tr == 1.6
    sidecar.unlink()
    sidecar.symlink_to(".git/annex/objects/nowhere")
    with pytest.raises(InvalidFileError, match=r"bold\.json is a link to content that is not on"):
        find(tree)
