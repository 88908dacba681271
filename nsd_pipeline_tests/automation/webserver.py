"""`dagster dev` as people start it, on a dataset that has been through the whole graph once."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
REPOSITORY = {
    "repositoryLocationName": "nsd_pipeline",
    "repositoryName": "__repository__",
}


def until(look: Callable[[], T | None], what: str, timeout: float = 300, pause: float = 0.25) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + timeout
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(pause)
    return seen


class Webserver:
    """A running web UI."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Answer of the only field that a GraphQL query asks for."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        field: dict[str, Any]
        (field,) = answer["data"].values()
        return field

    def is_up(self) -> bool:
        try:
            return bool(self.ask("{ workspaceOrError { __typename } }"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """Runs with these tags, the newest first; a dot in a tag is written as two underscores."""
        wanted = [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
        found: list[dict[str, Any]] = self.ask(
            """query ($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) {
                ... on Runs { results { runId status jobName tags { key value } } } } }""",
            tags=wanted,
        )["results"]
        return found

    def status(self, run_id: str) -> str:
        run = self.ask(
            "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id
        )
        return str(run["status"])

    def wait(self, run_id: str, status: str) -> None:
        def look() -> bool:
            now = self.status(run_id)
            assert now == status or now not in ("SUCCESS", "FAILURE", "CANCELED"), now
            return now == status

        until(look, f"run {run_id} is {status}")


@contextmanager
def dagster_dev(home: Path, environment: Mapping[str, str]) -> Iterator[Webserver]:
    """The web UI and the daemon, with the settings of the repository's own dagster.yaml."""
    shutil.copy(ROOT / "dagster.yaml", home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Webserver(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)]
    with (home / "dev.log").open("wb") as log:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
            stdout=log,
            stderr=log,
            # A shell's background jobs ignore Ctrl-C, and so would all that they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            until(lambda: child.poll() is not None or server.is_up(), "the web UI is up")
            assert child.poll() is None, (home / "dev.log").read_text()
            yield server
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(timeout=60)
