"""Rows of what people wait for before anything happens: commands, the web UI, a run's first step.

Each stands beside what Dagster takes for the same with an asset that does nothing, or beside
``import dagster`` and reading what must be read. Who starts computes: bars are of processor time
wherever that can be told, because wall-clock time has that of all others on the machine in it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from benchmarks.harness import Bar, Inputs, Row, Side, Sides, fewer
from benchmarks.load import ASSETS, BIN, ROOT, free_port, write_data
from benchmarks.load_server import serve
from benchmarks.worker import Outcome, Repeat, Settings
from nsd_pipeline.nsd.layout import N_SESSIONS, session_key
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline_tests.automation.webserver import Webserver, until
from nsd_pipeline_tests.cli.many_artifacts import write_full_store

_SUBJECT: Final = "subj01"
_MODULE: Final = "nsd_pipeline.definitions"
_LEAST: Final = "least_of_dagster"
_SELECTED: Final = " or ".join(f"key:{asset}" for asset in ASSETS)
_BUCKET: Final = "full"
_OURS: Final = "ours"
_LEAST_SIDE: Final = "Dagster, an asset that does nothing"
_DAGSTER: Final = "import dagster"
_READING: Final = "import dagster, list, and read every manifest as JSON"
_EACH: Final = "a command for each"
_SERVER_CPU: Final = "s of processor time by then"
_IN_QUEUE: Final = "s of it until the daemon looked into the queue"
_BESIDE_QUEUE: Final = "s beside that"
_LEAST_MODULE: Final = '''"""The least that Dagster can be asked for."""
import dagster as dg


@dg.asset(key="betas", partitions_def=dg.StaticPartitionsDefinition(["subj01_ses01"]))
def nothing() -> None: ...


job = dg.define_asset_job("session", [nothing])
defs = dg.Definitions([nothing], jobs=[job], executor=dg.in_process_executor)
'''


_READ_FOLDER: Final = """import dagster, json, os, pathlib
root = pathlib.Path(os.environ["NSD_STORAGE"])
sizes = {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}
manifests = [json.loads(path.read_bytes()) for path in (root / "manifests").rglob("*.json")]
"""
_READ_BUCKET: Final = """import dagster, json, boto3, concurrent.futures as futures
client = boto3.client("s3")
pages = client.get_paginator("list_objects_v2").paginate(Bucket="full", Prefix="store/")
sizes = {each["Key"]: each["Size"] for page in pages for each in page["Contents"]}
def read(key):
    return json.loads(client.get_object(Bucket="full", Key=key)["Body"].read())
with futures.ThreadPoolExecutor(10) as threads:  # as many connections as boto3 keeps
    manifests = list(threads.map(read, [key for key in sizes if "/manifests/" in key]))
"""
_RUNS_IN_ONE: Final = """import dagster as dg
from nsd_pipeline.definitions import defs
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.planned_runs import execute, prepare
from nsd_pipeline.steps.sessions import Preparation
(betas,) = Preparation.for_all([TrainingConfig()])
repository, sessions = defs.get_repository_def(), [f"subj01_ses{n:02}" for n in range(1, 9)]
with dg.DagsterInstance.get() as instance:
    for planned in prepare(sessions, betas, at_most=1):
        (said,) = execute(repository, instance, planned)
        assert said.startswith("up to date"), said
"""


def _environment(**own: str) -> dict[str, str]:
    # With compiled modules, as an installation has them.
    compiled = {key: each for key, each in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**compiled, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **own}


def _sessions(n_sessions: int) -> list[str]:
    return [session_key(_SUBJECT, number + 1) for number in range(n_sessions)]


def _materialize(module: str, selected: str, *partition: str) -> list[str]:
    command = [str(BIN / "dagster"), "asset", "materialize", "-m", module, "--select", selected]
    return [*command, *partition]


@contextmanager
def _current(folder: Path, _quick: bool, *, n_sessions: int = 1) -> Iterator[Inputs]:
    """Sessions of 12 trials in a store, everything made; and a module that has nothing to make."""
    folder.mkdir(exist_ok=True)
    place, sessions = Path(tempfile.mkdtemp(dir=folder)), _sessions(n_sessions)
    write_data(place, sessions)
    (place / f"{_LEAST}.py").write_text(_LEAST_MODULE)
    environment = _environment(
        NSD_SOURCE=str(place / "nsd"),
        NSD_STORAGE=str(place / "artifacts"),
        DAGSTER_HOME=str(_home(place / "home")),
        PYTHONPATH=f"{ROOT}{os.pathsep}{place}",
        CUDA_VISIBLE_DEVICES="",
    )
    span = f"{sessions[0]}...{sessions[-1]}"
    inputs = Inputs(
        {"environment": environment, "place": str(place), "sessions": sessions},
        work=f"{n_sessions} session{'s' * (n_sessions > 1)}, current",
    )
    design = _materialize(_MODULE, "experiment_design")
    made = _materialize(_MODULE, _SELECTED, "--partition-range", span)
    _commands(inputs.settings, [design, made])()
    yield inputs


def _home(home: Path) -> Path:
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    return home


def _commands(settings: Settings, commands: Sequence[Sequence[str]]) -> Repeat:
    def repeat() -> Outcome:
        for command in commands:
            done = subprocess.run(  # noqa: S603, ours
                command,
                env=settings["environment"],
                cwd=settings["place"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
        return Outcome()

    return repeat


def materialize_betas(settings: Settings) -> Repeat:
    """Materialize an asset of the module that the side names."""
    command = _materialize(settings["module"], "key:betas", "--partition", settings["sessions"][0])
    return _commands(settings, [command])


def materialize_each(settings: Settings) -> Repeat:
    """Materialize what is current of each session in a command of its own."""
    partitions = [["--partition", session] for session in settings["sessions"]]
    return _commands(settings, [_materialize(_MODULE, _SELECTED, *each) for each in partitions])


def run_python(settings: Settings) -> Repeat:
    """Start Python with a program."""
    return _commands(settings, [[sys.executable, "-c", settings["program"]]])


def show_status(settings: Settings) -> Repeat:
    """Show how a whole store stands."""
    return _commands(settings, [[str(BIN / "nsd"), "status", "--no-source"]])


@contextmanager
def _full_store(folder: Path, quick: bool, *, on_s3: bool) -> Iterator[Inputs]:
    root = folder / f"full_{'s3' if on_s3 else 'local'}" / "artifacts"
    sessions = {_SUBJECT: 2} if quick else N_SESSIONS
    n_artifacts = write_full_store(root, 2 if quick else 20, sessions)
    environment = _environment(
        NSD_STORAGE=str(root), NSD_EXPERIMENTS=str(root.with_name("experiments.yaml"))
    )
    with ExitStack() as stack:
        if on_s3:
            bucket = stack.enter_context(serve(_as_on_s3(root)))
            environment |= {
                "AWS_ENDPOINT_URL_S3": bucket.url,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any",
                "NSD_STORAGE": f"s3://{_BUCKET}/store",
            }
        yield Inputs(
            {"environment": environment, "place": str(root.parent)},
            work=f"{n_artifacts:,} artifacts, {'S3 on loopback' if on_s3 else 'a folder'}",
        )


def _as_on_s3(root: Path) -> Path:
    """Lay a local store's artifacts out as a store on S3 has them; the folder of the bucket."""
    bucket = root.with_name(_BUCKET)
    for path in (root / "manifests").rglob("*.json"):
        manifest = Manifest.model_validate_json(path.read_bytes())
        manifest = manifest.model_copy(update={"version": "v1"})
        record = bucket / "store/manifests" / f"{manifest.key}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(manifest.to_json())
        for name in manifest.files:
            target = bucket / "store" / manifest.location / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (root / manifest.key / name).rename(target)
    return bucket


def open_web_ui(settings: Settings) -> Repeat:
    """Start the web server of a module, until its first page and all assets come."""

    def repeat() -> Outcome:
        port = free_port()
        where = ["-m", settings["module"], "-h", "127.0.0.1", "-p", str(port)]
        ui = Webserver(f"http://127.0.0.1:{port}")
        start = time.perf_counter()
        with _server("dagster-webserver", where, settings["environment"]) as server:
            until(ui.is_up, "the web server is up", pause=0.02)
            ui.ask("{ assetNodes { id } }")
            seconds = time.perf_counter() - start
            cpu = sum(sum(each.cpu_times()[:2]) for each in (server, *server.children(True)))
        return Outcome(facts={_SERVER_CPU: cpu}, seconds=seconds)

    return repeat


@contextmanager
def _server(
    program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator[psutil.Process]:
    with subprocess.Popen(  # noqa: S603, ours
        [str(BIN / program), *arguments],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as child:
        server = psutil.Process(child.pid)
        try:
            yield server
        finally:
            tree = [*server.children(recursive=True), server]
            child.terminate()
            _, left = psutil.wait_procs(tree, timeout=30)
            for each in left:
                with suppress(psutil.NoSuchProcess):
                    each.kill()


@contextmanager
def _daemons(folder: Path, quick: bool) -> Iterator[Inputs]:
    """A daemon and a web server for each of two modules."""
    with _current(folder / "daemons", quick) as current, ExitStack() as stack:
        urls = {}
        for module in (_MODULE, _LEAST):
            home = str(_home(folder / "daemons" / module))
            environment = {**current.settings["environment"], "DAGSTER_HOME": home}
            port = free_port()
            stack.enter_context(_server("dagster-daemon", ["run", "-m", module], environment))
            where = ["-m", module, "-h", "127.0.0.1", "-p", str(port)]
            stack.enter_context(_server("dagster-webserver", where, environment))
            urls[module] = f"http://127.0.0.1:{port}"
            until(Webserver(urls[module]).is_up, "the web server is up")
        yield Inputs({**current.settings, "urls": urls}, work="a session, current")


def launch_run(settings: Settings) -> Repeat:
    """Launch a run from the web UI; count until its first step begins.

    The daemon looks into the queue at its own times. How long a run waits for that is luck, and is
    told apart.
    """
    module = settings["module"]
    ui = Webserver(settings["urls"][module])
    params = {
        "selector": {
            "repositoryLocationName": module,
            "repositoryName": "__repository__",
            "jobName": "session",
        },
        "runConfigData": {},
        "executionMetadata": {
            "tags": [{"key": "dagster/partition", "value": settings["sessions"][0]}]
        },
    }

    def seconds_at(run_id: str) -> dict[str, float]:
        events = ui.ask(
            """query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection {
                events { __typename ... on MessageEvent { timestamp } } } } } }""",
            id=run_id,
        )["eventConnection"]["events"]
        # The first of each kind, which comes last here.
        return {each["__typename"]: int(each["timestamp"]) / 1000 for each in reversed(events)}

    def repeat() -> Outcome:
        start = time.time()
        run_id = ui.ask(
            """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
                __typename ... on LaunchRunSuccess { run { runId } } } }""",
            params=params,
        )["run"]["runId"]
        ui.wait(run_id, "SUCCESS")
        at = seconds_at(run_id)
        seconds = at["ExecutionStepStartEvent"] - start
        in_queue = at["RunStartingEvent"] - at["RunEnqueuedEvent"]
        return Outcome(
            facts={_IN_QUEUE: in_queue, _BESIDE_QUEUE: seconds - in_queue}, seconds=seconds
        )

    return repeat


def _seconds(name: str, sides: Sides) -> float:
    return sides[name].seconds


def _cpu_ratio(ours: str, other: str, sides: Sides) -> float:
    return sides[ours].cpu_seconds / sides[other].cpu_seconds


def _at_most(of: str, target: float, other: str = _LEAST_SIDE) -> Bar:
    what = f"times the processor time of: {of}"
    return Bar(what, partial(_cpu_ratio, _OURS, other), target, at_most=True)


ROWS: Final = (
    Row(
        "materialize-current",
        "`dagster asset materialize` of what is current",
        _current,
        (
            Side(_OURS, materialize_betas, {"module": _MODULE}),
            Side(_LEAST_SIDE, materialize_betas, {"module": _LEAST}),
            Side(_DAGSTER, run_python, {"program": _DAGSTER}),
        ),
        (_at_most(_LEAST_SIDE, 1.3),),
    ),
    Row(
        "status-local",
        "`nsd status` of 284 sessions and 20 experiments",
        partial(_full_store, on_s3=False),
        (
            Side(_OURS, show_status),
            Side(_READING, run_python, {"program": _READ_FOLDER}),
        ),
        (
            Bar("s", partial(_seconds, _OURS), 2, at_most=True),
            _at_most(_READING, 1.3, _READING),
        ),
    ),
    Row(
        "status-s3",
        "`nsd status` of 284 sessions and 20 experiments on S3",
        partial(_full_store, on_s3=True),
        (
            Side(_OURS, show_status),
            Side(_READING, run_python, {"program": _READ_BUCKET}),
        ),
        (
            Bar("s", partial(_seconds, _OURS), 10, at_most=True),
            _at_most(_READING, 1.3, _READING),
        ),
    ),
    Row(
        "web-server",
        "The web server, to its first page with all assets",
        _current,
        (
            Side(_OURS, open_web_ui, {"module": _MODULE}),
            Side(_LEAST_SIDE, open_web_ui, {"module": _LEAST}),
        ),
        (fewer(_SERVER_CPU, _OURS, _LEAST_SIDE, 1.3),),
    ),
    Row(
        "daemon-run",
        "A run launched by the daemon, to its first step",
        _daemons,
        (
            Side(_OURS, launch_run, {"module": _MODULE}),
            Side(_LEAST_SIDE, launch_run, {"module": _LEAST}),
        ),
        (fewer(_BESIDE_QUEUE, _OURS, _LEAST_SIDE, 1.3),),
    ),
    Row(
        "one-process",
        "Eight runs of what is current",
        partial(_current, n_sessions=8),
        (
            Side(_OURS, run_python, {"program": _RUNS_IN_ONE}),
            Side(_EACH, materialize_each),
        ),
        (_at_most(_EACH, 0.5, _EACH),),
        repetitions=2,
    ),
)
