"""Many sessions through a live daemon: ``python -m benchmarks.load --sessions N ...``.

Generates sessions of 12 trials (or of 750), serves them from an S3 server that drops connections,
and lets Dagster's daemon make them: by the schedules of their subjects, or in one backfill of the
web UI. The daemon can be killed meanwhile. At the end it says how often each session was made, what
was asked for and sent, how large the history is, and how fast the web UI answers.

A subject, with faults, and then everybody, with the web UI::

    python -m benchmarks.load --sessions 40 --kills 3 --drop 0.05
    python -m benchmarks.load --sessions 284 --per-run 8 --ui

All of NSD's sessions, as large as they are, 35 GB of disk::

    python -m benchmarks.load --sessions 284 --one-backfill --full-size
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import dagster as dg
import psutil

from benchmarks import load_ui
from benchmarks.load_server import OTHERS, Request, repeated_bytes, serve
from nsd_pipeline import partitions
from nsd_pipeline.launchers.run_processes import RUN_ID_ENV
from nsd_pipeline.nsd import layout
from nsd_pipeline_tests.automation.many_sessions import FULL_SIZE, N_TRIALS, write_many_sessions
from nsd_pipeline_tests.automation.webserver import Webserver, until

ROOT: Final = Path(__file__).parents[1]
BIN: Final = Path(sys.executable).parent
ASSETS: Final = ("betas", "events", "fsaverage_events", "fsaverage5_betas")
_WORKSPACE: Final = ("-w", str(ROOT / "workspace.yaml"))
_LAST: Final = "manifests/fsaverage5_betas.zarr"
"""Manifests of the last thing that is made of a session."""
_POLL: Final = 1.0
_ENDED: Final = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)


@dataclass
class Servers:
    """Dagster's servers on a home of their own.

    Attributes
    ----------
    peaks
        Largest resident memory that was seen, in bytes: of each server, and of the code servers
        that it started.
    """

    home: Path
    store: Path
    environment: Mapping[str, str]
    peaks: dict[str, int] = field(default_factory=dict)
    _running: dict[str, psutil.Process] = field(default_factory=dict)
    _code_servers: set[psutil.Process] = field(default_factory=set)

    def run(self, program: str, *arguments: str) -> None:
        """Run a command to its end."""
        subprocess.run(  # noqa: S603, ours
            [str(BIN / program), *arguments], env=self._environment(), cwd=ROOT, check=True
        )

    def start(self, program: str, *arguments: str) -> None:
        """Start a server."""
        with (self.home / f"{program}.log").open("ab") as log:
            child = subprocess.Popen(  # noqa: S603, ours
                [str(BIN / program), *arguments, *_WORKSPACE],
                env=self._environment(),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self._running[program] = psutil.Process(child.pid)

    def kill(self, program: str) -> int:
        """Kill a server, and nothing of what it started; return its process id."""
        self.look()
        server = self._running.pop(program)
        server.kill()
        server.wait()
        return server.pid

    def look(self) -> None:
        """Measure memory."""
        for name, server in self._running.items():
            self._note(name, server)
            for child in server.children(recursive=True):
                with suppress(psutil.Error):  # it has just ended
                    if RUN_ID_ENV not in child.environ():  # a run is no part of the server
                        self._code_servers.add(child)
                        self._note(f"{name}, code server", child)

    def end(self) -> None:
        """End the servers and their code servers; runs are left alone."""
        self.look()
        for server in self._running.values():
            server.terminate()
        _, alive = psutil.wait_procs(list(self._running.values()), timeout=60)
        for left in (*alive, *self._code_servers):
            with suppress(psutil.NoSuchProcess):
                left.kill()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment, "DAGSTER_HOME": str(self.home)}

    def _note(self, name: str, process: psutil.Process) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0), process.memory_info().rss)


def write_data(folder: Path, sessions: Sequence[str], n_trials: int = N_TRIALS) -> None:
    """Write the sessions in NSD's layout."""
    from nsd_pipeline.demo.experiment import (
        DemoSettings,
        make_design,
        write_design,
        write_stimulus_info,
    )

    counts = Counter(layout.parse_session_key(session)[0] for session in sessions)
    model = folder / "model"
    for key in (layout.EXPDESIGN_KEY, layout.STIM_INFO_KEY):
        (model / key).parent.mkdir(parents=True, exist_ok=True)
    design = make_design(DemoSettings(subjects=1, sessions=2))
    write_design(design, model / layout.EXPDESIGN_KEY)
    write_stimulus_info(design, model / layout.STIM_INFO_KEY, seed=0)
    write_many_sessions(folder / "nsd", model, counts, n_trials=n_trials)


def make_all(
    servers: Servers, sessions: Sequence[str], *, kills: int, launch: str, limit: float
) -> float:
    """Let the daemon make the sessions, and kill it meanwhile; seconds until nothing is left to do.

    Parameters
    ----------
    launch
        Web server by which a backfill of them all is launched; empty where schedules do it.
    limit
        Seconds.

    Raises
    ------
    click.ClickException
        If that takes too long.
    """
    killed, start = 0, time.monotonic()
    if launch:
        _launch_backfill(Webserver(launch), sessions)
    while (made := n_made(servers)) < len(sessions) or _under_way(servers.home):
        if time.monotonic() - start > limit:
            raise click.ClickException(f"{made} of {len(sessions)} sessions after {limit:.0f} s")
        if killed < kills and made >= (killed + 1) * len(sessions) / (kills + 1):
            pid = servers.kill("dagster-daemon")
            click.echo(f"{time.monotonic() - start:.0f} s: killed daemon {pid}, {made} sessions")
            servers.start("dagster-daemon", "run")
            killed += 1
        servers.look()
        time.sleep(1)
    if killed < kills:
        raise click.ClickException(f"the daemon was killed {killed} times only")
    return time.monotonic() - start


def free_port() -> int:
    """Port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_web_server(servers: Servers) -> str:
    port = free_port()
    servers.start("dagster-webserver", "-h", "127.0.0.1", "-p", str(port))
    server = Webserver(f"http://127.0.0.1:{port}")
    until(server.is_up, "the web server is up")
    return server.url


def n_made(servers: Servers) -> int:
    """Sessions of which everything is there."""
    return sum(1 for _ in (servers.store / _LAST).rglob("*.json"))


def _under_way(home: Path) -> bool:
    left = [status for status in dg.DagsterRunStatus if status not in _ENDED]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return bool(instance.get_run_ids(dg.RunsFilter(statuses=left), limit=1))


def _launch_backfill(server: Webserver, sessions: Sequence[str]) -> None:
    """Launch what *Materialize* launches for some assets and all of the sessions."""
    answer = server.ask(
        """mutation ($params: LaunchBackfillParams!) {
            launchPartitionBackfill(backfillParams: $params) {
                __typename ... on PythonError { message } } }""",
        params={
            "assetSelection": [{"path": [asset]} for asset in ASSETS],
            "partitionNames": list(sessions),
        },
    )
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise click.ClickException(str(answer))


def describe_history(home: Path) -> dict[str, Any]:
    """How often each session was made, and how the runs ended."""
    made: Counter[str] = Counter()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = instance.get_run_records(ascending=True)
        for run in runs:
            for entry in instance.all_logs(
                run.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            ):
                event = entry.asset_materialization
                if event and event.partition and event.metadata["status"].value == "made":
                    made[f"{event.asset_key.to_user_string()} {event.partition}"] += 1
        failures = [
            entry.message
            for run in runs
            for entry in instance.all_logs(
                run.dagster_run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE
            )
        ]
    return {
        "failures": failures,
        "runs": Counter(run.dagster_run.status.value for run in runs),
        "seconds a run, median": statistics.median(
            (run.end_time or 0) - (run.start_time or 0) for run in runs
        ),
        "order": [run.dagster_run.run_id for run in runs],
        "artifacts made so often": Counter(made.values()),
        "artifacts": len(made),
        "history, bytes": sum(file.stat().st_size for file in home.rglob("*") if file.is_file()),
    }


def describe_requests(requests: Sequence[Request], runs: Sequence[str]) -> dict[str, Any]:
    """What was asked for and sent, and by whom.

    Parameters
    ----------
    runs
        Ids of the runs, the first one first.
    """
    by_run = Counter(each.who for each in requests)
    counts = [by_run[run] for run in runs if by_run[run]]
    quarter = max(1, len(counts) // 4)
    sent = sum(each.sent for each in requests)
    betas = [each for each in requests if each.key.endswith(".mgh")]
    dropped = sum(each.dropped for each in requests)
    return {
        "requests": Counter(each.method for each in requests),
        "requests of ticks": by_run[OTHERS],
        "requests a run, median": statistics.median(counts),
        "requests a run, first quarter of the runs": statistics.median(counts[:quarter]),
        "requests a run, last quarter of the runs": statistics.median(counts[-quarter:]),
        "dropped": dropped,
        "requests for each that was not dropped": len(requests) / (len(requests) - dropped),
        "bytes": sent,
        "bytes of betas": sum(each.sent for each in betas),
        "bytes of betas, repeated": repeated_bytes(betas),
    }


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="load_", dir=parent)).absolute()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@click.command(context_settings={"show_default": True})
@click.option("--sessions", "n_sessions", default=40, help="How many, counted from subj01_ses01.")
@click.option("--full-size", is_flag=True, help="Of 750 trials: 123 MB of disk each.")
@click.option("--per-run", default=1, help="Sessions that a run of a schedule prepares.")
@click.option("--one-backfill", is_flag=True, help="One backfill of the web UI, no schedules.")
@click.option("--kills", default=0, help="How often the daemon is killed (SIGKILL).")
@click.option("--drop", default=0.0, help="Share of requests whose connection is dropped.")
@click.option("--ui", is_flag=True, help="Measure the web UI at the end; needs Chromium.")
@click.option("--seed", default=0, help="Of the choice which requests are dropped.")
@click.option("--limit", default=1800.0, help="Seconds after which it is given up.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build"))
def main(
    n_sessions: int,
    full_size: bool,
    per_run: int,
    one_backfill: bool,
    kills: int,
    drop: float,
    ui: bool,
    seed: int,
    limit: float,
    folder: Path,
) -> None:
    """Make many sessions through a live daemon, and print figures as JSON."""
    sessions = partitions.SESSIONS[:n_sessions]
    subjects = sorted({layout.parse_session_key(session)[0] for session in sessions})
    with _folder(folder) as place:
        click.echo(f"{len(sessions)} sessions of {', '.join(subjects)} in {place}, seed {seed}")
        write_data(place, sessions, FULL_SIZE if full_size else N_TRIALS)
        home = place / "home"
        home.mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        with serve(place / "nsd", drop=drop, seed=seed) as bucket:
            environment = {
                "NSD_SOURCE": "s3://natural-scenes-dataset",
                "NSD_SOURCE_ENDPOINT": bucket.url,
                "NSD_STORAGE": str(place / "artifacts"),
                "NSD_ACCEPT_TERMS": "1",  # generated data on this machine's own server
                "NSD_BACKFILL_CRON": "* * * * *",
                "NSD_BACKFILL_SUBJECTS": "" if one_backfill else ",".join(subjects),
                "NSD_BACKFILL_SESSIONS_PER_RUN": str(per_run),
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
            }
            servers = Servers(home, place / "artifacts", environment)
            servers.run("nsd", "prepare")
            if one_backfill:
                module = ("-m", "nsd_pipeline.definitions")
                servers.run(
                    "dagster", "asset", "materialize", *module, "--select", "experiment_design"
                )
            else:  # models and embeddings are not what this is about
                servers.run("dagster", "sensor", "stop", "carry_on", *_WORKSPACE)
            try:
                servers.start("dagster-daemon", "run")
                url = _start_web_server(servers) if ui or one_backfill else ""
                seconds = make_all(
                    servers,
                    sessions,
                    kills=kills,
                    launch=url if one_backfill else "",
                    limit=limit,
                )
                answers = load_ui.answer_times(url) if ui else {}
            finally:
                servers.end()
        history = describe_history(home)
        figures = {
            "sessions": len(sessions),
            "seconds": seconds,
            "sessions a minute": 60 * len(sessions) / seconds,
            "daemon killed": kills,
            **describe_requests(bucket.requests, history.pop("order")),
            **history,
            "store, bytes": sum(
                file.stat().st_size for file in (place / "artifacts").rglob("*") if file.is_file()
            ),
            "memory, bytes": servers.peaks,
            "web UI": answers,
        }
    click.echo(json.dumps(figures, indent=2))
    if history["artifacts made so often"] != {1: len(ASSETS) * len(sessions)}:
        raise click.ClickException("not every artifact was made exactly once")


if __name__ == "__main__":
    main()
