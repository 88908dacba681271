"""One session and one subject at their real sizes, each in a process whose memory is measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nsd_pipeline.demo.behaviour import make_responses, write_responses
from nsd_pipeline.demo.design import make_design, write_design, write_stimulus_info
from nsd_pipeline.demo.settings import DemoSettings
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import (
    EXPDESIGN_KEY,
    FSAVERAGE5_VERTICES,
    FSAVERAGE_VERTICES,
    STIM_INFO_KEY,
    betas_keys,
    responses_key,
)
from nsd_pipeline.surface import summarise, write_session
from nsd_pipeline_tests.storage.servers import S3rver

SESSION = """
import json, sys
from pathlib import Path
import dagster as dg
from nsd_pipeline_tests.memory import peak_bytes
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline
with dg.DagsterInstance.ephemeral() as instance:
    graph = Pipeline("s3://natural-scenes-dataset", Path(sys.argv[1]), Path(), instance)
    graph.run("experiment_design")
    facts = graph.run(*SESSION_ASSETS, first="subj01_ses01")
print(json.dumps({
    "n_bytes": facts["betas"]["bytes fetched"],
    "trials": facts["fsaverage5_betas"]["n_trials"],
    "peak_bytes": peak_bytes(),
    "failed_checks": graph.failed_checks,
}))
"""

# 40 sessions of 750 trials; all read the same group, which costs the reader no less.
SUBJECT = """
import json, sys
import numpy as np, pandas as pd, zarr
from nsd_pipeline import decoding
from nsd_pipeline.surface import read_betas
from nsd_pipeline_tests.memory import peak_bytes
group = zarr.open_group(sys.argv[1], mode="r")
rng = np.random.default_rng(0)
trials = pd.DataFrame({
    "subject": "subj01", "session": np.repeat(np.arange(1, 41), 750),
    "trial": np.tile(np.arange(750), 40), "image_id": rng.integers(10_000, size=30_000),
    "split": rng.choice(["train", "val"], 30_000, p=[0.8, 0.2]),
})
def read(subject, session, trials, out):
    read_betas(group, trials=trials, out=out)
data = decoding.assemble_trials(
    trials, 20_484, read, np.arange(10_000), rng.standard_normal((10_000, 1_536), np.float32)
)
config = decoding.TrainingConfig(n_epochs=1)
result = decoding.train(config, data.split("train"), data.split("val"))
print(json.dumps({
    "data_bytes": data.betas.nbytes,
    "peak_bytes": peak_bytes(),
    "epochs": len(result.history),
}))
"""


def measure(code: str, argument: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", code, str(argument)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def served_session(
    s3rver: S3rver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A session of 750 trials on a bucket; noise where fsaverage5 is, holes elsewhere."""
    settings = DemoSettings(subjects=1, sessions=1, trials_per_run=63, spaces=())
    design = make_design(settings)
    mirror = tmp_path / "nsd"
    keys = betas_keys("subj01", 1, "fsaverage")
    for key in (EXPDESIGN_KEY, STIM_INFO_KEY, responses_key("subj01"), *keys):
        (mirror / key).parent.mkdir(parents=True, exist_ok=True)
    write_design(design, mirror / EXPDESIGN_KEY)
    write_stimulus_info(design, mirror / STIM_INFO_KEY, seed=0)
    write_responses(make_responses(design, settings, "subj01"), mirror / responses_key("subj01"))
    rng = np.random.default_rng(0)
    header = mgh.MghHeader(FSAVERAGE_VERTICES, 750)
    for key in keys:
        with (mirror / key).open("wb") as file:
            file.write(mgh.header_bytes(FSAVERAGE_VERTICES, 750))
            for offset, _ in mgh.frame_ranges(header, FSAVERAGE5_VERTICES):
                file.seek(offset)
                file.write(rng.standard_normal(FSAVERAGE5_VERTICES).astype(">f4").tobytes())
            file.truncate(header.data_end)
    for path in mirror.rglob("*.*"):
        s3rver.add("natural-scenes-dataset", str(path.relative_to(mirror)), path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3rver.url)
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    return mirror / keys[0], mirror / keys[1]


def test_a_session_from_the_bucket_to_zarr_within_a_gigabyte(
    served_session: tuple[Path, Path], tmp_path: Path
) -> None:
    import zarr

    measured = measure(SESSION, tmp_path / "artifacts")
    assert measured["trials"] == 750
    assert measured["failed_checks"] == []
    assert measured["n_bytes"] == 2 * 750 * FSAVERAGE5_VERTICES * 4  # 61.45 MB of 983 MB
    assert sum(path.stat().st_size for path in served_session) > 983e6
    assert measured["peak_bytes"] < 1e9
    betas = zarr.open_group(tmp_path / "artifacts/fsaverage5_betas.zarr/subj01/ses01")["betas"]
    for half, path in zip(np.split(betas[...], 2, axis=1), served_session, strict=True):
        np.testing.assert_array_equal(half, mgh.read_vertices(path, FSAVERAGE5_VERTICES))


def test_a_whole_subject_trains_with_one_copy_of_its_data(tmp_path: Path) -> None:
    betas = np.random.default_rng(0).standard_normal((750, 2 * FSAVERAGE5_VERTICES), np.float32)
    write_session(tmp_path / "session", betas, summarise(betas), {})
    measured = measure(SUBJECT, tmp_path / "session")
    assert measured["data_bytes"] == 30_000 * 20_484 * 4  # 2.46 GB
    assert measured["epochs"] == 1
    # The data once, the interpreter with torch, embeddings, and a model of 5 million parameters.
    assert measured["peak_bytes"] < measured["data_bytes"] + 1.5e9
