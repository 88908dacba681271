"""The windowed task from recordings to the report, and bad recordings in one message each.

Recordings are the demo's: BIDS derivatives on fsaverage5 with a repetition time of 1.6 s.
"""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import zarr
from nilearn.signal import clean

from nsd_pipeline.demo.made_files import DERIVATIVES, RAW
from nsd_pipeline.steps.decoding import FmriMlpConfig
from nsd_pipeline.surface import clean as clean_series
from nsd_pipeline.surface import project_volume
from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd
from nsd_pipeline_tests.steps.test_bad_input import fails

BOLD_ASSETS = ("events", "bold", "bold_events", "fsaverage5_series")
FSAVERAGE5 = {"query": "type != 'Fmri' or space == 'fsaverage5'"}
FIRST, LAST = "subj01_ses01", "subj01_ses02"
SURFACE = "_space-fsaverage5_bold.func.gii"
FUNC = f"{DERIVATIVES}/sub-01/ses-nsd01/func/sub-01_ses-nsd01_task-nsdcore_run-"


def config(folder: Path, **series: object) -> dict[str, dict]:
    return {
        "bold": {"derivatives": str(folder / DERIVATIVES), "raw": str(folder / RAW)},
        "fsaverage5_series": FSAVERAGE5 | series,
    }


def test_every_stage_on_windows(pipeline: Callable[..., Pipeline], small_nsd: SmallNsd) -> None:
    graph = pipeline()
    graph.run("experiment_design")
    session_facts = graph.run(
        *BOLD_ASSETS, "fsaverage_events", first=FIRST, last=LAST, config=config(small_nsd.folder)
    )
    assert session_facts["fsaverage5_series"]["tr"] == 1.6
    assert graph.failed_checks == []

    # Each run is detrended and z-scored on its own, hemispheres side by side.
    group = zarr.open_group(graph.artifacts / "fsaverage5_series.zarr/subj01/ses01", mode="r")
    run = group.attrs["runs"][3]
    files = [f"{small_nsd.folder}/{FUNC}04_hemi-{side}{SURFACE}" for side in "LR"]
    recorded = [np.stack([each.data for each in nibabel.load(file).darrays]) for file in files]
    expected = clean(
        np.concatenate(recorded, axis=1), detrend=True, standardize="zscore_sample", t_r=1.6
    )
    first = run["first_sample"]
    cleaned = group["series"][first : first + run["n_samples"]]
    np.testing.assert_allclose(cleaned, expected, atol=1e-3)

    # Onsets are the recording's own, not those of the design.
    events = pd.read_parquet(graph.artifacts / "bold_events/subj01/ses01/events.parquet")
    raw = pd.read_csv(
        small_nsd.folder / f"{RAW}/{FUNC.removeprefix(DERIVATIVES + '/')}04_events.tsv", sep="\t"
    )
    trials = events[(events["type"] == "Image") & (events["run"] == 4)]
    np.testing.assert_allclose(trials["start"], raw["onset"])
    np.testing.assert_array_equal(trials["image_id"] + 1, raw["73k_id"])
    assert set(events.loc[events["type"] == "Fmri", "space"]) == {"fsaverage5"}

    graph.run_images("shared", "subj01")
    quick = {"preset": "neuralbench", "n_epochs": 2, "hidden": 8}
    facts = graph.run("fmri_mlp", "retrieval_metrics", first="subj01", config={"fmri_mlp": quick})
    # Two epochs of a tiny model promise nothing, and the subject has more sessions in NSD.
    assert set(graph.failed_checks) <= {
        "retrieval_metrics:above_chance",
    }
    model = facts["fmri_mlp"]
    assert model["preset"] == "neuralbench"
    assert model["time points"] == 4
    assert model["trials dropped (window beyond the run)"] == 0
    settings = json.loads((graph.artifacts / "fmri_mlp/subj01/config.json").read_text())["settings"]
    assert settings["n_repetition_times"] == 4
    manifest = graph.store.manifest("fmri_mlp/subj01")
    assert manifest.config["preset"] == "neuralbench"
    assert "fsaverage5_series.zarr/subj01/ses02" in manifest.inputs
    graph.run("decoding_report")
    assert "neuralbench" in (graph.artifacts / "decoding_report/report.html").read_text()

    # A session that was treated differently is noticed.
    graph.run(
        "fsaverage5_series",
        first=LAST,
        config={"fsaverage5_series": FSAVERAGE5 | {"high_pass": 0.01}},
    )
    assert graph.failed_checks == ["fsaverage5_series:made_alike"]
    graph.run("fsaverage5_series", first=LAST, config={"fsaverage5_series": FSAVERAGE5})
    assert graph.failed_checks == []

    # Nothing is redone, and no window was stored anywhere.
    again = graph.run(*BOLD_ASSETS, first=FIRST, last=LAST, config=config(small_nsd.folder))
    again |= graph.run("fmri_mlp", "retrieval_metrics", first="subj01", config={"fmri_mlp": quick})
    assert {each["status"] for each in again.values()} == {"up to date, nothing was redone"}
    assert graph.leftovers() == []


def test_volumes_of_derivatives_go_to_the_surface_within_their_mask(
    pipeline: Callable[..., Pipeline], small_nsd: SmallNsd, tmp_path: Path
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    rng = np.random.default_rng(0)
    affine = np.array([[-9.0, 0, 0, 90], [0, 9, 0, -126], [0, 0, 9, -72], [0, 0, 0, 1]])
    mask = np.ones((21, 25, 21), np.uint8)
    mask[:10] = 0
    runs = []
    for surface in sorted((mirror / FUNC).parent.glob("*_hemi-L_*.func.gii")):
        stem = str(surface).partition("_hemi-L")[0] + "_space-MNI152NLin6Asym_desc-"
        n_samples = len(nibabel.load(surface).darrays)
        runs.append(rng.normal(1000, 9, (*mask.shape, n_samples)).astype(np.float32))
        image = nibabel.Nifti1Image(runs[-1], affine)
        image.header.set_zooms((9, 9, 9, 1.6))
        nibabel.save(image, f"{stem}preproc_bold.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, affine), f"{stem}brain_mask.nii.gz")
    graph = pipeline(mirror)
    graph.run("experiment_design")
    chosen = config(mirror, query="type != 'Fmri' or space.str.startswith('MNI')")
    facts = graph.run(*BOLD_ASSETS, first=FIRST, config=chosen)
    assert facts["bold_events"]["spaces"] == "MNI152NLin6Asym, fsaverage5"
    assert facts["fsaverage5_series"]["space"] == "MNI152NLin6Asym"
    runs[0][mask == 0] = np.nan
    expected = clean_series(project_volume(runs[0], affine), 1.6).T
    assert 0.3 < np.isnan(expected).mean() < 0.7  # nearly one hemisphere
    series = graph.store.zarr("fsaverage5_series.zarr/subj01/ses01")["series"]
    np.testing.assert_allclose(series[: len(expected)], expected, atol=1e-4)


def test_derivatives_of_another_kind(
    pipeline: Callable[..., Pipeline], small_nsd: SmallNsd, tmp_path: Path
) -> None:
    """Volumes whose header is wrong, without a mask, and a run that was not preprocessed."""
    mirror = small_nsd.copy(tmp_path / "nsd")
    rng = np.random.default_rng(0)
    affine = np.array([[-9.0, 0, 0, 90], [0, 9, 0, -126], [0, 0, 9, -72], [0, 0, 0, 1]])
    for surface in sorted((mirror / FUNC).parent.glob("*_hemi-L_*.func.gii")):
        n_samples = len(nibabel.load(surface).darrays)
        data = rng.normal(1000, 9, (21, 25, 21, n_samples)).astype(np.float32)
        image = nibabel.Nifti1Image(data, affine)
        image.header.set_zooms((9, 9, 9, 1.0))
        space = "_space-MNI152NLin2009cAsym_desc-preproc_bold.nii"
        nibabel.save(image, str(surface).partition("_hemi-L")[0] + space)
    for path in (mirror / FUNC).parent.glob("*_run-07_*"):
        path.unlink()
    graph = pipeline(mirror)
    graph.run("experiment_design")
    settings = config(mirror, query="type != 'Fmri' or space == 'MNI152NLin2009cAsym'")
    words = [FIRST, "lacks a recording of run 7", '`leave_out`: ["subj01_ses01_run07"]']
    fails(graph, "bold", first=FIRST, says=words, config={"bold": settings["bold"]})
    without_raw = {"bold": settings["bold"] | {"raw": ""}}
    fails(graph, "bold", first=FIRST, says=["no raw BIDS tree"], config=without_raw)
    settings["bold"]["leave_out"] = ["run 7"]
    words = ["leave_out of bold has 'run 7'", "subj01_ses05_run07"]
    fails(graph, "bold", first=FIRST, says=words, config={"bold": settings["bold"]})
    settings["bold"]["leave_out"] = ["subj01_ses01_run07", "subj01_ses02_run01"]
    facts = graph.run(
        "events", "bold", "bold_events", first=FIRST, config={"bold": settings["bold"]}
    )
    assert facts["bold"]["runs left out"] == facts["bold_events"]["runs left out"] == [7]
    assert (facts["bold_events"]["trials"], facts["bold_events"]["trials left out"]) == (27, 3)

    series = settings["fsaverage5_series"]
    for words, chosen in (
        (["has no brain mask", "set brain_mask to 'template'"], {"brain_mask": "template"}),
        (["has 1.6 s, ", "has 1 s", "set tr_from to 'sidecar'"], {"tr_from": "sidecar"}),
    ):
        fails(
            graph,
            "fsaverage5_series",
            first=FIRST,
            says=[FIRST, *words],
            config={"fsaverage5_series": series},
        )
        series |= chosen
    facts = graph.run("fsaverage5_series", first=FIRST, config={"fsaverage5_series": series})
    assert facts["fsaverage5_series"]["tr"] == 1.6
    assert facts["fsaverage5_series"]["runs"] == 11
    assert facts["fsaverage5_series"]["brain mask"].startswith("MNI152 template of nilearn")
    attributes = graph.store.zarr("fsaverage5_series.zarr/subj01/ses01").attrs
    assert attributes["runs_left_out"] == [7]
    assert attributes["brain_mask"].startswith("MNI152 template of nilearn")
    assert attributes["tr_from"] == "sidecar"
    assert 7 not in {each["run"] for each in attributes["runs"]}


def test_recipes_of_defaults_are_those_of_before(
    pipeline: Callable[..., Pipeline], small_nsd: SmallNsd
) -> None:
    """Settings that were added later are in a recipe only where they are chosen."""
    graph = pipeline()
    graph.run("experiment_design")
    graph.run(*BOLD_ASSETS, first=FIRST, config=config(small_nsd.folder))
    bold = graph.store.manifest("bold/subj01/ses01").config
    assert set(bold) == {"source", "runs"}
    assert set(bold["runs"][0]) == {
        "run", "space", "kind", "files", "onsets", "onsets_kind", "mask", "confounds", "tr",
        "n_samples",
    }  # fmt: skip
    assert graph.store.manifest("fsaverage5_series.zarr/subj01/ses01").config == FSAVERAGE5 | {
        "confounds": [],
        "high_pass": None,
        "fwhm": None,
    }


def test_the_preset_s_defaults_are_the_reference_s() -> None:
    chosen = FmriMlpConfig(preset="neuralbench")
    assert chosen.model_dump() == FmriMlpConfig().model_dump() | {"preset": "neuralbench"}
    expected = {
        "preset": "neuralbench", "zscore": True, "window_start": 2.0, "window_duration": 7.0,
        "validation_by": "timeline", "validation_ratio": 0.2, "model": "FmriMlp", "hidden": 128,
        "n_blocks": 2, "norm_kind": "y", "symmetric": False,
        "learning_rate": 1e-4, "weight_decay": 0.05, "warmup_fraction": 0.1,
        "gradient_clip_norm": 1.0, "batch_size": 64, "n_epochs": 40, "patience": 5,
        "seeds": [0, 1, 2], "data_seed": 33,
    }  # fmt: skip
    assert expected.items() <= chosen.model_dump().items()


Break = Callable[[Path], None]


def without_a_repetition_time(folder: Path) -> None:
    (folder / RAW / "task-nsdcore_bold.json").unlink()


def with_another_in_run_5(folder: Path) -> None:
    """The sidecar of one run says 2 s."""
    sidecar = RAW + "/" + FUNC.removeprefix(DERIVATIVES + "/") + "05_bold.json"
    (folder / sidecar).write_text('{"RepetitionTime": 2.0}')


def ending_early(folder: Path) -> None:
    """The recording of run 1 breaks off after 10 samples, in both hemispheres."""
    for side in "LR":
        path = folder / f"{FUNC}01_hemi-{side}{SURFACE}"
        image = nibabel.load(path)
        path.unlink()
        nibabel.save(nibabel.GiftiImage(darrays=image.darrays[:10]), path)


def with_uneven_hemispheres(folder: Path) -> None:
    path = folder / f"{FUNC}01_hemi-R{SURFACE}"
    image = nibabel.load(path)
    path.unlink()
    nibabel.save(nibabel.GiftiImage(darrays=image.darrays[:-1]), path)


def in_two_spaces(folder: Path) -> None:
    for path in (folder / DERIVATIVES).rglob("*.func.gii"):
        path.with_name(path.name.replace("fsaverage5", "fsaverage6")).hardlink_to(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without_a_repetition_time, ["run-01_hemi-L", "nor a sidecar states a repetition time"]),
        (with_another_in_run_5, ["run 1 of subj01_ses01 has 1.6 s", "run 5 of", "has 2 s"]),
        (ending_early, ["run-01_hemi-L", "ends after 16.0 s", "an image of run 1 came on at"]),
        (with_uneven_hemispheres, ["run-01_hemi-L", "samples, but", "run-01_hemi-R"]),
        (in_two_spaces, ["one recording of run 1", "hold 2: fsaverage5, fsaverage6"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_recordings(
    small_nsd: SmallNsd,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    damage: Break,
    says: list[str],
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    damage(mirror)
    settings = config(mirror, query="type != 'Fmri' or space.str.startswith('fsaverage')")
    graph = pipeline(mirror)
    graph.run("experiment_design")
    graph.run("events", "bold", "bold_events", first=FIRST, config={"bold": settings["bold"]})
    series = {"fsaverage5_series": settings["fsaverage5_series"]}
    fails(graph, "fsaverage5_series", first=FIRST, says=[FIRST, *says], config=series)


def test_a_space_or_a_run_that_is_not_there(
    small_nsd: SmallNsd, pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    graph = pipeline(mirror)
    settings = config(mirror)
    graph.run("experiment_design")
    graph.run("events", "bold", "bold_events", first=FIRST, config={"bold": settings["bold"]})
    unknown = {"fsaverage5_series": {"query": "type != 'Fmri' or space == 'fsaverage7'"}}
    words = [FIRST, "one recording of run 1", "hold 0: none", "`bold_events` lists the spaces"]
    fails(graph, "fsaverage5_series", first=FIRST, says=words, config=unknown)
    for path in (mirror / DERIVATIVES).rglob("*_run-07_*"):
        path.unlink()
    words = [FIRST, "lacks a recording of run 7", "of 12"]
    fails(graph, "bold", first=FIRST, says=words, config={"bold": settings["bold"]})
