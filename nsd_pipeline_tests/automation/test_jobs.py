"""One subject to the end in one go, with the sessions that can be prepared."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository

from nsd_pipeline.checks import AtChance
from nsd_pipeline.jobs import STARTED_BY_TAG
from nsd_pipeline.nsd.layout import SUBJECTS, betas_keys
from nsd_pipeline.planned_runs import PlannedRun, to_the_end
from nsd_pipeline.steps.decoding import FmriMlp
from nsd_pipeline.steps.forecast import Wanted
from nsd_pipeline.steps.measurement import RetrievalMetrics
from nsd_pipeline.steps.series_files import BoldConfig
from nsd_pipeline.steps.sessions import SERIES_STEPS, Preparation, SessionStates
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline_tests.pipeline import SmallNsd

SUBJECT = "subj01"
LOCATION = Path(__file__).with_name("location.py")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as local:
        yield local


def test_a_subject_to_the_end_without_a_session_that_fails(
    small_nsd: SmallNsd,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = small_nsd.copy(tmp_path / "nsd")
    damaged = source / betas_keys(SUBJECT, 2, "fsaverage")[0]
    whole = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(whole[:1_000_000])
    store = open_store(tmp_path / "artifacts")
    monkeypatch.setenv("NSD_SOURCE", str(source))
    monkeypatch.setenv("NSD_STORAGE", str(tmp_path / "artifacts"))
    # A copy: a file is loaded once in a process, and this one is bound to this environment.
    code = str(shutil.copy(LOCATION, tmp_path / "location_of_test_jobs.py"))
    job = ReconstructableRepository.for_file(code, "defs").get_reconstructable_job("subject")
    settings = {
        "encoder": {"model": str(small_nsd.encoder)},
        "training": {"n_epochs": 2, "hidden": 8},
    }

    def run() -> dg.JobExecutionResult:
        return dg.execute_job(
            job,
            instance,
            run_config={
                "ops": {"every_run": {"config": settings}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            tags={"dagster/partition": SUBJECT},
        )

    first = run()
    assert not first.success
    failure = first.failure_data_for_node("every_run")
    assert failure is not None
    assert f"{SUBJECT}_ses02: " in str(failure.user_failure_data.description)
    model = store.manifest(FmriMlp.key(SUBJECT))
    assert model is not None
    assert model.metadata["sessions"] == [f"{SUBJECT}_ses01"]
    stages = instance.get_runs(dg.RunsFilter(tags={STARTED_BY_TAG: first.run_id}))
    assert [run.status.value for run in stages].count("FAILURE") == 1
    assert len(stages) == 7  # the design, two sessions, two stimulus sets, the cohort, the report

    damaged.write_bytes(whole)
    assert run().success
    model = store.manifest(FmriMlp.key(SUBJECT))
    assert model is not None
    assert model.metadata["sessions"] == [f"{SUBJECT}_ses01", f"{SUBJECT}_ses02"]


@pytest.mark.parametrize("kind", [AtChance, dg.Failure])
def test_a_model_that_fails_or_is_at_chance_is_reported_before_the_job_fails(
    kind: type[dg.Failure],
    small_nsd: SmallNsd,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The runs themselves are tested elsewhere; a model at chance needs more data than here."""
    done: list[tuple[str, ...]] = []

    def execute(_: object, __: object, planned: PlannedRun, **___: object) -> dict[str, str]:
        done.append(planned.assets)
        if "fmri_mlp" in planned.assets:
            raise kind("The model of subj01 is no better than guessing.", allow_retries=False)
        return {}

    monkeypatch.setattr("nsd_pipeline.jobs.planned_runs.execute", execute)
    monkeypatch.setattr(
        "nsd_pipeline.planned_runs.look_at_sessions", lambda *_, **__: SessionStates()
    )
    monkeypatch.setenv("NSD_SOURCE", str(small_nsd.folder))
    monkeypatch.setenv("NSD_STORAGE", str(tmp_path / "artifacts"))
    code = str(shutil.copy(LOCATION, tmp_path / "location_at_chance.py"))
    job = ReconstructableRepository.for_file(code, "defs").get_reconstructable_job("subject")
    result = dg.execute_job(job, instance, tags={"dagster/partition": SUBJECT})
    assert done[-2:] == [("fmri_mlp", "retrieval_metrics"), ("decoding_report",)]
    failure = result.failure_data_for_node("every_run")
    assert failure is not None
    assert (
        failure.user_failure_data.description == "The model of subj01 is no better than guessing."
    )


def test_images_are_those_of_subjects_who_have_sessions(one_session: Path) -> None:
    """A model of everybody, on a mirror of some: what the others saw cannot be made."""
    wanted = Wanted([f"{subject}_ses01" for subject in SUBJECTS], ("all",), (RetrievalMetrics,))
    store = open_store(one_session)
    _, images, _ = to_the_end(wanted, store, store, preparations=[])  # type: ignore[arg-type]
    assert [run.first for run in images.runs] == ["shared", SUBJECT]
    nobody = Wanted(["subj02_ses01"], ("subj02",), (RetrievalMetrics,))
    _, images, models = to_the_end(nobody, store, store, preparations=[])  # type: ignore[arg-type]
    assert not images.runs, "that there is no session is said by the model"
    assert models.runs


@pytest.mark.parametrize("derivatives", ["", "/derivatives"])
def test_time_series_in_a_space_of_nsd_are_prepared_with_their_map_to_fsaverage5(
    derivatives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [f"{SUBJECT}_ses01", f"{SUBJECT}_ses02"]
    states = SessionStates({"missing": sessions})
    monkeypatch.setattr("nsd_pipeline.planned_runs.look_at_sessions", lambda *_, **__: states)
    source = store = open_store("unused")
    _, stage, *_ = to_the_end(
        Wanted(sessions, (SUBJECT,), ()),
        source,  # type: ignore[arg-type]  # nobody asks it
        store,
        preparations=[Preparation("time series", SERIES_STEPS)],
        bold=BoldConfig(derivatives=derivatives, space="func1mm"),
    )
    made = [(run.assets[-1], run.first) for run in stage.runs]
    operator = [] if derivatives else [("fsaverage5_operator", "subj01_func1mm")]
    assert made == [*operator, *(("fsaverage5_series", key) for key in sessions)]
