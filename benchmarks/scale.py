"""What everything costs: ``python -m benchmarks.scale`` prints the tables of docs/scale.md.

Counts are NSD's; each rate is one that was measured, and names the page that has it. Nothing is
measured here.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import click
import numpy as np

from benchmarks.report import number
from nsd_pipeline import partitions
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import N_SHARED_IMAGES
from nsd_pipeline.steps.sessions import BETAS_STEPS


@dataclass(frozen=True)
class Rate:
    """Something that was measured: its value, what it is of, and where it is written down."""

    value: float
    unit: str
    source: str


_LOAD: Final = "reliability.md, 284 sessions in one backfill"
_GPU: Final = "gpu.md, one H200"
_BENCH: Final = "benchmarks_intel.md"

OTHER_REQUESTS: Final = Rate(4, "requests a session beside its frames", _LOAD)
LINE: Final = Rate(30.7e6 / 1.1, "bytes/s over a line of 50 MB/s and 30 ms", _BENCH)
SESSION: Final = Rate(0.581, "s a session of a mirror, files to Zarr, in one run", _BENCH)
EMBED_CPU: Final = Rate(8 / 14.5, "images/s, float32, two cores", _BENCH)
EMBED_GPU: Final = Rate(117, "images/s, float32, one card", _GPU)
EMBED_GPU_HALF: Final = Rate(942, "images/s, bfloat16, one card", _GPU)
TRAIN_CPU: Final = Rate(3270, "trials/s of training, two cores", _BENCH)
TRAIN_GPU: Final = Rate(6.74, "s a subject, betas in memory to metrics, 40 epochs", _GPU)
JOINT_EPOCH: Final = Rate(1.24, "s an epoch of all subjects", _GPU)
HISTORY: Final = Rate(16e6 / 1136, "bytes of Dagster's history an artifact", _LOAD)
MODEL: Final = Rate(4 * 5_214_853, "bytes of a model", "5,214,853 parameters in float32")
RATES: Final = (
    OTHER_REQUESTS,
    LINE,
    SESSION,
    EMBED_CPU,
    EMBED_GPU,
    EMBED_GPU_HALF,
    TRAIN_CPU,
    TRAIN_GPU,
    JOINT_EPOCH,
    HISTORY,
    MODEL,
)

_EPOCHS: Final = 40
_PAGE: Final = 1000
"""Objects that one request lists."""
_TRIALS: Final = 750
_FRAME: Final = layout.FSAVERAGE5_VERTICES * 4
"""Bytes of a trial of one hemisphere: one request."""
_IMAGE: Final = int(np.prod(layout.IMAGE_SHAPE))
_OWN_IMAGES: Final = 9000
_EMBEDDING: Final = 1536 * 4
_CHUNK_FILES: Final = 12
"""Files of a session's Zarr group."""


@dataclass(frozen=True)
class Work:
    """How much there is to do: sessions, images, and models of subjects and of all together."""

    name: str
    sessions: int
    images: int
    subject_models: int
    joint_models: int

    @property
    def requests(self) -> float:
        """Requests to the dataset: one a trial and hemisphere, one an image, and the others."""
        return self.sessions * (2 * _TRIALS + OTHER_REQUESTS.value) + self.images

    @property
    def betas(self) -> int:
        """Bytes of betas that are fetched, and kept."""
        return self.sessions * 2 * _TRIALS * _FRAME

    @property
    def fetched(self) -> int:
        """Bytes that are fetched."""
        return self.betas + self.images * _IMAGE

    @property
    def artifacts(self) -> int:
        """Artifacts: four a session, two a stimulus set, a model and its metrics each."""
        sets = 2 * math.ceil(self.images / _OWN_IMAGES)
        models = self.subject_models + self.joint_models
        return self.sessions * len(BETAS_STEPS) + sets + 2 * models

    @property
    def kept(self) -> float:
        """Bytes on disk: betas twice (as fetched, and as Zarr), images, embeddings, models."""
        models = self.subject_models + self.joint_models
        return 2 * self.betas + self.images * (_IMAGE + _EMBEDDING) + models * MODEL.value

    @property
    def gpu_seconds(self) -> float:
        """Seconds of one card, images in bfloat16."""
        joint = self.joint_models * _EPOCHS * JOINT_EPOCH.value
        return self.images / EMBED_GPU_HALF.value + self.subject_models * TRAIN_GPU.value + joint

    @property
    def listing(self) -> float:
        """Requests of `nsd status` on S3: pages of two listings, and every manifest."""
        files = self.artifacts * 2 + self.sessions * _CHUNK_FILES
        return self.artifacts + files / _PAGE + self.artifacts / _PAGE

    @property
    def embedding_seconds(self) -> float:
        """Seconds of two cores for the images."""
        return self.images / EMBED_CPU.value

    @property
    def training_seconds(self) -> float:
        """Seconds of two cores for the models, all epochs, if no trial were kept for the test."""
        n_sessions = len(partitions.SESSIONS)
        models = self.subject_models / _N_SUBJECTS + self.joint_models
        return models * n_sessions * _TRIALS * _EPOCHS / TRAIN_CPU.value


_N_SUBJECTS: Final = len(layout.SUBJECTS)
_ALL: Final = Work(
    "the whole dataset",
    len(partitions.SESSIONS),
    N_SHARED_IMAGES + _N_SUBJECTS * _OWN_IMAGES,
    _N_SUBJECTS,
    1,
)
WORKS: Final = (
    Work("one subject", 40, N_SHARED_IMAGES + _OWN_IMAGES, 1, 0),
    _ALL,
    Work("ten such datasets", 10 * _ALL.sessions, 10 * _ALL.images, 10 * _N_SUBJECTS, 10),
    Work("1,000 experiments more", 0, 0, 1000 * _N_SUBJECTS, 1000),
)


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds)} s"


_TERMS: Final[Mapping[str, Callable[[Work], str]]] = {
    "requests to the dataset": lambda work: number(work.requests),
    "fetched": lambda work: f"{number(work.fetched / 1e9)} GB",
    "... over a line of 50 MB/s": lambda work: duration(work.fetched / LINE.value),
    "from files to Zarr, one run at a time": lambda work: duration(work.sessions * SESSION.value),
    "one GPU: embedding in bfloat16, training": lambda work: duration(work.gpu_seconds),
    "... and in float32": lambda work: duration(
        work.gpu_seconds + work.images * (1 / EMBED_GPU.value - 1 / EMBED_GPU_HALF.value)
    ),
    "two cores instead: embedding": lambda work: duration(work.embedding_seconds),
    "... and training": lambda work: duration(work.training_seconds),
    "kept on disk": lambda work: f"{number(work.kept / 1e9)} GB",
    "artifacts, each with a manifest": lambda work: number(work.artifacts),
    "Dagster's history": lambda work: f"{number(work.artifacts * HISTORY.value / 1e6)} MB",
    "requests of one `nsd status` on S3": lambda work: number(work.listing),
}
_SMALL: Final = 12
"""Trials of a session of the small load."""
_CHECKS: Final = (
    ("small: requests to the source", 284 * (2 * _SMALL + OTHER_REQUESTS.value), 7_993),
    ("small: MB of betas", 284 * 2 * _SMALL * _FRAME / 1e6, 279),
    ("real size: requests to the source", 284 * (2 * _TRIALS + OTHER_REQUESTS.value), 427_177),
    ("real size: MB of betas", 284 * 2 * _TRIALS * _FRAME / 1e6, 17_452.5),
    ("real size: MB of the store, betas twice", 284 * 4 * _TRIALS * _FRAME / 1e6, 35_013.4),
    ("real size: artifacts", 284 * len(BETAS_STEPS), 1_136),
    ("real size: MB of history", 284 * len(BETAS_STEPS) * HISTORY.value / 1e6, 16.5),
)
"""What the model says, and what was counted."""


def tables() -> Iterator[str]:
    """Lines of the tables of docs/scale.md."""
    yield f"| | {' | '.join(work.name for work in WORKS)} |"
    yield "|---" * (len(WORKS) + 1) + "|"
    for name, term in _TERMS.items():
        yield f"| {name} | {' | '.join(map(term, WORKS))} |"
    yield from ("", "| measured | unit | where |", "|---|---|---|")
    for rate in RATES:
        yield f"| {number(rate.value)} | {rate.unit} | {rate.source} |"
    yield from ("", "| checked | by the model | counted |", "|---|---|---|")
    for what, computed, counted in _CHECKS:
        yield f"| {what} | {number(computed)} | {number(counted)} |"


@click.command()
def main() -> None:
    """Print the tables."""
    click.echo("\n".join(tables()))


if __name__ == "__main__":
    main()
