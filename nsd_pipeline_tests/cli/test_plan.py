"""`nsd plan` says what `nsd run` then does."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.nsd_series import design_key, series_key
from nsd_pipeline.steps.forecast import DEFAULTS
from nsd_pipeline.steps.measurement import RetrievalMetrics
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline_tests.cli.conftest import Nsd, parsed
from nsd_pipeline_tests.pipeline import SmallNsd

TRIALS = 30  # of a session of the small dataset
SECOND = layout.betas_keys("subj01", 2, "fsaverage")[0]


def planned(nsd: Nsd, *arguments: str) -> dict[str, dict[str, Any]]:
    return {each["step"]: each for each in parsed(nsd("plan", "--json", *arguments))["steps"]}


def test_a_plan_counts_what_is_left(nsd: Nsd, artifacts: Path) -> None:
    steps = planned(nsd, "subj01", "--sessions", "1-3")  # of which the dataset has two
    assert steps["fsaverage5_betas"]["artifacts"] == 1
    assert steps["fsaverage5_betas"]["basis"] == "1 made here"
    assert steps["fsaverage5_betas"]["seconds"] > 0
    assert steps["betas"]["fetched_bytes"] == 0, "a mirror is read in place"
    assert (steps["fmri_mlp"]["artifacts"], steps["retrieval_metrics"]["basis"]) == (1, "defaults")
    a_trial = DEFAULTS[RetrievalMetrics].disk_bytes
    assert 0 < steps["retrieval_metrics"]["disk_bytes"] < 2 * TRIALS * a_trial, "of a test trial"
    assert "betas" not in planned(nsd, "subj01", "--sessions", "1"), "it is there"
    shown = nsd("plan", "subj01")
    assert shown.exit_code == 0
    assert "sessions 1 up to date, 1 missing, 38 not on the source" in shown.stdout
    assert "Defaults: two CPU cores" in shown.stdout


class Far:
    """A mirror, as if it were a bucket."""

    def __init__(self, folder: Path) -> None:
        self._mirror = open_source(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mirror, name)

    def local_path(self, key: str) -> None:
        return None


@pytest.fixture
def dataset(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset's folder, which is far away for `nsd plan`."""
    folder = artifacts.parent / "nsd"
    # The package's attribute of that name is the command.
    monkeypatch.setattr(sys.modules["nsd_pipeline.cli.plan"], "the_source", lambda: Far(folder))
    return folder


def test_what_comes_from_a_bucket_is_counted_in_bytes_and_requests(nsd: Nsd, dataset: Path) -> None:
    steps = planned(nsd, "subj01", "--sessions", "2")
    assert steps["betas"]["requests"] == 2 * TRIALS
    assert steps["betas"]["fetched_bytes"] == 2 * TRIALS * 10_242 * 4
    new = steps["stimuli"]["requests"]
    assert 0 < new < TRIALS
    assert steps["stimuli"]["fetched_bytes"] == new * 425 * 425 * 3


def test_time_series_are_counted_as_the_whole_files_that_they_are(nsd: Nsd, dataset: Path) -> None:
    for run in range(1, 13):
        for key in (series_key, design_key):
            path = dataset / key("subj01", 1, run, "func1pt8mm")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(1000))
    steps = planned(nsd, "subj01", "--sessions", "1-2", "--experiment", "neuralbench")
    assert steps["bold"]["artifacts"] == steps["fsaverage5_series"]["artifacts"] == 1
    assert (steps["bold"]["fetched_bytes"], steps["bold"]["requests"]) == (12_000, 1)
    assert steps["fsaverage5_series"]["disk_bytes"] > 1e8, "the default, as none was made"
    assert "betas" not in steps, "what the experiment does not learn from"
    shown = nsd("plan", "subj01", "--sessions", "1-2", "--experiment", "neuralbench").stdout
    assert "1 missing of time series, 1 not on the source of time series" in shown


def test_a_model_that_would_be_made_otherwise_now_is_counted(nsd: Nsd, artifacts: Path) -> None:
    # The one there has two settings of its own.
    steps = planned(nsd, "subj01", "--sessions", "1")
    assert (steps["fmri_mlp"]["artifacts"], steps["retrieval_metrics"]["artifacts"]) == (1, 1)
    assert "fsaverage5_betas" not in steps


def test_a_plan_of_what_the_dataset_has_not_got_says_so(nsd: Nsd, artifacts: Path) -> None:
    for selection, there_not in (
        (("subj01", "--sessions", "1-2", "--experiment", "neuralbench"), "2 not on the source"),
        (("subj02", "--sessions", "1-3"), "3 not on the source"),
    ):
        shown = nsd("plan", *selection)
        assert shown.exit_code == 0
        assert there_not in shown.stdout
        assert "_model" not in shown.stdout
        assert "fmri_mlp" not in shown.stdout


def test_what_an_experiment_starts_from_and_who_teaches_it_are_counted(
    nsd: Nsd, artifacts: Path
) -> None:
    (artifacts.parent / "experiments.yaml").write_text(
        "tuned: {start_from: new}\nnew: {train_on: others}\n"
    )
    steps = planned(nsd, "subj01", "--sessions", "1", "--experiment", "tuned")
    models = [name for name in steps if name.endswith("_model")]
    assert models == ["new_model", "tuned_model"], "first what is begun with"
    # A session of somebody else, by its manifest.
    for folder in (artifacts / "manifests").glob("fsa*/subj01"):
        text = (folder / "ses01.json").read_text().replace("subj01", "subj02")
        folder.with_name("subj02").mkdir()
        (folder.with_name("subj02") / "ses01.json").write_text(text)
    more = planned(nsd, "subj01", "--sessions", "1", "--experiment", "tuned")
    assert more["new_model"]["disk_bytes"] == 2 * steps["new_model"]["disk_bytes"]
    assert more["tuned_model"] == steps["tuned_model"]
    refused = nsd("plan", "all", "--experiment", "new")
    assert refused.exit_code == 2
    assert "new has a model of each subject, and none of all" in refused.stderr


def test_too_little_disk_and_names_that_are_none(
    nsd: Nsd, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1000))
    short = nsd("plan", "subj01")
    assert short.exit_code == 1
    assert "too little room" in short.stdout
    for arguments in (("subj09",), ("subj01", "--sessions", "x"), ("subj01", "--experiment", "x")):
        assert nsd("plan", *arguments).exit_code == 2


def test_a_run_does_what_can_be_done_and_names_the_rest(
    small_nsd: SmallNsd, tmp_path: Path
) -> None:
    source = small_nsd.copy(tmp_path / "nsd")
    content = (source / SECOND).read_bytes()
    (source / SECOND).unlink()  # it is a link to a file that other tests read
    (source / SECOND).write_bytes(content[:1000])
    environment = {
        **os.environ,
        "NSD_SOURCE": str(source),
        "NSD_STORAGE": str(tmp_path / "artifacts"),
        "NSD_ENCODER": str(small_nsd.encoder),
        "DAGSTER_HOME": str(tmp_path / "home"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }

    def nsd(*arguments: str) -> tuple[int, Any]:
        command = [sys.executable, "-c", "from nsd_pipeline.cli import main; main()", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout)

    status, outcome = nsd("run", "subj01", "--sessions", "1-2", "--json")
    assert status == 1
    (problem,) = [text for name, text in outcome["problems"].items() if "ses02" in name]
    assert "is truncated" in problem
    assert "Next step" in problem
    said = {each["run"]: each["said"] for each in outcome["runs"]}
    assert said.pop(next(name for name in said if "ses02" in name)) == "failed"
    assert set(said.values()) <= {"made", "made, but at chance"}
    assert any("fmri_mlp, retrieval_metrics" in name for name in said)
    _, after = nsd("status", "--json")
    states = {
        artifact["key"]: artifact["state"]
        for stage in after["stages"]
        for artifact in stage["artifacts"]
    }
    assert states["fmri_mlp/subj01"] == states["retrieval_metrics/subj01"] == "up to date"
    assert states["events/subj01/ses01"] == "up to date"


def test_what_is_not_on_the_source_and_an_interruption_are_told(
    nsd: Nsd, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert artifacts.exists()
    assert "none of these sessions" in nsd("plan", "subj02").stdout

    def interrupted(*_: object, **__: object) -> None:
        raise dg.DagsterExecutionInterruptedError

    monkeypatch.setattr("nsd_pipeline.cli.carry_out._do", interrupted)
    stopped = nsd("run", "subj01")
    assert stopped.exit_code == 1
    assert "interrupted" in stopped.stderr
    assert "Next step: give the same command again" in stopped.stderr
