"""Each private part of Dagster that we use still does what we use it for.

After an upgrade of Dagster, what fails here is to be mended in `nsd_pipeline.dagster_private`.
"""

import os
import signal
from typing import Any, Self

import dagster as dg
import pytest
from dagster._core.launcher.base import RunLauncher
from dagster._utils import interrupts

from nsd_pipeline import dagster_private
from nsd_pipeline.dagster_private import (
    CheckRunHealthResult,
    ConfigurableRunLauncher,
    LaunchRunContext,
    ResumeRunContext,
    WorkerStatus,
    is_last_of_its_run,
    range_tags,
    record_some_partitions,
)

LETTERS = dg.StaticPartitionsDefinition(["a", "b", "c", "d"])


@dg.asset(partitions_def=LETTERS, backfill_policy=dg.BackfillPolicy.single_run())
def letters(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"keys": ",".join(context.partition_keys)})


@dg.op
def nothing() -> None: ...


@dg.op
def terminate_itself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@dg.job
def idle() -> None:
    nothing()


@dg.job
def terminated() -> None:
    terminate_itself()


defs = dg.Definitions(assets=[letters], jobs=[idle, terminated], executor=dg.in_process_executor)


class Noting(ConfigurableRunLauncher):
    """A launcher that launches nothing."""

    def __init__(self, inst_data: Any, number: int) -> None:
        super().__init__(inst_data)
        self.number, self.launched = number, []

    @classmethod
    def config_type(cls) -> dict[str, dg.Field]:
        return {"number": dg.Field(int)}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Self:
        return cls(inst_data, config_value["number"])

    def launch_run(self, context: LaunchRunContext) -> None:
        self.launched.append(context)

    def terminate(self, run_id: str) -> bool:
        return False

    supports_check_run_worker_health = True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone")


def test_a_run_of_a_range_makes_all_of_it_and_says_so() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.get_repository_def().get_implicit_job_def_for_assets([letters.key])
        assert job is not None
        result = job.execute_in_process(
            instance=instance,
            tags=dagster_private.range_tags("b", "d"),
            asset_selection=[letters.key],
        )
        (event, *_) = result.get_asset_materialization_events()
        assert event.materialization.metadata["keys"].value == "b,c,d"
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert dagster_private.partition_span(run) == ("b", "d")
        one = dg.materialize([letters], instance=instance, partition_key="c").dagster_run
        assert dagster_private.partition_span(one) == ("c", "c")
    assert dagster_private.partition_span(dg.DagsterRun(job_name="idle")) is None


def test_dagster_yaml_names_and_configures_a_launcher_that_answers_for_its_runs() -> None:
    named = {"module": __name__, "class": "Noting", "config": {"number": 7}}
    with dg.instance_for_test(overrides={"run_launcher": named}) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, Noting)
        assert isinstance(launcher, RunLauncher)
        assert launcher.number == 7
        assert launcher.inst_data is not None
        assert launcher.inst_data.class_name == "Noting"
        assert launcher._instance is instance
        run = instance.create_run_for_job(idle)
        instance.launch_run(run.run_id, None)
        (context,) = launcher.launched
        assert isinstance(context, LaunchRunContext)
        assert context.dagster_run.run_id == run.run_id
        health = launcher.check_run_worker_health(run)
        assert str(health) == "FAILED: 'its process is gone'"
        assert {WorkerStatus.RUNNING, WorkerStatus.SUCCESS} <= set(WorkerStatus)
        assert ResumeRunContext(run, None).dagster_run is run


@pytest.mark.parametrize("resume", [False, True])
def test_a_worker_command_names_run_and_instance(resume: bool) -> None:
    with dg.instance_for_test() as instance:
        job = dg.reconstructable(idle)
        run = instance.create_run_for_job(idle, job_code_origin=job.get_python_origin())
        _, *words = dagster_private.worker_command(instance, run, resume=resume)
    assert words[-3:-1] == ["api", "resume_run" if resume else "execute_run"]
    assert run.run_id in words[-1]
    assert instance.root_directory in words[-1]


@pytest.mark.parametrize("granularity", ["run", "op"])
def test_how_pools_are_counted_is_read_from_dagster_yaml(granularity: str) -> None:
    pools = {"concurrency": {"pools": {"granularity": granularity}}}
    with dg.instance_for_test(overrides=pools) as instance:
        assert dagster_private.counts_pools_by_run(instance) == (granularity == "run")


def test_handlers_of_signals_stay_while_dagster_runs_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is to be restored after the test.
    monkeypatch.setattr(interrupts, "setup_interrupt_handlers", interrupts.setup_interrupt_handlers)
    before = signal.getsignal(signal.SIGTERM)
    received = []

    def set_handlers() -> None:
        signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))

    try:
        dagster_private.keep_signal_handlers(set_handlers)
        assert terminated.execute_in_process(raise_on_error=False).success
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_some_partitions_of_a_range_are_recorded_and_the_run_goes_on(
    instance: dg.DagsterInstance,
) -> None:
    partitions = dg.StaticPartitionsDefinition(["a", "b", "c"])
    last: dict[str, bool] = {}

    @dg.asset(partitions_def=partitions, code_version="7")
    def first(context: dg.AssetExecutionContext) -> None:
        last["first"] = is_last_of_its_run(context)
        done = {"a": {"n": 1}, "c": {"n": 2}}
        record_some_partitions(context, done, dg.DataVersion("v"), goes_on=True)

    @dg.asset(partitions_def=partitions, deps=[first])
    def second(context: dg.AssetExecutionContext) -> None:
        last["second"] = is_last_of_its_run(context)

    defs = dg.Definitions(assets=[first, second], executor=dg.in_process_executor)
    keys = [dg.AssetKey("first"), dg.AssetKey("second")]
    job = defs.get_repository_def().get_implicit_job_def_for_assets(keys)
    assert job is not None
    result = job.execute_in_process(instance=instance, tags=range_tags("a", "c"))
    assert result.success
    assert last == {"first": False, "second": True}
    assert instance.get_materialized_partitions(keys[0]) == {"a", "c"}
    record = instance.get_latest_data_version_record(keys[0], partition_key="c")
    assert record is not None
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["n"].value == 2
    tags = record.asset_materialization.tags or {}
    assert {tags["dagster/data_version"], tags["dagster/code_version"]} == {"v", "7"}
