"""Stages at their real sizes, each in a process that cannot have more than its memory ceiling.

The ceilings are those of docs/performance.md. They bound what a process may allocate
(RLIMIT_DATA), which is more than what it touches.
"""

from pathlib import Path
from typing import Final

import h5py
import numpy as np
import pytest

from nsd_pipeline.demo.experiment import DemoSettings, make_design, write_tables
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import (
    FSAVERAGE5_VERTICES,
    IMAGE_SHAPE,
    N_IMAGES,
    STIMULI_KEY,
    betas_keys,
)
from nsd_pipeline.surface import summarise, write_session
from nsd_pipeline_tests.memory import run_within
from nsd_pipeline_tests.nsd.mgh_files import write_sparse_betas
from nsd_pipeline_tests.storage.servers import S3rver

SESSION_CEILING: Final = 1.5e9
TRAINING_CEILING: Final = 2e9
"""Of everything but the betas."""
METRICS_CEILING: Final = 2e9

SUBJECT_BYTES: Final = 30_000 * 20_484 * 4
"""2.46 GB."""

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
    failed_checks = graph.failed_checks
    facts |= graph.run("stimuli", first="subj01")
print(json.dumps({
    "n_bytes": facts["betas"]["bytes fetched"],
    "trials": facts["fsaverage5_betas"]["trials"],
    "peak_bytes": peak_bytes(),
    "failed_checks": failed_checks,
    "images": facts["stimuli"]["images"],
    "image_bytes": facts["stimuli"]["bytes fetched"],
}))
"""

# 40 sessions of 750 trials; all read the same group, which costs the reader no less.
SUBJECT = """
import json, sys
import numpy as np, pandas as pd, zarr
from nsd_pipeline import decoding
from nsd_pipeline.surface import SessionRows
from nsd_pipeline_tests.memory import peak_bytes
group = zarr.open_group(sys.argv[1], mode="r")
rng = np.random.default_rng(0)
trials = pd.DataFrame({
    "subject": "subj01", "session": np.repeat(np.arange(1, 41), 750),
    "trial": np.tile(np.arange(750), 40), "image_id": rng.integers(10_000, size=30_000),
    "split": rng.choice(["train", "val"], 30_000, p=[0.8, 0.2]),
})
sessions = {("subj01", session): SessionRows(group) for session in range(1, 41)}
data = decoding.assemble_trials(
    trials, sessions, np.arange(10_000), rng.standard_normal((10_000, 1_536), np.float32)
)
config = decoding.TrainingConfig(n_epochs=1)
result = decoding.train(config, data.split("train"), data.split("val"))
print(json.dumps({
    "data_bytes": data.rows.values.nbytes,
    "peak_bytes": peak_bytes(),
    "epochs": len(result.history),
}))
"""

# The same 40 sessions in less memory than their betas take. The model is small: it is not its time
# that counts here.
STREAMED = """
import json, sys
import numpy as np, pandas as pd, zarr
from nsd_pipeline import decoding
from nsd_pipeline_tests.memory import peak_bytes
from nsd_pipeline.surface import SessionRows
group = zarr.open_group(sys.argv[1], mode="r")
rng = np.random.default_rng(0)
trials = pd.DataFrame({
    "subject": "subj01", "session": np.repeat(np.arange(1, 41), 750),
    "trial": np.tile(np.arange(750), 40), "image_id": rng.integers(10_000, size=30_000),
    "split": np.where(np.arange(30_000) // 62 % 5 == 0, "val", "train"),
})
sessions = {("subj01", session): SessionRows(group) for session in range(1, 41)}
data = decoding.assemble_trials(
    trials, sessions, np.arange(10_000), rng.standard_normal((10_000, 64), np.float32),
    memory=decoding.Memory(gb=0.4),
)
config = decoding.TrainingConfig(n_epochs=1, hidden=4)
result = decoding.train(config, data.split("train"), data.split("val"))
print(json.dumps({
    "data_bytes": data.n_trials * data.n_vertices * 4,
    "peak_bytes": peak_bytes(),
    "epochs": len(result.history),
}))
"""

# All eight subjects' test trials and the shared images.
METRICS = """
import json
import numpy as np
from nsd_pipeline import evaluation
from nsd_pipeline_tests.memory import peak_bytes
rng = np.random.default_rng(0)
n = 22_000
images = rng.integers(1_000, size=n)
targets = rng.standard_normal((1_000, 1_536), np.float32)
y_true, y_pred = targets[images], rng.standard_normal((n, 1_536), np.float32)
subjects = [f"subj0{1 + i % 8}" for i in range(n)]
metrics = evaluation.retrieval_metrics(y_pred, y_true, images.tolist(), subjects)
evaluation.trial_ranks(y_pred, y_true, images.tolist(), subjects)
evaluation.top_images(y_pred, y_true, images.tolist(), subjects)
print(json.dumps({
    "metrics": len(metrics),
    "peak_bytes": peak_bytes(),
}))
"""


@pytest.fixture
def served_session(
    s3rver: S3rver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A session of 750 trials and all images on a bucket; holes where nothing will be looked at."""
    settings = DemoSettings(subjects=1, sessions=1, trials_per_run=63, spaces=())
    mirror = tmp_path / "nsd"
    keys = betas_keys("subj01", 1, "fsaverage")
    write_tables(mirror, make_design(settings), settings)
    rng = np.random.default_rng(0)
    for key in (STIMULI_KEY, *keys):
        (mirror / key).parent.mkdir(parents=True, exist_ok=True)
    for key in keys:
        write_sparse_betas(mirror / key, rng, 750)
    with h5py.File(mirror / STIMULI_KEY, "w") as file:
        images = file.create_dataset("imgBrick", (N_IMAGES, *IMAGE_SHAPE), np.uint8)
        images[-1] = 255  # gives the dataset its place in the file, 39.6 GB from end to end
    for path in mirror.rglob("*.*"):
        s3rver.add("natural-scenes-dataset", str(path.relative_to(mirror)), path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3rver.url)
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    return mirror / keys[0], mirror / keys[1]


def test_a_session_from_the_bucket_to_zarr_within_a_gigabyte(
    served_session: tuple[Path, Path], tmp_path: Path
) -> None:
    import zarr

    measured = run_within(SESSION_CEILING, SESSION, tmp_path / "artifacts")
    assert measured["trials"] == 750
    assert measured["failed_checks"] == []
    assert measured["n_bytes"] == 2 * 750 * FSAVERAGE5_VERTICES * 4  # 61.45 MB of 983 MB
    assert sum(path.stat().st_size for path in served_session) > 983e6
    assert measured["image_bytes"] >= measured["images"] * np.prod(IMAGE_SHAPE) > 1.6e8
    assert measured["peak_bytes"] < 1e9
    betas = zarr.open_group(tmp_path / "artifacts/fsaverage5_betas.zarr/subj01/ses01")["betas"]
    for half, path in zip(np.split(betas[...], 2, axis=1), served_session, strict=True):
        np.testing.assert_array_equal(half, mgh.read_vertices(path, FSAVERAGE5_VERTICES))


@pytest.fixture
def session(tmp_path: Path) -> Path:
    betas = np.random.default_rng(0).standard_normal((750, 2 * FSAVERAGE5_VERTICES), np.float32)
    write_session(tmp_path / "session", betas, summarise(betas), {})
    return tmp_path / "session"


def test_a_whole_subject_trains_with_one_copy_of_its_data(session: Path) -> None:
    measured = run_within(SUBJECT_BYTES + TRAINING_CEILING, SUBJECT, session)
    assert measured["data_bytes"] == SUBJECT_BYTES
    assert measured["epochs"] == 1
    # The data once, the interpreter with torch, embeddings, and a model of 5 million parameters.
    assert measured["peak_bytes"] < measured["data_bytes"] + 1.5e9


def test_a_subject_trains_in_less_memory_than_its_data_take(session: Path) -> None:
    measured = run_within(4e8 + TRAINING_CEILING, STREAMED, session)
    assert measured["data_bytes"] == SUBJECT_BYTES
    assert measured["epochs"] == 1
    assert measured["peak_bytes"] < 1.2e9


def test_metrics_of_all_subjects(tmp_path: Path) -> None:
    measured = run_within(METRICS_CEILING, METRICS, tmp_path)
    assert measured["metrics"] > 50
