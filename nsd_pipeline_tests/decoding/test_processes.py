"""What the processes of a training are told, and what they say."""

from pathlib import Path

import pandas as pd
import pytest

from nsd_pipeline.decoding import TrainingConfig
from nsd_pipeline.decoding.cohort import Cohort, read_data
from nsd_pipeline.decoding.processes import TrainingPlan, _train_in_processes
from nsd_pipeline.errors import ArtifactError, NsdError
from nsd_pipeline.storage.opening import open_store


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
        checkpoints=tmp_path / "scratch",
        recipe="1a2b",
    )


def test_a_plan_survives_json(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    read = TrainingPlan.model_validate_json(plan.model_dump_json())
    assert read == plan
    assert read.cohort.sessions == ["subj01_ses02", "subj01_ses01"]


def test_what_is_wrong_in_a_process_is_told_as_if_it_were_this_one(tmp_path: Path) -> None:
    """With its next step, and with the artifact that is to be made."""
    plan = make_plan(tmp_path).model_copy(update={"store_url": str(tmp_path / "store")})
    trials = pd.DataFrame(
        {"subject": ["subj01"], "session": [2], "trial": [0], "image_id": [7], "split": ["train"]}
    )
    trials.to_parquet(tmp_path / "trials.parquet")
    plan = plan.model_copy(update={"config": TrainingConfig()})
    store = open_store(plan.store_url)
    with pytest.raises(ArtifactError) as here:
        read_data(store, plan.cohort, trials, plan.config)
    plan.checkpoints.mkdir()
    with pytest.raises(NsdError) as told:
        _train_in_processes(plan, [None], pytest.fail)
    assert str(told.value) == str(here.value)
    assert told.value.remake == here.value.remake
