"""The noise ceiling of the sessions at hand, beside NSD's own where the source has it."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from nibabel import MGHImage

from nsd_pipeline.demo import generate
from nsd_pipeline.demo.brain import response_profile
from nsd_pipeline.nsd.layout import FSAVERAGE_VERTICES, HEMISPHERES, betas_folder
from nsd_pipeline_tests.pipeline import Pipeline

SESSIONS = ("subj01_ses01", "subj01_ses03")


@pytest.fixture
def graph(tmp_path: Path, pipeline: Callable[..., Pipeline]) -> Pipeline:
    dataset = generate(tmp_path / "nsd", subjects=1, sessions=3, trials_per_run=5, spaces=())
    return pipeline(dataset.folder)


def test_it_is_high_where_the_brain_responds_and_compared_with_nsd_s(
    graph: Pipeline, tmp_path: Path
) -> None:
    graph.run_sessions(*SESSIONS)
    alone = graph.run("noise_ceiling", first="subj01")["noise_ceiling"]
    assert alone["images shown three times"] > 2
    assert "correlation with NSD's ncsnr" not in alone
    table = pd.read_parquet(graph.artifacts / "noise_ceiling/subj01/ceiling.parquet")
    assert table["hemisphere"].value_counts().to_dict() == {"lh": 10_242, "rh": 10_242}
    responds = np.concatenate([response_profile(side) > 1.5 for side in HEMISPHERES])
    for column in ("ncsnr", "reliability"):
        inside, outside = table[column][responds], table[column][~responds]
        assert inside.median() > 1.5 * outside.median()
        assert alone[f"median {column}"] == pytest.approx(table[column].median(), rel=1e-3)
        # The UI shows a map of each.
    assert {"noise ceiling", "reliability"} <= alone.keys()
    ratio = table["ncsnr"] ** 2
    np.testing.assert_allclose(table["percent_of_three"], 100 * ratio / (ratio + 1 / 3))

    for side, half in zip(HEMISPHERES, (slice(0, 10_242), slice(10_242, None)), strict=True):
        values = np.zeros(FSAVERAGE_VERTICES, np.float32)
        values[:10_242] = 2 * table["ncsnr"].to_numpy()[half]
        path = tmp_path / "nsd" / betas_folder("subj01", "fsaverage") / f"{side}.ncsnr.mgh"
        MGHImage(values[:, None, None], np.eye(4)).to_filename(path)
    beside = graph.run("noise_ceiling", first="subj01")["noise_ceiling"]
    assert beside["correlation with NSD's ncsnr"] == pytest.approx(1)


def test_too_few_sessions_are_told(pipeline: Callable[..., Pipeline]) -> None:
    graph = pipeline()
    with pytest.raises(dg.Failure, match="No session of subj01 has betas on fsaverage5"):
        graph.run("noise_ceiling", first="subj01")
