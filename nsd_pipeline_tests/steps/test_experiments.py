"""Experiments stand beside each other: each has its own artifacts, and shares the rest."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from nsd_pipeline.checks import AtChance
from nsd_pipeline.decoding.choice import LEARNED
from nsd_pipeline.experiments import read_experiments
from nsd_pipeline_tests.pipeline import Pipeline

EXPERIMENTS = """
small: {hidden: 8, n_epochs: 1, seeds: [0, 4]}
line: {model: FmriLinear, n_epochs: 1, seeds: [0]}
alone: {hidden: 8, n_epochs: 1, seeds: [4]}
tuned:
  {hidden: 8, n_epochs: 1, seeds: [4], start_from: small, learning_rate: 1.0e-9, sessions: first 1,
   hold_out: "2"}
"""


@pytest.fixture
def graph(two_sessions: Path, pipeline: Callable[..., Pipeline], tmp_path: Path) -> Pipeline:
    path = tmp_path / "experiments.yaml"
    path.write_text(EXPERIMENTS)
    made = pipeline(begin=two_sessions)
    made.experiments = read_experiments(path)
    return made


def train(graph: Pipeline, name: str) -> None:
    graph.run(f"{name}_model", first="subj01")
    with suppress(AtChance):  # after one epoch it may be
        graph.run(f"{name}_metrics", first="subj01")


def trained(graph: Pipeline, name: str) -> dict:
    return graph.store.find(f"experiments/{name}/model/subj01").metadata


def fingerprints(graph: Pipeline) -> dict[str, str]:
    store = graph.store
    return {key: store.find(key).fingerprint for key in store.keys("experiments/")}


def test_they_stand_beside_each_other(graph: Pipeline) -> None:
    train(graph, "small")
    folder = graph.artifacts / "experiments/small/model/subj01"
    assert (folder / "model.safetensors").exists()
    assert (folder / "seed_4/model.safetensors").exists()
    assert [each["seed"] for each in trained(graph, "small")["trainings"]] == [0, 4]
    before = fingerprints(graph)
    train(graph, "line")
    train(graph, "tuned")
    assert trained(graph, "tuned")["sessions learned from"] == ["subj01_ses01"]
    metrics = graph.store.find("experiments/tuned/metrics/subj01").metadata
    assert 0 <= metrics["held-out sessions top5_acc"] <= 1
    # The weights that it began with learned from session 2, which it holds out.
    begun, tuned = (
        pd.read_parquet(graph.artifacts / f"experiments/{name}/model/subj01/trials.parquet")
        for name in ("small", "tuned")
    )
    known = begun.loc[begun["split"].isin(["train", "val"]), "image_id"]
    held = tuned.loc[tuned["split"] == "held out", "image_id"]
    assert len(held)
    assert not held.isin(known).any()
    assert known.isin(tuned.loc[tuned["split"].isin(LEARNED), "image_id"]).all()
    assert not tuned.duplicated(["session", "trial"]).any()
    both = ["subj01_ses01", "subj01_ses02"]
    assert graph.store.find("experiments/tuned/model/subj01").config["learned before"] == both
    after = fingerprints(graph)
    assert before.items() < after.items()
    graph.run("decoding_report")
    folder = graph.artifacts / "decoding_report"
    page = (folder / "report.html").read_text()
    assert all(f"{name}, subj01" in page for name in ("small", "line", "tuned"))
    assert "What the experiments differ in" in page
    assert "learned before</th><td>subj01_ses01, subj01_ses02<" in page
    assert 'href="surface.html"' in page
    assert "mesh3d" in (folder / "surface.html").read_text()
    results = pd.read_csv(folder / "results.csv").set_index(["experiment", "cohort", "metric"])
    for metric in ("top5_acc", "top1_acc_set=hard-negatives"):
        row = results.loc["small", "subj01", metric]
        assert row["low"] <= row["value"] <= row["high"]
        assert 0 < row["chance"] < 1

    # One of them changes, one is taken out of the file: nothing of the others is made again.
    changed = graph.experiments["line"]
    training = changed.training.model_copy(update={"learning_rate": 1e-3})
    graph.experiments = {
        **{name: graph.experiments[name] for name in ("default", "small")},
        "line": changed.model_copy(update={"training": training}),
    }
    facts = graph.run("small_model", first="subj01")
    assert facts["small_model"]["status"] == "up to date, nothing was redone"
    train(graph, "line")
    assert {key for key, value in fingerprints(graph).items() if after[key] != value} == {
        "experiments/line/model/subj01",
        "experiments/line/metrics/subj01",
    }
    graph.run("noise_ceiling", first="subj01")
    # Beside the default, each has a difference.
    quick = {"fmri_mlp": {"hidden": 8, "n_epochs": 1, "seeds": [0]}}
    with suppress(AtChance):
        graph.run("fmri_mlp", "retrieval_metrics", first="subj01", config=quick)
    graph.run("decoding_report")
    page = (folder / "report.html").read_text()
    assert "tuned, subj01" not in page
    assert "Noise ceiling of subj01" in page
    assert "Reliability of subj01" in page
    assert "Reliability: subj01" in (folder / "surface.html").read_text()
    differences = pd.read_csv(folder / "differences.csv")
    assert differences["experiment"].tolist() == ["small", "line"]
    assert (differences["low"] <= differences["difference"]).all()
    assert (differences["p_holm"] >= differences["p_value"]).all()


def test_a_seed_s_weights_are_those_of_its_own_run_and_can_be_begun_with(graph: Pipeline) -> None:
    for name in ("small", "alone", "tuned"):
        graph.run(f"{name}_model", first="subj01")
    models = graph.artifacts / "experiments"
    of_two = load_file(models / "small/model/subj01/seed_4/model.safetensors")
    other = load_file(models / "small/model/subj01/model.safetensors")
    alone = load_file(models / "alone/model/subj01/model.safetensors")
    tuned = load_file(models / "tuned/model/subj01/model.safetensors")
    for name, weights in of_two.items():
        np.testing.assert_array_equal(weights, alone[name])
        np.testing.assert_allclose(weights, tuned[name], atol=1e-7)
    assert np.abs(of_two["lin0.weight"] - other["lin0.weight"]).max() > 1e-3


def test_more_sessions_than_there_are_is_told(graph: Pipeline) -> None:
    training = graph.experiments["tuned"].training.model_copy(update={"sessions": "first 9"})
    graph.experiments["tuned"] = graph.experiments["tuned"].model_copy(
        update={"training": training}
    )
    graph.run("small_model", first="subj01")
    with pytest.raises(dg.Failure, match=r"'first 9' of subj01 were asked for, and it has 2"):
        graph.run("tuned_model", first="subj01")
