"""What the processes of a training are told, and that no two trainings write one checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

from nsd_pipeline.decoding import TrainingConfig
from nsd_pipeline.decoding.cohort import Cohort
from nsd_pipeline.decoding.processes import TrainingPlan, alone
from nsd_pipeline.errors import NsdError


def make_plan(tmp_path: Path) -> TrainingPlan:
    return TrainingPlan(
        store_url="s3://lab/artifacts",
        cohort=Cohort(
            name="all",
            fmri={"subj01_ses02": "series/subj01/ses02", "subj01_ses01": "series/subj01/ses01"},
            events={"subj01_ses02": "events/subj01/ses02"},
            embeddings={"shared": "embeddings/shared"},
            inputs={"a": "b"},
            space="func1mm",
            encoder={"model": "facebook/dinov2-giant", "network_size": [224, 224]},
        ),
        config=TrainingConfig(precision="bfloat16", head_sizes=[8], data_dtype="float16"),
        folder=tmp_path,
        checkpoint=tmp_path / "scratch" / "checkpoint",
        recipe="1a2b",
    )


def test_a_plan_survives_json(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    read = TrainingPlan.model_validate_json(plan.model_dump_json())
    assert read == plan
    assert read.cohort.sessions == ["subj01_ses02", "subj01_ses01"]


def test_a_model_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from nsd_pipeline.decoding.processes import TrainingPlan, alone\n"
        "plan = TrainingPlan.model_validate_json(sys.argv[1])\n"
        "with alone(plan): print('training', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, plan.model_dump_json()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == b"training\n"
        with pytest.raises(NsdError, match="all is being trained by another process"), alone(plan):
            pass
        other.kill()
    with alone(plan):  # a killed one holds nothing
        pass
