"""Slurm's options and endings, as they are written and told."""

import pytest

from nsd_pipeline.launchers import slurm_jobs
from nsd_pipeline.launchers.slurm_jobs import SlurmError


@pytest.mark.parametrize(
    "tag",
    [
        '{"partition": "a b"}',
        '{"partition": "--wrap=id"}',
        '{"memory": "1G\\nexport X=1"}',
        '{"constraint": "$(id)"}',
        '{"wrap": "id"}',
        '{"cpus": 0}',
        "[1]",
        "no json",
    ],
)
def test_options_that_are_none_are_refused(tag: str) -> None:
    with pytest.raises(SlurmError, match="Slurm options of run 7 are wrong"):
        slurm_jobs.parse_resources({"cpus": 2}, tag, where="run 7")


def test_later_options_win() -> None:
    resources = slurm_jobs.parse_resources(
        {"partition": "cpu", "cpus": 4}, {"gpus": 1}, '{"gpus": "a100:2"}', where="a run"
    )
    assert resources.options() == ["--partition=cpu", "--gres=gpu:a100:2", "--cpus-per-task=4"]


@pytest.mark.parametrize("state", sorted(slurm_jobs.ENDINGS))
def test_every_ending_is_a_sentence(state: str) -> None:
    ended = slurm_jobs.JobState(state, "None", "node7")
    assert ended.is_over
    assert ended.describe("12").startswith("Slurm job 12 on node7 ")
    assert f"({state})" in ended.describe("12")
