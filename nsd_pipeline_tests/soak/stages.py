"""All stages, made by a process that may be killed.

``python -m nsd_pipeline_tests.soak.stages`` loads what runs need, once. Then it forks a process for
each line of its input, an :class:`Order`, and prints the process's id.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import dagster as dg
import psutil

import nsd_pipeline.definitions
from nsd_pipeline_tests.pipeline import Pipeline

SUBJECT = "subj01"
SESSIONS = ("subj01_ses01", "subj01_ses02")
_IMPORTED = (
    "alembic", "boto3", "h5py", "matplotlib.pyplot", "obstore.store", "pandas",
    "sklearn.model_selection", "sqlalchemy", "torch", "zarr",
    "transformers.models.dinov2.modeling_dinov2",
)  # fmt: skip
"""What runs import when they need it: half of a run's time, where everything is small."""


@dataclass(frozen=True)
class Order:
    """What a process shall make, and where.

    Attributes
    ----------
    source, store, home, encoder
        Where the data are, the artifacts go, the history is kept and the encoder lies.
    seed
        Of the model: a setting.
    answer
        File for what went wrong, empty for nothing. It is not there if the process was killed.
    """

    source: str
    store: str
    home: str
    encoder: str
    seed: int
    answer: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Person:
    """Starts processes that make everything.

    Attributes
    ----------
    order
        What they make; each has a number behind the name of its answer.
    environment
        Of the processes.
    """

    order: Order
    environment: dict[str, str]
    _n_answers: int = 0

    def __post_init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, **self.environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, **changed: str) -> tuple[psutil.Process, Path]:
        """Start a process; also the file that it writes at its end."""
        assert self._server.stdin
        assert self._server.stdout
        if not self._n_answers:
            assert self._server.stdout.readline() == "ready\n"
        self._n_answers += 1
        answer = f"{self.order.answer}-{self._n_answers}"
        order = replace(self.order, answer=answer, **changed)
        self._server.stdin.write(order.to_json() + "\n")
        self._server.stdin.flush()
        return psutil.Process(int(self._server.stdout.readline())), Path(answer)

    def end(self) -> None:
        self._server.communicate()


def make_everything(order: Order) -> None:
    """Bring every artifact of the subject up to date; the first run that fails is raised."""
    with dg.DagsterInstance.from_config(order.home) as instance:
        graph = Pipeline(order.source, order.store, Path(order.encoder), instance)  # type: ignore[arg-type]
        graph.run_sessions(*SESSIONS)
        graph.run_images("shared", SUBJECT)
        model = {"fmri_mlp": {"n_epochs": 2, "hidden": 8, "seeds": [order.seed]}}
        graph.run("fmri_mlp", "retrieval_metrics", first=SUBJECT, config=model)
        graph.run("decoding_report")


def main() -> None:
    assert nsd_pipeline.definitions.defs.get_repository_def()
    for name in _IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what was forked
    print("ready", flush=True)
    for line in sys.stdin:
        if pid := os.fork():
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        order, problem = Order(**json.loads(line)), ""
        try:
            make_everything(order)
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        partial = Path(f"{order.answer}.partial")
        partial.write_text(problem)
        partial.rename(order.answer)
        os._exit(0)


if __name__ == "__main__":
    main()
