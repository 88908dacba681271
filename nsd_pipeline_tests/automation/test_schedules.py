"""A subject's scheduled backfill: what a tick launches, and what the next one leaves alone."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import dagster._daemon
import pytest
from dagster import DagsterRunStatus
from dagster._core.remote_representation.code_location import CodeLocation
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._scheduler.scheduler import launch_scheduled_runs

from nsd_pipeline import partitions
from nsd_pipeline.definitions import build_defs
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.session_lists import sessions_of
from nsd_pipeline.partitions import ranges
from nsd_pipeline.schedules import BackfillSettings
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Store
from nsd_pipeline_tests.automation.many_sessions import N_SESSIONS, SUBJECT, write_many_sessions
from nsd_pipeline_tests.pipeline import SmallNsd

LOCATION = Path(__file__).with_name("location.py")
# Runs are executed where they are launched, one after the other: the schedule is what is tested.
AT_ONCE = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "DefaultRunCoordinator",
    },
}


class Clock:
    """Dagster's scheduler, with a day going by whenever it is asked for."""

    def __init__(self, context: WorkspaceProcessContext) -> None:
        self.context = context
        self.instance = context.instance
        self.now = datetime.now(UTC)
        location: CodeLocation = context.create_request_context().get_code_location("nsd")
        (repository,) = location.get_repositories().values()
        self.schedule = repository.get_schedule(f"backfill_{SUBJECT}")
        self.instance.start_schedule(self.schedule)

    def next_day(self) -> dict[str, DagsterRunStatus]:
        """How the runs of the next tick ended, by session."""
        before = {run.run_id for run in self.instance.get_runs()}
        self.now += timedelta(days=1)
        errors = launch_scheduled_runs(self.context, logging.getLogger("tick"), self.now, {})
        assert [error for error in errors if error] == []
        return {
            run.tags["dagster/partition"]: run.status
            for run in self.instance.get_runs()
            if run.run_id not in before
        }


@pytest.fixture
def source(tmp_path: Path, small_nsd: SmallNsd) -> Path:
    write_many_sessions(tmp_path / "nsd", small_nsd.folder)
    return tmp_path / "nsd"


@pytest.fixture
def clock(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text(
        json.dumps({"telemetry": {"enabled": False}, **AT_ONCE})
    )
    monkeypatch.setenv("NSD_SOURCE", str(source))
    monkeypatch.setenv("NSD_STORAGE", str(tmp_path / "artifacts"))
    monkeypatch.setenv("NSD_BACKFILL_CRON", "30 2 * * *")
    target = PythonFileTarget(str(LOCATION), None, None, "nsd")
    with (
        dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance,
        WorkspaceProcessContext(instance, target) as context,
    ):
        yield Clock(context)


def requested(
    result: dg.EvaluateAutomationConditionsResult, defs: dg.Definitions
) -> dict[str, set[str]]:
    graph = defs.resolve_asset_graph()
    return {
        key.to_user_string(): set(result.get_requested_partitions(key)) - {""}
        for key in graph.materializable_asset_keys
        if result.get_num_requested(key)
    }


def made(store: Store) -> dict[str, datetime]:
    manifests = (store.manifest(key) for key in store.keys(""))
    return {manifest.key: manifest.created for manifest in manifests if manifest}


def test_a_tick_prepares_what_is_left_and_models_follow_once_it_is_done(
    clock: Clock, source: Path, tmp_path: Path
) -> None:
    sessions = [f"{SUBJECT}_ses{number:02d}" for number in range(1, N_SESSIONS + 1)]
    damaged = {}
    for session in (sessions[3], sessions[4], sessions[9]):
        path = source / layout.betas_keys(*layout.parse_session_key(session), "fsaverage")[0]
        damaged[path] = path.read_bytes()
        path.write_bytes(damaged[path][:1_000_000])
    store = open_store(tmp_path / "artifacts")
    defs = build_defs(str(source), str(tmp_path / "artifacts"))
    look = dg.evaluate_automation_conditions(defs, clock.instance)
    assert requested(look, defs) == {}

    first = clock.next_day()
    assert sorted(first) == sessions  # the other thirty of the subject are not on the source
    failed = {session for session, status in first.items() if status == DagsterRunStatus.FAILURE}
    assert failed == {sessions[3], sessions[4], sessions[9]}
    assert Counter(first.values())[DagsterRunStatus.SUCCESS] == N_SESSIONS - 3
    done = made(store)

    # What is new goes on to the embeddings of the subject's images and of the shared ones, then to
    # the models of the cohorts that have sessions.
    sets, cohorts = {SUBJECT, partitions.SHARED}, {SUBJECT, partitions.ALL}
    look = dg.evaluate_automation_conditions(defs, clock.instance, cursor=look.cursor)
    assert requested(look, defs) == {"stimuli": sets, "stimulus_embeddings": sets}
    for stimulus_set in sets:
        for asset in ("stimuli", "stimulus_embeddings"):
            clock.instance.report_runless_asset_event(
                dg.AssetMaterialization(asset, partition=stimulus_set)
            )
    look = dg.evaluate_automation_conditions(defs, clock.instance, cursor=look.cursor)
    # Of windows of time series there are none, so those experiments are left alone.
    names = ["fmri_mlp", "retrieval_metrics"]
    names += [f"{name}_{part}" for name in ("linear", "ridge") for part in ("model", "metrics")]
    assert requested(look, defs) == dict.fromkeys(names, cohorts)

    for path, whole in damaged.items():
        path.write_bytes(whole)
    second = clock.next_day()
    assert second == dict.fromkeys(sorted(failed), DagsterRunStatus.SUCCESS)
    complete = made(store)
    assert {key: complete[key] for key in done} == done
    assert len(store.keys("fsaverage5_betas.zarr/")) == N_SESSIONS

    assert clock.next_day() == {}
    look = dg.evaluate_automation_conditions(defs, clock.instance, cursor=look.cursor)
    assert requested(look, defs) == {"stimuli": sets, "stimulus_embeddings": sets}

    # Another file in a session's place: this one is stale, and no other.
    key = layout.betas_keys(SUBJECT, 9, "fsaverage")[1]
    again = (source / key).read_bytes()
    (source / key).write_bytes(again[:-4] + b"\0\0\0\1")
    assert list(clock.next_day()) == [sessions[8]]


def test_ranges_end_at_gaps_at_subjects_and_at_the_limit() -> None:
    sessions = ["subj03_ses31", "subj03_ses32", "subj04_ses01", "subj04_ses03", "subj04_ses04"]
    assert list(ranges(sessions, 9)) == [
        ("subj03_ses31", "subj03_ses32"),
        ("subj04_ses01", "subj04_ses01"),
        ("subj04_ses03", "subj04_ses04"),
    ]
    assert list(ranges(list(partitions.SESSIONS[:5]), 2)) == [
        ("subj01_ses01", "subj01_ses02"),
        ("subj01_ses03", "subj01_ses04"),
        ("subj01_ses05", "subj01_ses05"),
    ]


def test_settings_come_from_the_environment() -> None:
    assert BackfillSettings.from_environment({}).running == ()
    settings = BackfillSettings.from_environment(
        {"NSD_BACKFILL_SUBJECTS": "subj01, subj05", "NSD_BACKFILL_SESSIONS": "28-32,2"}
    )
    assert settings.running == ("subj01", "subj05")
    assert sessions_of("subj04", settings.sessions) == [
        "subj04_ses02",
        "subj04_ses28",
        "subj04_ses29",
        "subj04_ses30",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUBJECTS", "subj09"),
        ("SESSIONS", "10-1"),
        ("SESSIONS", "one"),
        ("SESSIONS_PER_RUN", "0"),
        ("CRON", "every night"),
        ("TIMEZONE", "Mars/Olympus"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(NsdError, match=f"NSD_BACKFILL_{name}="):
        BackfillSettings.from_environment({f"NSD_BACKFILL_{name}": value})
