"""A run is cleaned as it was asked for, and a treatment that cannot be given is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nsd_pipeline.errors import InvalidFileError, NotEnoughDataError, NsdError
from nsd_pipeline.nsd.series_runs import BoldRun
from nsd_pipeline.surface import clean
from nsd_pipeline.surface.cleaned_runs import Treatment, load_run
from nsd_pipeline_tests.surface.test_projected_runs import write_gifti

T = 40
RNG = np.random.default_rng(3)
DATA = (1000 + RNG.standard_normal((20_484, T))).astype(np.float32)


@pytest.fixture
def recording(tmp_path: Path) -> BoldRun:
    for name, half in (("L", DATA[:10_242]), ("R", DATA[10_242:])):
        write_gifti(tmp_path / f"{name}.func.gii", half)
    confounds = pd.DataFrame(
        RNG.standard_normal((T, 4)), columns=["trans_x", "trans_y", "trans_x_derivative1", "csf"]
    )
    confounds.loc[0, "trans_x_derivative1"] = np.nan
    confounds.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False, na_rep="n/a")
    return BoldRun(
        run=3,
        space="fsaverage5",
        kind="surface",
        files=("L.func.gii", "R.func.gii"),
        onsets="events.tsv",
        onsets_kind="events",
        confounds="confounds.tsv",
        tr=1.6,
    )


def load(recording: BoldRun, folder: Path, **treatment):
    def no_operator():
        raise AssertionError("surfaces need no operator")

    return load_run(recording, folder, no_operator, Treatment(**treatment))


def test_by_default_a_run_is_detrended_and_z_scored(recording, tmp_path: Path) -> None:
    series, tr = load(recording, tmp_path)
    assert tr == 1.6
    np.testing.assert_array_equal(series, clean(DATA, 1.6).T)


def test_confounds_are_chosen_by_pattern(recording, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "confounds.tsv", sep="\t")
    chosen = table[["trans_x", "trans_y", "trans_x_derivative1"]]
    expected = clean(DATA, 1.6, confounds=chosen.fillna(chosen.mean()).to_numpy())
    series, _ = load(recording, tmp_path, confounds=["trans_*"])
    np.testing.assert_allclose(series, expected.T, atol=1e-6)
    with pytest.raises(InvalidFileError, match=r"confounds\.tsv has no column rot_x"):
        load(recording, tmp_path, confounds=["trans_x", "rot_x"])
    table[1:].to_csv(tmp_path / "confounds.tsv", sep="\t", index=False)
    with pytest.raises(InvalidFileError, match="has 39 rows, but the run has 40 samples"):
        load(recording, tmp_path, confounds=["csf"])
    without = recording.model_copy(update={"confounds": None})
    with pytest.raises(NsdError, match="Run 3 in fsaverage5 has no table of confounds"):
        load(without, tmp_path, confounds=["csf"])
    table["csf"] = np.nan
    table.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.raises(InvalidFileError, match=r"confounds\.tsv has nothing in the column csf"):
        load(recording, tmp_path, confounds=["csf"])
    table["csf"] = ["0.1"] * 5 + ["0,1"] + ["0.1"] * 34
    table.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False)
    with pytest.raises(NsdError, match=r"confounds\.tsv, line 7: .* has '0,1'"):
        load(recording, tmp_path, confounds=["csf"])


def test_what_cannot_be_done_is_said(recording, tmp_path: Path) -> None:
    with pytest.raises(NsdError, match=r"Smoothing \(fwhm\) is for volumes"):
        load(recording, tmp_path, fwhm=4.0)
    with pytest.raises(InvalidFileError, match="nor a sidecar states a repetition time"):
        load(recording.model_copy(update={"tr": None}), tmp_path)
    for change, says in (
        ({"kind": "other", "space": "T1w"}, "no way from the space 'T1w'"),
        ({"space": "fsLR_den-164k"}, "no way from the space 'fsLR_den-164k'"),
        ({"kind": "mni", "mask": None}, "has no brain mask .*\n.* set brain_mask to 'template'"),
        ({"space": "fsaverage6"}, "has 10,242 vertices, but fsaverage6, .*, has 40,962"),
    ):
        with pytest.raises(NsdError, match=says):
            load(recording.model_copy(update=change), tmp_path)
    with pytest.raises(NsdError, match="the template's brain mask is in MNI152"):
        load(
            recording.model_copy(update={"kind": "mni", "space": "MNIInfant"}),
            tmp_path,
            brain_mask="template",
        )


def test_what_counts_for_the_repetition_time_can_be_chosen(recording, tmp_path: Path) -> None:
    write_gifti(tmp_path / "L.func.gii", DATA[:10_242], TimeStep="1000")
    says = (
        r"the sidecar of .*L\.func\.gii has 1\.6 s, the header of .*L\.func\.gii has 1 s\.\n"
        r".* set tr_from to 'sidecar' or to 'header'"
    )
    with pytest.raises(InvalidFileError, match=says):
        load(recording, tmp_path)
    assert load(recording, tmp_path, tr_from="sidecar")[1] == 1.6
    assert load(recording, tmp_path, tr_from="header")[1] == 1.0
    with pytest.raises(InvalidFileError, match=r"No sidecar of .* states a repetition time"):
        load(recording.model_copy(update={"tr": None}), tmp_path, tr_from="sidecar")
    # Some tools write seconds.
    write_gifti(tmp_path / "L.func.gii", DATA[:10_242], TimeStep="1.6")
    assert load(recording.model_copy(update={"tr": None}), tmp_path)[1] == 1.6


def test_equals_the_reference(golden) -> None:
    data = golden("clean")
    cleaned = clean(data["data"], float(data["tr"]))
    assert cleaned.dtype == np.float32
    np.testing.assert_allclose(cleaned, data["cleaned"], atol=1e-5)


def test_equals_nilearn_across_blocks_and_at_the_scale_of_bold() -> None:
    from nilearn.signal import clean as nilearn_clean

    rng = np.random.default_rng(0)
    data = 1e4 + 30 * rng.standard_normal((1500, 97)) + 5 * np.arange(97)
    expected = nilearn_clean(data.T, detrend=True, standardize="zscore_sample", t_r=1.6).T
    np.testing.assert_allclose(clean(data.astype(np.float32), 1.6), expected, atol=1e-4)
    np.testing.assert_allclose(clean(data, 1.6), expected, atol=1e-6)


def test_bad_samples_and_flat_vertices_stay_where_they_are() -> None:
    rng = np.random.default_rng(1)
    data = rng.standard_normal((300, 500)).astype(np.float32)
    expected = clean(data, 1.0)
    data[7, 3] = np.nan
    data[8, 4] = np.inf
    data[9] = 0.1
    data[10] = 5 - 3 * np.arange(500)
    cleaned = clean(data, 1.0)
    assert np.isnan(cleaned[[7, 8]]).all()
    assert not cleaned[[9, 10]].any()
    others = np.r_[:7, 11:300]
    np.testing.assert_array_equal(cleaned[others], expected[others])


def test_refuses_what_it_cannot_clean() -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        clean(np.zeros((2, 5)), 0.0)
    with pytest.raises(ValueError, match="shape"):
        clean(np.zeros(5), 1.0)
    with pytest.raises(NotEnoughDataError, match="2 samples"):
        clean(np.zeros((5, 2)), 1.0)
