"""The demo dataset, read by the formats' own libraries and not by ours."""

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.io import loadmat

from nsd_pipeline.demo import DemoDataset, generate
from nsd_pipeline.demo.__main__ import main
from nsd_pipeline.demo.brain import Brain, response_profile
from nsd_pipeline.demo.pictures import render
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import read_experiment_design
from nsd_pipeline.nsd.mapping import check_mapping, read_responses, read_stimulus_info

SIZE = {"subjects": 2, "sessions": 2, "trials_per_run": 2}
TRIALS = 18  # of a session: odd runs have two, even runs one


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    return generate(tmp_path_factory.mktemp("demo") / "nsd", seed=7, **SIZE)


@pytest.fixture(scope="module")
def design(dataset: DemoDataset) -> dict[str, np.ndarray]:
    arrays = loadmat(dataset.folder / layout.EXPDESIGN_KEY)
    return {name: value for name, value in arrays.items() if not name.startswith("__")}


@pytest.fixture(scope="module")
def stimulus_info(dataset: DemoDataset) -> pd.DataFrame:
    return pd.read_csv(dataset.folder / layout.STIM_INFO_KEY)


def shown(design: dict[str, np.ndarray], subject: int, session: int) -> np.ndarray:
    """1-based 73k ids of a session's trials, by the published formula."""
    first = int(design["stimpattern"][: session - 1].sum())
    ids_10k = design["masterordering"][0, first : first + TRIALS].astype(int)
    return design["subjectim"][subject - 1, ids_10k - 1].astype(int)


def test_design_has_the_invariants_of_nsd(design: dict[str, np.ndarray]) -> None:
    shapes = {name: value.shape for name, value in design.items()}
    assert shapes == {
        "basiccnt": (3, 40),
        "masterordering": (1, 30000),
        "sharedix": (1, 1000),
        "stimpattern": (40, 12, 75),
        "subjectim": (8, 10000),
    }
    counts = np.bincount(design["masterordering"][0].astype(int))[1:]
    np.testing.assert_array_equal(counts, np.full(10_000, 3))
    shared, images = design["sharedix"][0], design["subjectim"]
    assert (np.diff(shared) > 0).all()
    assert (images[:, :1000] == shared).all()
    everything = np.concatenate([shared, images[:, 1000:].ravel()])
    np.testing.assert_array_equal(np.sort(everything), np.arange(1, 73_001))
    assert design["stimpattern"].sum() == 30_000
    np.testing.assert_array_equal(design["stimpattern"][:2].sum(axis=2), np.tile([2, 1], (2, 6)))


def test_sessions_show_shared_images_and_show_images_again(design: dict[str, np.ndarray]) -> None:
    ids = np.concatenate([shown(design, 1, session) for session in (1, 2)])
    assert 0.1 < np.isin(ids, design["sharedix"]).mean() < 0.4
    assert 1.5 < len(ids) / len(np.unique(ids)) < 2.5


def test_stimulus_info_has_the_columns_and_trials_of_nsd(
    stimulus_info: pd.DataFrame, design: dict[str, np.ndarray]
) -> None:
    assert list(stimulus_info.columns) == [
        "Unnamed: 0", "cocoId", "cocoSplit", "cropBox", "loss", "nsdId", "flagged", "BOLD5000",
        "shared1000", *(f"subject{s}" for s in range(1, 9)),
        *(f"subject{s}_rep{r}" for s in range(1, 9) for r in range(3)),
    ]  # fmt: skip
    np.testing.assert_array_equal(stimulus_info["nsdId"], np.arange(73_000))
    assert stimulus_info["cocoId"].is_unique
    assert np.array_equal(
        np.flatnonzero(stimulus_info["shared1000"]) + 1, design["sharedix"][0].astype(int)
    )
    assert (stimulus_info[[f"subject{s}" for s in range(1, 9)]].sum() == 10_000).all()
    order = design["masterordering"][0].astype(int)
    for subject in (1, 8):
        ids = design["subjectim"][subject - 1, order - 1].astype(int)
        repetitions = stimulus_info[[f"subject{subject}_rep{r}" for r in range(3)]].to_numpy()
        for t in (0, 17, 18, 29_999):
            assert t + 1 in repetitions[ids[t] - 1]
        assert (np.diff(repetitions[ids - 1], axis=1) > 0).all()


def test_responses_have_the_columns_and_gaps_of_nsd(
    dataset: DemoDataset, design: dict[str, np.ndarray]
) -> None:
    for subject, n_sessions in ((1, 2), (2, 1)):
        path = dataset.folder / layout.responses_key(f"subj{subject:02d}")
        table = pd.read_csv(path, sep="\t")
        assert " ".join(table.columns) == (
            "SUBJECT SESSION RUN TRIAL 73KID 10KID TIME ISOLD ISCORRECT RT CHANGEMIND MEMORYRECENT "
            "MEMORYFIRST ISOLDCURRENT ISCORRECTCURRENT TOTAL1 TOTAL2 BUTTON MISSINGDATA"
        )
        expected = np.concatenate([shown(design, subject, s + 1) for s in range(n_sessions)])
        np.testing.assert_array_equal(table["73KID"], expected)
        assert table["TIME"].is_monotonic_increasing
        assert table["ISOLD"].tolist() == table.duplicated("73KID").astype(int).tolist()
        assert (table["MEMORYRECENT"].isna() == (table["ISOLD"] == 0)).all()
        lost = table[table["MISSINGDATA"] == 1]
        assert lost["BUTTON"].isna().all()
        assert len(lost) == (1 if subject == 2 else 0)
    assert "NaN" in path.read_text()


def test_the_three_sources_agree_for_our_own_readers(dataset: DemoDataset) -> None:
    design = read_experiment_design(dataset.folder / layout.EXPDESIGN_KEY)
    info = read_stimulus_info(dataset.folder / layout.STIM_INFO_KEY)
    for subject, n_sessions in dataset.sessions.items():
        responses = read_responses(dataset.folder / layout.responses_key(subject))
        for session in range(1, n_sessions + 1):
            trials = design.trials(subject, session)
            check_mapping(trials, design, info, responses, subject, session)


def test_surface_betas_are_mgh_with_gaps(dataset: DemoDataset) -> None:
    assert dataset.sessions == {"subj01": 2, "subj02": 1}
    sessions = [("subj01", 1), ("subj01", 2), ("subj02", 1)]
    invalid = {}
    for subject, session in sessions:
        for key in layout.betas_keys(subject, session, "fsaverage"):
            path = dataset.folder / key
            image = nibabel.load(path)
            assert image.shape == (163_842, 1, 1, TRIALS)
            assert image.get_data_dtype() == np.dtype(">f4")
            assert 0 < path.stat().st_size - (284 + TRIALS * 163_842 * 4) <= 64
            betas = np.asarray(image.dataobj)[:, 0, 0].T
            missing = np.isnan(betas)
            assert (missing.all(axis=0) == missing.any(axis=0)).all()
            invalid[subject, session, path.name[:2]] = missing.any(axis=0)
            deviation = np.nanstd(betas[:, ~missing.any(axis=0)], axis=0)
            assert 1.15 < np.median(deviation) < 1.6  # shared noise 1.0, own noise 0.8
    first, second = invalid["subj01", 1, "lh"], invalid["subj01", 2, "lh"]
    assert (first & second)[:10_242].any()
    assert (first ^ second).any()
    assert first.mean() < 0.2


def test_volume_betas_are_nifti_of_the_first_session(dataset: DemoDataset) -> None:
    for subject, shape in (("subj01", (81, 104, 83)), ("subj02", (82, 106, 84))):
        (key,) = layout.betas_keys(subject, 1, "func1pt8mm")
        image = nibabel.load(dataset.folder / key)
        assert image.shape == (*shape, TRIALS)
        assert image.get_data_dtype() == np.int16
        np.testing.assert_allclose(image.header.get_zooms()[:3], 1.8)
        volumes = np.asarray(image.dataobj)
        in_brain = (volumes != 0).any(axis=3)
        assert 0.02 < in_brain.mean() < 0.3
        assert 100 < volumes[in_brain].std() < 1500  # percent times 300
    assert not (dataset.folder / layout.betas_keys("subj01", 2, "func1pt8mm")[0]).exists()


def test_stimuli_are_contiguous_sparse_and_where_the_design_says(
    dataset: DemoDataset, design: dict[str, np.ndarray]
) -> None:
    path = dataset.folder / layout.STIMULI_KEY
    expected = np.unique([shown(design, 1, 1), shown(design, 1, 2), shown(design, 2, 1)]) - 1
    np.testing.assert_array_equal(dataset.image_ids, expected)
    with h5py.File(path) as file:
        images = file["imgBrick"]
        assert images.shape == (73_000, 425, 425, 3)
        assert images.dtype == np.uint8
        assert images.chunks is None
        assert images.compression is None
        offset = images.id.get_offset()
        last = int(expected[-1])
        np.testing.assert_array_equal(images[last], render(last, seed=7))
        assert not images[np.setdiff1d(np.arange(50), expected)[0]].any()
    assert path.stat().st_size >= offset + 73_000 * 541_875
    assert path.stat().st_blocks * 512 < 2 * len(expected) * 541_875
    with path.open("rb") as raw:
        raw.seek(offset + last * 541_875)
        assert raw.read(541_875) == render(last, seed=7).tobytes()


def test_only_visual_cortex_responds_to_images() -> None:
    """Two sessions with the same images agree there, and nowhere else."""
    features = np.random.default_rng(0).standard_normal((20, 59)).astype(np.float32)
    responses = Brain("subj01", "lh", strength=1.0, seed=0)
    first, second = (responses.responses(features, session) for session in (1, 2))
    silent = Brain("subj01", "lh", strength=0.0, seed=0)
    blind = [silent.responses(features, session) for session in (1, 2)]
    profile = response_profile("lh")

    def agreement(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
        centred = [(x - x.mean(axis=0))[:, where].ravel() for x in (a, b)]
        return float(np.corrcoef(centred)[0, 1])

    assert agreement(first, second, profile > 1) > 0.5
    assert abs(agreement(first, second, profile == 0)) < 0.05
    assert abs(agreement(*blind, profile > 1)) < 0.2
    assert 0.1 < (profile > 0).mean() < 0.3


def test_generating_again_does_nothing(dataset: DemoDataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*")}
    again = generate(dataset.folder, seed=7, **SIZE)
    assert dataset.created
    assert not again.created
    np.testing.assert_array_equal(again.image_ids, dataset.image_ids)
    np.testing.assert_array_equal(again.shared_image_ids, dataset.shared_image_ids)
    assert {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*")} == before


def test_an_interrupted_dataset_is_replaced_and_comes_out_the_same(
    dataset: DemoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nsd"
    size = {**SIZE, "spaces": ()}
    with monkeypatch.context() as patch:
        patch.setattr("nsd_pipeline.demo.dataset._write_stimuli", _fail)
        with pytest.raises(KeyboardInterrupt):
            generate(folder, seed=7, **size)
    assert not (folder / "demo.json").exists()
    assert generate(folder, seed=7, **size).created
    assert json.loads((folder / "demo.json").read_text())["seed"] == 7
    keys = [layout.betas_keys("subj01", 2, "fsaverage")[1], layout.STIM_INFO_KEY]
    for key in [*keys, layout.responses_key("subj02")]:
        assert (folder / key).read_bytes() == (dataset.folder / key).read_bytes(), key


def _fail(*_: object) -> None:
    raise KeyboardInterrupt


def test_other_peoples_folders_are_left_alone(dataset: DemoDataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose")
    with pytest.raises(NsdError, match="not empty"):
        generate(tmp_path, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(NsdError, match=r"strength 1\.0 instead of 2\.0"):
        generate(dataset.folder, seed=7, strength=2.0, **SIZE)


def test_settings_that_the_design_has_no_room_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fewer sessions or more trials_per_run"):
        generate(tmp_path / "nsd", sessions=20, trials_per_run=5)


def test_time_series_from_the_command_line(tmp_path: Path) -> None:
    size = "--subjects 1 --sessions 1 --trials-per-run 2 --space none"
    done = CliRunner().invoke(main, f"{tmp_path} --signal bold --strength 0 {size}")
    assert done.exit_code == 0, done.output
    assert f"NSD_BIDS_DERIVATIVES={tmp_path}/nsd/derivatives" in done.output
    runs = [*(tmp_path / "nsd/derivatives").rglob("*_bold.func.gii")]
    assert len(runs) == 24
    assert json.loads((tmp_path / "nsd/demo.json").read_text())["strength"] == 0
    refused = CliRunner().invoke(main, [str(tmp_path), "--signal", "0"])
    assert "'0' is not one of 'betas', 'bold'" in refused.output
