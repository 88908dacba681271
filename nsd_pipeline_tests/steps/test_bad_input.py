"""Bad input ends in one message that names the file, the partition and the next step.

Nothing half-written is left, and what had been finished before is still there.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import (
    EXPDESIGN_KEY,
    FSAVERAGE_VERTICES,
    GENERATED_KEY,
    STIM_INFO_KEY,
    STIMULI_KEY,
    betas_keys,
    responses_key,
)
from nsd_pipeline_tests.nsd.mgh_files import write_mgh
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline, SmallNsd

LH = betas_keys("subj01", 1, "fsaverage")[0]
Break = Callable[[Path], None]


def fails(graph: Pipeline, *assets: str, first: str = "", says: list[str], **options) -> None:
    """Run assets, which must fail with these words and leave nothing behind."""
    before = graph.store.keys()
    with pytest.raises(dg.Failure) as failure:
        graph.run(*assets, first=first, **options)
    message = str(failure.value.description)
    for words in [*says, "Next step:"]:
        assert words in message, message
    assert ".partial" not in message  # a draft is gone when the message is read
    assert graph.store.keys() == before
    assert graph.leftovers() == []


def replace(path: Path, content: bytes) -> None:
    """Replace a hard link's file without touching what it linked to."""
    path.unlink()
    path.write_bytes(content)


def truncate(path: Path) -> None:
    replace(path, path.read_bytes()[:-5_000])


def little_endian(path: Path) -> None:
    raw = path.read_bytes()
    replace(path, np.frombuffer(raw[:28], ">i4").astype("<i4").tobytes() + raw[28:])


def as_float64(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[20:24] = np.array(1, ">i4").tobytes()
    replace(path, bytes(raw))


def one_frame_short(path: Path) -> None:
    data = mgh.read_vertices(path, FSAVERAGE_VERTICES)[:-1]
    path.unlink()
    write_mgh(path, data)


def fewer_vertices(path: Path) -> None:
    data = mgh.read_vertices(path, 40_962)
    path.unlink()
    write_mgh(path, data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "bytes"),
        (little_endian, "little-endian"),
        (as_float64, "type"),
        (fewer_vertices, "163842"),
        (one_frame_short, "29 frames"),
        (Path.unlink, "No such file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_betas(
    small_nsd: SmallNsd,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    damage: Break,
    says: str,
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    damage(mirror / LH)
    graph = pipeline(mirror)
    graph.run("experiment_design")
    fails(graph, "betas", first="subj01_ses01", says=["subj01_ses01", LH, says])
    # The other sessions are not held up.
    graph.run("betas", first="subj01_ses02")


def without_a_field(path: Path) -> None:
    design = scipy.io.loadmat(path)
    del design["subjectim"]
    path.unlink()
    scipy.io.savemat(path, design)


def with_an_id_out_of_range(path: Path) -> None:
    design = scipy.io.loadmat(path)
    design["subjectim"][0, 5_000] = 73_001
    path.unlink()
    scipy.io.savemat(path, design)


def without_a_column(path: Path) -> None:
    replace(path, path.read_bytes().replace(b"shared1000", b"shared1OOO"))


@pytest.mark.parametrize(
    ("key", "damage", "says"),
    [
        (EXPDESIGN_KEY, without_a_field, "subjectim"),
        (EXPDESIGN_KEY, with_an_id_out_of_range, "73001"),
        (STIM_INFO_KEY, without_a_column, "shared1000"),
        (STIM_INFO_KEY, Path.unlink, "No such file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_experiment_design(
    small_nsd: SmallNsd,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    key: str,
    damage: Break,
    says: str,
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    damage(mirror / key)
    fails(pipeline(mirror), "experiment_design", says=[Path(key).name, says])


def test_mappings_that_disagree(
    small_nsd: SmallNsd, pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    path = mirror / responses_key("subj01")
    header, first, *others = path.read_text().splitlines(keepends=True)
    fields = first.split("\t")
    fields[header.split("\t").index("73KID")] = "1"
    replace(path, "".join([header, "\t".join(fields), *others]).encode())
    graph = pipeline(mirror)
    graph.run("experiment_design")
    fails(graph, "events", first="subj01_ses01", says=["73KID", "trial"])


def test_a_stimulus_file_that_is_too_short(
    small_nsd: SmallNsd, pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    path = mirror / STIMULI_KEY
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", shape=(10, 425, 425, 3), dtype=np.uint8)
    graph = pipeline(mirror)
    graph.run_sessions("subj01_ses01")
    fails(graph, "stimuli", first="shared", says=[Path(STIMULI_KEY).name, "too short"])


def test_terms_that_nobody_accepted(
    pipeline: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    # Nothing listens there: the refusal comes before the first byte.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    graph = pipeline("s3://natural-scenes-dataset")
    fails(graph, "experiment_design", says=["terms", "nsd terms --accept"])


def test_a_step_before_its_inputs(pipeline: Callable[..., Pipeline]) -> None:
    graph = pipeline()
    fails(graph, "betas", first="subj01_ses01", says=["--select experiment_design"])
    fails(graph, "stimuli", first="subj05", says=["subj05", "fsaverage_events"])
    fails(graph, "fmri_mlp", first="all", says=["No session", "fsaverage5_betas"])
    fails(graph, "decoding_report", says=["retrieval_metrics"])


@pytest.mark.parametrize(
    ("kept", "says"),
    [("shared == False", "no test trials"), ("run == {run} or shared", "cannot be split")],
)
def test_too_little_to_learn_from(
    pipeline: Callable[..., Pipeline], one_session: Path, kept: str, says: str
) -> None:
    graph = pipeline(begin=one_session)
    events = pd.read_parquet(graph.artifacts / "events/subj01/ses01/events.parquet")
    one_run = events.loc[~events["shared"].fillna(True), "run"].iloc[0]
    query = f"space == 'fsaverage' or type == 'Image' and ({kept.format(run=one_run)})"
    graph.run(
        "fsaverage_events", first="subj01_ses01", config={"fsaverage_events": {"query": query}}
    )
    graph.run("fsaverage5_betas", first="subj01_ses01")
    fails(graph, "fmri_mlp", first="subj01", says=[says])


def test_two_recordings_left_by_the_filter(pipeline: Callable[..., Pipeline]) -> None:
    graph = pipeline()
    graph.run("experiment_design")
    graph.run("events", "betas", first="subj01_ses01")
    nothing = {"fsaverage_events": {"query": "type == 'Image'"}}
    graph.run("fsaverage_events", first="subj01_ses01", config=nothing)
    fails(graph, "fsaverage5_betas", first="subj01_ses01", says=["hold 0: none"])


def test_a_query_that_is_not_one(pipeline: Callable[..., Pipeline]) -> None:
    graph = pipeline()
    graph.run("experiment_design")
    graph.run("events", first="subj01_ses01")
    config = {"fsaverage_events": {"query": "spaec == 'fsaverage'"}}
    fails(graph, "fsaverage_events", first="subj01_ses01", says=["spaec"], config=config)


def test_images_without_embeddings(pipeline: Callable[..., Pipeline], one_session: Path) -> None:
    graph = pipeline(begin=one_session)
    graph.run_sessions("subj01_ses02")
    fails(graph, "fmri_mlp", first="subj01", says=["no embedding", "stimulus_embeddings"])


def test_a_disk_without_room(
    pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = pipeline()
    graph.run("experiment_design")
    graph.run("betas", "events", "fsaverage_events", first="subj01_ses01")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    fails(graph, "fsaverage5_betas", first="subj01_ses01", says=["MB"])


@pytest.mark.parametrize(
    ("damaged", "asset"),
    [
        ("fsaverage_events/subj01/ses01/events.parquet", "fsaverage_events"),
        ("fsaverage5_betas.zarr/subj01/ses01/betas/c/0/0", "fsaverage5_betas"),
        ("stimulus_embeddings/shared/embeddings.parquet", "stimulus_embeddings"),
    ],
)
def test_an_artifact_of_ours_that_was_damaged(
    pipeline: Callable[..., Pipeline], one_session: Path, damaged: str, asset: str
) -> None:
    graph = pipeline(begin=one_session)
    path = graph.artifacts / damaged
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    replace(path, bytes(content))
    quick = {"fmri_mlp": {"n_epochs": 1, "hidden": 8, "seeds": [0]}}
    with pytest.raises(dg.Failure) as failure:
        graph.run("fmri_mlp", first="subj01", config=quick)
    message = str(failure.value.description)
    assert asset in message
    assert "Next step:" in message
    assert graph.leftovers() == []
    # What it says helps: the damaged artifact is made again, though its recipe has not changed.
    partition = "shared" if "shared" in damaged else "subj01_ses01"
    facts = graph.run(asset, first=partition)
    assert facts[asset]["status"] == "made"
    graph.run("fmri_mlp", first="subj01", config=quick)


def test_a_trial_of_zeros_in_a_mirror(
    small_nsd: SmallNsd, pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    """A copy with a hole in it, which reads as zeros."""
    mirror = small_nsd.copy(tmp_path / "nsd")
    data = mgh.read_vertices(mirror / LH, FSAVERAGE_VERTICES)
    data[2] = 0
    (mirror / LH).unlink()
    write_mgh(mirror / LH, data)
    graph = pipeline(mirror)
    graph.run("experiment_design")
    graph.run("betas", "events", "fsaverage_events", first="subj01_ses01")
    says = [str(mirror / LH), "trial 2 (counted from 0)"]
    fails(graph, "fsaverage5_betas", first="subj01_ses01", says=says)


def test_a_range_finishes_what_it_can_and_records_it(
    small_nsd: SmallNsd,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    instance: dg.DagsterInstance,
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    truncate(mirror / LH)
    graph = pipeline(mirror)
    graph.run("experiment_design")
    with pytest.raises(dg.Failure, match="subj01_ses01"):
        graph.run("betas", first="subj01_ses01", last="subj01_ses02")
    assert graph.store.keys("betas/") == ["betas/subj01/ses02"]
    recorded = instance.get_materialized_partitions(dg.AssetKey("betas"))
    assert recorded == {"subj01_ses02"}


def test_the_others_of_a_range_go_to_the_end_and_what_failed_is_told_once(
    small_nsd: SmallNsd,
    pipeline: Callable[..., Pipeline],
    tmp_path: Path,
    instance: dg.DagsterInstance,
) -> None:
    mirror = small_nsd.copy(tmp_path / "nsd")
    graph = pipeline(mirror)
    graph.run_sessions("subj01_ses01")
    (mirror / LH.replace("session01", "session02")).unlink()
    with pytest.raises(dg.Failure) as failure:
        graph.run(*SESSION_ASSETS, first="subj01_ses01", last="subj01_ses04")
    told = str(failure.value.description)
    there = graph.store.keys("fsaverage5_betas.zarr/")
    assert told.count("subj01_ses02: ") == 1
    assert told.startswith("betas subj01_ses02: ")
    for asset in SESSION_ASSETS:  # what is done stays green
        recorded = instance.get_materialized_partitions(dg.AssetKey(asset))
        assert recorded == {key.split(".zarr/")[1].replace("/", "_") for key in there}
    assert "fsaverage5_betas.zarr/subj01/ses01" in there
    versions = instance.get_latest_data_version_record(dg.AssetKey("betas"))
    assert versions is not None
    # Mended, it is the only one that is made.
    (mirror / LH.replace("session01", "session02")).hardlink_to(
        small_nsd.folder / LH.replace("session01", "session02")
    )
    graph.run(*SESSION_ASSETS, first="subj01_ses01", last="subj01_ses02")
    assert graph.store.find("fsaverage5_betas.zarr/subj01/ses02")


def test_a_store_is_of_generated_or_of_real_data_not_of_both(
    small_nsd: SmallNsd,
    one_session: Path,
    tmp_path: Path,
    pipeline: Callable[..., Pipeline],
) -> None:
    source = small_nsd.copy(tmp_path / "nsd")
    (source / GENERATED_KEY).unlink()
    replace(source / STIM_INFO_KEY, (source / STIM_INFO_KEY).read_bytes())  # another version
    graph = pipeline(source, begin=one_session)
    fails(graph, "experiment_design", says=["of another dataset (generated", "NSD_STORAGE"])
