"""Slurm by its own commands: submit a job, ask how it is, end it. No Dagster here.

Everything goes to sbatch as separate arguments and as a script on its standard input in which each
word is quoted, so no value is ever read by a shell.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from nsd_pipeline.errors import NsdError

ENDINGS: Final[dict[str, str]] = {
    "BOOT_FAIL": "was lost because its node did not boot",
    "CANCELLED": "was cancelled in Slurm",
    "COMPLETED": "ended although the run had not",
    "DEADLINE": "was ended at its deadline",
    "FAILED": "failed",
    "NODE_FAIL": "was lost because its node failed",
    "OUT_OF_MEMORY": "was killed because it used more memory than it asked for",
    "PREEMPTED": "was preempted by a job of higher priority",
    "REVOKED": "was revoked by another cluster",
    "TIMEOUT": "was ended at its time limit",
}
"""States of jobs that are over (squeue(1), JOB STATE CODES), as parts of a sentence."""

_NEXT_STEPS = {"OUT_OF_MEMORY": "Ask for more memory", "TIMEOUT": "Ask for a longer time_limit"}
_OUT_OF_REACH = re.compile(
    r"unable to contact slurm controller|timed out|connection refused|communication", re.I
)

# What these options can look like: no spaces, no quotes, no leading dash.
_Word = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    Field(pattern=r"^[A-Za-z0-9_(\[][A-Za-z0-9_.,:@+*|&()\[\]/-]*$"),
]


class SlurmError(NsdError):
    """Slurm refuses a job or a question."""


class SlurmUnavailableError(SlurmError):
    """Slurm does not answer now; nothing is known about any job."""


class SlurmResources(BaseModel):
    """What a job asks for; the names are sbatch's, and so are the formats of the values.

    The cluster's defaults count for what is None. `gpus` on the job's node are a number, or a type
    and a number such as ``a100:1``; `memory` is such as ``32G``, `time_limit` such as ``12:00:00``
    or ``1-00:00:00``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: _Word | None = None
    account: _Word | None = None
    qos: _Word | None = None
    constraint: _Word | None = None
    gpus: _Word = "0"
    cpus: Annotated[int, Field(ge=1)] | None = None
    memory: _Word | None = None
    time_limit: _Word | None = None

    @property
    def has_gpus(self) -> bool:
        """Whether the job asks for a GPU."""
        return self.gpus != "0"

    def options(self) -> list[str]:
        """Arguments for sbatch."""
        values = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": f"gpu:{self.gpus}" if self.has_gpus else None,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "time": self.time_limit,
        }
        return [f"--{name}={value}" for name, value in values.items() if value is not None]


def parse_resources(*layers: Mapping[str, Any] | str, where: str) -> SlurmResources:
    """Resources from several sources, later ones on top of earlier ones.

    Each has options by name, or is a JSON object of them; `where` is what an error names. A
    SlurmError if a source is no JSON object, or an option is unknown or malformed.
    """
    merged: dict[str, Any] = {}
    try:
        for layer in layers:
            merged.update(json.loads(layer) if isinstance(layer, str) else layer)
        return SlurmResources.model_validate(merged)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        )
    except (ValueError, TypeError) as error:
        problems = f"not a JSON object ({error})"
    raise SlurmError(
        f"The Slurm options of {where} are wrong: {problems}.",
        next_step=f"use a JSON object of {', '.join(SlurmResources.model_fields)}.",
    )


@dataclass(frozen=True)
class JobState:
    """State of a job as squeue or sacct writes it, its reason, and its nodes."""

    state: str
    reason: str = ""
    nodes: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in ENDINGS

    def describe(self, job_id: str) -> str:
        """How the job ended, as sentences."""
        where = f" on {self.nodes}" if self.nodes else ""
        reason = "" if self.reason in ("", "None") else f", {self.reason}"
        step = f" {_NEXT_STEPS[self.state]} (tag nsd/slurm)." if self.state in _NEXT_STEPS else ""
        return f"Slurm job {job_id}{where} {ENDINGS[self.state]} ({self.state}{reason}).{step}"


def job_script(command: Sequence[str], exports: Mapping[str, str]) -> str:
    """Batch script that becomes a command, with every word of it quoted."""
    lines = ["#!/bin/bash"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    lines.append(f"exec {shlex.join(command)}")
    return "\n".join(lines) + "\n"


@retry(
    retry=retry_if_exception_type(SlurmUnavailableError),
    stop=stop_after_attempt(4),
    wait=wait_exponential(max=8),
    reraise=True,
)
def submit(
    script: str, resources: SlurmResources, *, name: str, log: Path, environment: Mapping[str, str]
) -> str:
    """Submit a job once, whatever becomes of the answer; its id.

    The name is used for no other job: one that was submitted although the answer was lost is found
    by it. `log` receives the job's output and errors, in a folder that its node sees too. A
    SlurmError if Slurm refuses the job.
    """
    known = find(name)
    if known is not None:
        return known
    output = _run(
        [
            "sbatch",
            "--parsable",
            "--nodes=1",
            "--ntasks=1",
            # Dagster retries runs; a job that Slurm started again would find its run failed.
            "--no-requeue",
            "--open-mode=append",
            f"--job-name={name}",
            # A percent sign begins a pattern here (sbatch(1), FILENAME PATTERN).
            f"--output={str(log).replace('%', '%%')}",
            *resources.options(),
        ],
        text=script,
        environment=environment,
    )
    return output.strip().partition(";")[0]


def find(name: str) -> str | None:
    """Id of the job with a name, among those that Slurm still has in memory."""
    ids = _run(["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%A"]).split()
    return ids[-1] if ids else None


def job_state(job_id: str) -> JobState | None:
    """State of a job; None if Slurm has forgotten it, `SlurmUnavailableError` if it is silent."""
    queue = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%r|%N"]
    # squeue forgets a job MinJobAge seconds after its end; sacct needs accounting.
    account = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job_id}"]
    lines = _try(queue) or _try([*account, "--format=State,Reason,NodeList"])
    if not lines:
        return None
    state, reason, nodes = lines.splitlines()[-1].split("|")
    # sacct writes "CANCELLED by 1000".
    return JobState(state.partition(" ")[0], reason, nodes)


def interrupt(job_id: str) -> None:
    """Let a job's run end itself by SIGINT; Slurm kills what is left after its KillWait.

    It is a `SlurmUnavailableError` if Slurm does not answer.
    """
    state = job_state(job_id)
    if state is None or state.is_over:
        return
    # For a job that waits scancel would try for minutes to signal it.
    signals = [] if state.state == "PENDING" else [["--signal=INT", "--full"]]
    for options in (*signals, []):
        if _try(["scancel", *options, job_id]) is None:  # it ended meanwhile
            return


def _try(command: Sequence[str]) -> str | None:
    """What Slurm answers; None if it refuses to. Its silence stays an error."""
    try:
        return _run(command).strip()
    except SlurmUnavailableError:
        raise
    except SlurmError:
        return None


def _run(
    command: Sequence[str], *, text: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - Slurm's commands, arguments validated, no shell
            list(command),
            input=text,
            env=None if environment is None else dict(environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"There is no {command[0]} on this host.",
            next_step="run Dagster's daemon and webserver where Slurm's commands work.",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmUnavailableError(
            f"{command[0]} did not answer in 120 s.", next_step="check Slurm with sinfo."
        ) from error
    if done.returncode:
        message = done.stderr.strip() or f"exit status {done.returncode}"
        if _OUT_OF_REACH.search(message):
            raise SlurmUnavailableError(
                f"{command[0]}: {message}", next_step="check Slurm with sinfo."
            )
        raise SlurmError(
            f"{command[0]}: {message}",
            next_step="compare the run's Slurm options with the cluster's partitions (sinfo).",
        )
    return done.stdout
