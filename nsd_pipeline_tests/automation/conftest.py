from collections.abc import Iterator

import dagster as dg
import pytest

from nsd_pipeline import planned_runs
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.definitions import build_defs
from nsd_pipeline.steps.sessions import Preparation
from nsd_pipeline_tests.automation.webserver import Webserver, dagster_dev
from nsd_pipeline_tests.pipeline import SmallNsd

SUBJECT = "subj01"


@pytest.fixture(scope="module")
def webserver(small_nsd: SmallNsd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webserver]:
    """The web UI with a history: one of the subject's two sessions, its model, its metrics."""
    folder = tmp_path_factory.mktemp("webserver")
    (folder / "home").mkdir()
    artifacts = str(folder / "artifacts")
    repository = build_defs(str(small_nsd.folder), artifacts).get_repository_def()
    config = {
        "stimulus_embeddings": {"model": str(small_nsd.encoder)},
        "fmri_mlp": {"n_epochs": 2, "hidden": 8},
    }
    (betas,) = Preparation.for_all([TrainingConfig()])
    with dg.DagsterInstance.local_temp(str(folder / "home")) as instance:
        for planned in (
            planned_runs.DESIGN,
            *planned_runs.prepare([f"{SUBJECT}_ses01"], betas, at_most=1),
            *planned_runs.embed((SUBJECT,)),
            *planned_runs.decode((SUBJECT,)),
        ):
            planned_runs.execute(repository, instance, planned, config=config)
    environment = {
        "NSD_SOURCE": str(small_nsd.folder),
        "NSD_STORAGE": artifacts,
        "NSD_ENCODER": str(small_nsd.encoder),
        "NSD_BACKFILL_CRON": "* * * * *",
        "NSD_GPU_LOCKS": str(folder / "locks"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    with dagster_dev(folder / "home", environment) as server:
        yield server
