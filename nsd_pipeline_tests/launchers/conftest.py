"""A Dagster home per test, the small code location served once, and waiting on what can be seen."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import psutil
import pytest
from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
)
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.remote_representation.code_location import CodeLocation
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.monitoring import execute_run_monitoring_iteration

T = TypeVar("T")
NO_WORKSPACE: Any = None
"""These launchers and the queue need none."""
CODE = Path(__file__).with_name("code_location.py")
LOCATION = "tests"
QUEUED = {
    "module": "dagster._core.run_coordinator",
    "class": "QueuedRunCoordinator",
    "config": {"dequeue_interval_seconds": 1},
}


def until(look: Callable[[], T | None], what: str, timeout: float = 120) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + timeout
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.05)
    return seen


class Home:
    """A Dagster home with its instance, and the trace that the runs write."""

    def __init__(self, folder: Path, location: CodeLocation) -> None:
        self.folder = folder
        self.location = location
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.instance: DagsterInstance

    def submit(
        self, job: str, tags: dict[str, str] | None = None, *, assets: list[str] | None = None
    ) -> str:
        """Create a run as the web UI does; returns its id."""
        repository = next(iter(self.location.get_repositories().values()))
        keys = [AssetKey(name) for name in assets or []]
        remote_job = self.location.get_job(
            JobSubsetSelector(
                location_name=self.location.name,
                repository_name=repository.name,
                job_name=job,
                op_selection=None,
                asset_selection=keys or None,
            )
        )
        plan = self.location.get_execution_plan(
            remote_job, {}, step_keys_to_execute=None, known_state=None, instance=self.instance
        ).execution_plan_snapshot
        run = self.instance.create_run(
            job_name=job,
            run_id=None,
            run_config={},
            resolved_op_selection=None,
            step_keys_to_execute=plan.step_keys_to_execute,
            op_selection=None,
            status=None,
            root_run_id=None,
            parent_run_id=None,
            tags={**remote_job.tags, **(tags or {})},
            job_snapshot=remote_job.job_snapshot,
            execution_plan_snapshot=plan,
            parent_job_snapshot=remote_job.parent_job_snapshot,
            remote_job_origin=remote_job.get_remote_origin(),
            job_code_origin=remote_job.get_python_origin(),
            asset_selection=frozenset(keys) or None,
            asset_check_selection=None,
            asset_graph=repository.asset_graph,
        )
        return run.run_id

    def launch(self, job: str, tags: dict[str, str] | None = None) -> str:
        """Launch a run past the queue; returns its id."""
        run_id = self.submit(job, tags)
        self.instance.launch_run(run_id, NO_WORKSPACE)
        return run_id

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def status(self, run_id: str) -> DagsterRunStatus:
        return self.run(run_id).status

    def report(self, run_id: str, what: DagsterEventType) -> None:
        """Write an event as Dagster does for a run that is no launcher's."""
        event = DagsterEvent(what.value, self.run(run_id).job_name)
        self.instance.report_dagster_event(event, run_id=run_id)

    def open(self, gate: str = "open") -> None:
        (self.gates / gate).touch()

    def trace(self, what: str | None = None) -> list[dict[str, Any]]:
        path = self.gates / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in map(json.loads, lines) if what in (None, line["what"])]

    def started(self, run_id: str) -> dict[str, Any] | None:
        return next((line for line in self.trace("start") if line["run"] == run_id), None)

    def wait(self, run_id: str, status: DagsterRunStatus, timeout: float = 120) -> None:
        def look() -> bool:
            now = self.run(run_id)
            assert now.status == status or not now.is_finished, self.messages(run_id)
            if now.status != DagsterRunStatus.FAILURE:
                return now.status == status
            # A launcher's reason comes right behind the state.
            return bool(self.instance.all_logs(run_id, of_type=DagsterEventType.RUN_FAILURE))

        until(look, f"run {run_id} is {status.value}", timeout)

    def messages(self, run_id: str) -> str:
        return "\n".join(entry.message for entry in self.instance.all_logs(run_id))

    def monitor(self) -> list[Any]:
        """One round of Dagster's run monitoring, without the daemon around it."""
        context: Any = SimpleNamespace(instance=self.instance, create_request_context=lambda: None)
        errors = execute_run_monitoring_iteration(context, logging.getLogger("monitoring"))
        return [error for error in errors if error]


MakeHome = Callable[[dict[str, Any]], Home]
"""Makes a home with these settings of dagster.yaml."""


@contextmanager
def daemon(home: Home) -> Iterator[psutil.Process]:
    """Dagster's real daemon on a home, ended at the end of the block."""
    workspace = home.folder / "workspace.yaml"
    file = {"relative_path": str(CODE), "location_name": LOCATION}
    workspace.write_text(json.dumps({"load_from": [{"python_file": file}]}))
    log = (home.folder / "daemon.log").open("ab")
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
    child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield psutil.Process(child.pid)
        child.terminate()
        child.wait(timeout=60)
    finally:
        child.kill()
        child.wait()
        log.close()


@pytest.fixture(scope="session")
def code_location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodeLocation]:
    target = PythonFileTarget(
        python_file=str(CODE), attribute=None, working_directory=None, location_name=LOCATION
    )
    with (
        DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance,
        WorkspaceProcessContext(instance, target) as context,
    ):
        yield context.create_request_context().get_code_location(LOCATION)


@pytest.fixture
def make_home(
    tmp_path: Path, code_location: CodeLocation, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeHome]:
    homes: list[Home] = []

    @contextmanager
    def opened(settings: dict[str, Any]) -> Iterator[Home]:
        (tmp_path / "dagster.yaml").write_text(json.dumps(settings))
        home = Home(tmp_path, code_location)
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        monkeypatch.setenv("TRACE", str(home.gates / "trace"))
        monkeypatch.setenv("NSD_GPU_LOCKS", str(tmp_path / "locks"))
        for name in ("CUDA_VISIBLE_DEVICES", "NSD_GPU_DEVICES", "NSD_GPU_LEASE"):
            monkeypatch.delenv(name, raising=False)
        with DagsterInstance.from_config(str(tmp_path)) as home.instance:
            yield home

    with ExitStack() as stack:

        def make(settings: dict[str, Any]) -> Home:
            home = stack.enter_context(opened({"telemetry": {"enabled": False}, **settings}))
            homes.append(home)
            return home

        yield make
        for home in homes:
            home.open()
