"""A small code location for the launchers: runs that note their GPU and wait until let go."""

import json
import os
import time
from pathlib import Path

import dagster as dg

from nsd_pipeline.launchers import GpuLease
from nsd_pipeline.resources import StoreResource


def note(context: dg.OpExecutionContext, what: str) -> None:
    line = {
        "what": what,
        "run": context.run_id,
        "time": time.time(),
        "pid": os.getpid(),
        "mask": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    with Path(os.environ["TRACE"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def wait_for(gate: Path) -> None:
    deadline = time.monotonic() + 120
    while not gate.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(gate)
        time.sleep(0.05)


def work(context: dg.OpExecutionContext) -> None:
    note(context, "start")
    print("working on it", flush=True)
    gates = Path(os.environ["TRACE"]).parent
    wait_for(gates / context.run.tags.get("gate", "open"))
    note(context, "end")


@dg.op(pool="gpu")
def gpu_op(context: dg.OpExecutionContext) -> None:
    with GpuLease() as lease:
        context.log.info("device %s", lease.device)
        work(context)


@dg.op
def cpu_op(context: dg.OpExecutionContext) -> None:
    work(context)


@dg.op
def broken_op() -> None:
    print("the last words", flush=True)
    os._exit(7)


@dg.job(executor_def=dg.in_process_executor)
def gpu_job() -> None:
    gpu_op()


@dg.job(executor_def=dg.in_process_executor)
def cpu_job() -> None:
    cpu_op()


@dg.job(executor_def=dg.in_process_executor)
def broken_job() -> None:
    broken_op()


@dg.asset(pool="gpu")
def gpu_asset(context: dg.AssetExecutionContext) -> None:
    work(context.op_execution_context)


@dg.asset
def cpu_asset() -> None: ...


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def stored_asset(context: dg.AssetExecutionContext, store: StoreResource) -> None:
    work(context.op_execution_context)


defs = dg.Definitions(
    assets=[gpu_asset, cpu_asset, stored_asset],
    jobs=[
        gpu_job,
        cpu_job,
        broken_job,
        dg.define_asset_job("stored_job", selection=[stored_asset]),
    ],
    resources={"store": StoreResource()},
    executor=dg.in_process_executor,
)
