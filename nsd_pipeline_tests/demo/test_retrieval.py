"""The planted signal is found, and only the signal is."""

from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline.demo import generate, write_tiny_encoder
from nsd_pipeline.demo.run import SETTINGS
from nsd_pipeline_tests.pipeline import Pipeline

SESSIONS = ("subj01_ses01", "subj01_ses03")


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_retrieval_follows_the_signal(strength: float, tmp_path: Path) -> None:
    dataset = generate(tmp_path / "nsd", subjects=1, sessions=3, strength=strength, spaces=())
    encoder = write_tiny_encoder(tmp_path / "encoder")
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Pipeline(str(dataset.folder), tmp_path / "artifacts", encoder, instance)
        graph.run_sessions(*SESSIONS)
        graph.run_images("shared", "subj01")
        facts = graph.run("fmri_mlp", "retrieval_metrics", first="subj01", config=SETTINGS)
    metrics = facts["retrieval_metrics"]
    above_chance = "retrieval_metrics:above_chance" not in graph.failed_checks
    assert above_chance == (strength > 0)
    if strength:
        assert 5 * metrics["chance top1_acc"] < metrics["top1_acc"] < 0.9
    else:
        assert metrics["top5_acc"] < 2 * metrics["chance top5_acc"]
