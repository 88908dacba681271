"""The whole graph on a real S3 server, and what a second run leaves alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import zarr
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from safetensors.numpy import load_file, save_file

from nsd_pipeline.definitions import build_defs
from nsd_pipeline.nsd.layout import betas_keys
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline, SmallNsd
from nsd_pipeline_tests.storage.servers import S3rver

BUCKET = "natural-scenes-dataset"
QUICK = {"fmri_mlp": {"n_epochs": 2, "hidden": 8}}


@pytest.fixture(scope="module")
def server(small_nsd: SmallNsd, s3rver: S3rver) -> S3rver:
    for path in small_nsd.folder.rglob("*"):
        if path.is_file():
            s3rver.add(BUCKET, str(path.relative_to(small_nsd.folder)), path)
    return s3rver


@pytest.fixture
def bucket(server: S3rver, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    return f"s3://{BUCKET}"


def run_everything(pipeline: Pipeline, model: Path | None = None) -> dict[str, dict]:
    encoder = {"model": str(model)} if model else {}
    facts = {}
    pipeline.run_sessions("subj01_ses01", "subj01_ses02")
    for stimulus_set in ("shared", "subj01"):
        facts |= pipeline.run_images(stimulus_set, **encoder)
    facts |= pipeline.run("fmri_mlp", "retrieval_metrics", first="subj01", config=QUICK)
    facts |= pipeline.run("decoding_report")
    return facts


def another_encoder(encoder: Path, folder: Path) -> Path:
    shutil.copytree(encoder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.cls_token"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def stale(pipeline: Pipeline) -> set[str]:
    """Assets of which the UI would show a partition as stale."""
    graph = build_defs(pipeline.source, str(pipeline.artifacts)).get_repository_def().asset_graph
    status = CachingStaleStatusResolver(
        pipeline.instance, graph, LoadingContextForTest(pipeline.instance)
    )
    materialized = [
        (key, partition)
        for key in graph.materializable_asset_keys
        for partition in (
            sorted(pipeline.instance.get_materialized_partitions(key))
            if graph.get(key).is_partitioned
            else [None]
        )
    ]
    assert len(materialized) == 2 + 4 * 2 + 2 * 2 + 2
    return {
        key.to_user_string()
        for key, partition in materialized
        if status.get_status(key, partition) != StaleStatus.FRESH
    }


def made(pipeline: Pipeline) -> dict[str, object]:
    store = pipeline.store
    return {key: store.manifest(key).created for key in store.keys()}  # noqa: SIM118


def test_from_the_bucket_to_the_report_and_again(
    bucket: str, pipeline: Callable[..., Pipeline], small_nsd: SmallNsd, tmp_path: Path
) -> None:
    graph = pipeline(bucket)
    shown = run_everything(graph)["retrieval_metrics"]
    # The UI shows Markdown at once if it is short, and else behind a click.
    assert "| Top-5 accuracy" in shown["results"]
    assert len(shown["results"]) < 1000
    assert pipeline(bucket).leftovers() == []

    # The betas are the first 10,242 vertices of each hemisphere's file, bit for bit.
    artifacts = graph.artifacts
    session = zarr.open_group(artifacts / "fsaverage5_betas.zarr/subj01/ses01", mode="r")
    files = [small_nsd.folder / key for key in betas_keys("subj01", 1, "fsaverage")]
    whole = [nibabel.load(file).get_fdata(dtype=np.float32)[:10_242, 0, 0].T for file in files]
    np.testing.assert_array_equal(session["betas"][...], np.concatenate(whole, axis=1))
    cut = nibabel.load(artifacts / "betas/subj01/ses01/lh.betas_session01.mgh")
    np.testing.assert_array_equal(cut.get_fdata(dtype=np.float32)[:, 0, 0].T, whole[0])

    # Everything is readable without us.
    embeddings = pd.read_parquet(artifacts / "stimulus_embeddings/shared/embeddings.parquet")
    events = pd.read_parquet(artifacts / "fsaverage_events/subj01/ses01/events.parquet")
    seen = events.loc[events["shared"].fillna(False), "image_id"]
    assert set(seen) <= set(embeddings["image_id"])
    weights = load_file(artifacts / "fmri_mlp/subj01/model.safetensors")
    assert weights["lin0.weight"].shape == (8, 20_484)
    history = pd.read_parquet(artifacts / "fmri_mlp/subj01/history.parquet")
    assert list(history["epoch"]) == 3 * [0, 1]  # of each seed
    top = pd.read_parquet(artifacts / "retrieval_metrics/subj01/top10.parquet")
    assert set(top["retrieved_image_id"]) <= set(seen) | set(embeddings["image_id"])
    page = (artifacts / "decoding_report/report.html").read_text()
    assert "subj01" in page
    assert "data:image/svg+xml" in page

    # Again: nothing is redone, and the runs say so.
    first = made(graph)
    facts = run_everything(graph)
    assert made(graph) == first
    assert {each["status"] for each in facts.values()} == {"up to date, nothing was redone"}

    # In the UI nothing is stale, although this session was made in a range before.
    graph.run(*SESSION_ASSETS, first="subj01_ses02")
    assert stale(graph) == set()

    # Another encoder: the embeddings and what follows from them, and nothing else.
    other = another_encoder(small_nsd.encoder, tmp_path / "another_encoder")
    graph.run_images("shared", "subj01", model=str(other))
    assert stale(graph) == {"fmri_mlp"}
    run_everything(graph, other)
    redone = {key.split("/")[0] for key, created in made(graph).items() if first[key] != created}
    assert redone == {
        "stimulus_embeddings",
        "fmri_mlp",
        "retrieval_metrics",
        "decoding_report",
    }


def test_a_new_session_fetches_and_embeds_only_its_new_images(
    bucket: str, pipeline: Callable[..., Pipeline]
) -> None:
    graph = pipeline(bucket)
    graph.run_sessions("subj01_ses01")
    before = graph.run_images("subj01")
    graph.run_sessions("subj01_ses02")
    after = graph.run_images("subj01")
    n_new = after["stimuli"]["images"] - before["stimuli"]["images"]
    assert n_new > 0
    assert after["stimuli"]["bytes fetched"] == n_new * 425 * 425 * 3
    assert after["stimulus_embeddings"]["images embedded now"] == n_new
    assert after["stimulus_embeddings"]["images"] == after["stimuli"]["images"]


def test_a_mirror_is_read_in_place(pipeline: Callable[..., Pipeline]) -> None:
    graph = pipeline()
    graph.run_sessions("subj01_ses01")
    graph.run_images("shared")
    copied = [path for path in graph.artifacts.rglob("*") if path.suffix in {".mgh", ".npy"}]
    assert copied == []
    assert graph.failed_checks == []


def test_whole_files_by_config_are_the_bucket_s_own(
    bucket: str, pipeline: Callable[..., Pipeline], small_nsd: SmallNsd
) -> None:
    graph = pipeline(bucket)
    graph.run("experiment_design")
    graph.run("betas", first="subj01_ses01", config={"betas": {"whole_file": True}})
    for key in betas_keys("subj01", 1, "fsaverage"):
        downloaded = graph.artifacts / "betas/subj01/ses01" / Path(key).name
        assert downloaded.read_bytes() == (small_nsd.folder / key).read_bytes()
