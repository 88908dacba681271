"""The planted signal is found by the product's own defaults, and only the signal is."""

import re
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from nsd_pipeline.checks import AtChance
from nsd_pipeline.demo import generate, run, write_tiny_encoder
from nsd_pipeline.steps.sessions import SessionStates
from nsd_pipeline_tests.pipeline import Pipeline

SESSIONS = ("subj01_ses01", "subj01_ses03")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_retrieval_follows_the_signal(strength: float, tmp_path: Path) -> None:
    dataset = generate(tmp_path / "nsd", subjects=1, sessions=3, strength=strength, spaces=())
    encoder = write_tiny_encoder(tmp_path / "encoder")
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Pipeline(str(dataset.folder), tmp_path / "artifacts", encoder, instance)
        graph.run_sessions(*SESSIONS)
        graph.run_images("shared", "subj01")
        if strength:
            facts = graph.run("fmri_mlp", "retrieval_metrics", first="subj01")
            metrics = facts["retrieval_metrics"]
            assert "retrieval_metrics:above_chance" not in graph.failed_checks
            assert 5 * metrics["chance top1_acc"] < metrics["top1_acc"] < 0.9
            assert metrics["top5_acc"] >= 0.7
        else:
            with pytest.raises(
                AtChance, match=r"subj01 is no better.*seeds 0, 1, 2.*3 sessions.*mapping"
            ):
                graph.run("fmri_mlp", "retrieval_metrics", first="subj01")
            # What was made is kept, and the page says what it is worth.
            graph.run("decoding_report")
            page = (graph.artifacts / "decoding_report/report.html").read_text()
            assert "subj01 is no better than guessing" in page
            # Trained again and not measured again: the page does not pass the numbers off as its.
            graph.run("fmri_mlp", first="subj01", config={"fmri_mlp": {"seeds": [1]}})
            graph.run("decoding_report")
            page = (graph.artifacts / "decoding_report/report.html").read_text()
            assert "These numbers are of an earlier model" in page


@pytest.mark.parametrize("experiment", ["default", "neuralbench"])
def test_the_demo_sets_nothing_that_a_user_would_not_set(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, dict[str, object]] = {}

    def note(*_: object, config: dict[str, dict[str, object]]) -> list[str]:
        used.update(config)
        return ["made"]

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(run, "execute", note)
    monkeypatch.setattr(run, "_url", lambda _: str(tmp_path))
    monkeypatch.setattr(run, "look_at_sessions", lambda *_: SessionStates())
    monkeypatch.setattr(run, "_print_results", lambda *_: None)
    result = CliRunner().invoke(run.main, ["--experiment", experiment])
    assert result.exit_code == 0, result.output

    # What is left is explained where people read about windows.
    page = (ROOT / "docs" / "windows.md").read_text()
    for settings in used.values():
        assert experiment == "neuralbench"
        assert all(str(value) in page for value in settings.values())
    # Nor does the environment of `make demo` set more than places.
    makefile = (ROOT / "Makefile").read_text()
    environment = re.search(r"^DEMO_ENV := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert environment
    names = set(re.findall(r"(\w+)=", environment[1]))
    assert names == {"NSD_SOURCE", "NSD_STORAGE", "NSD_ENCODER"}
