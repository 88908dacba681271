"""Row of a training that is larger than the memory given to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import data
from benchmarks.harness import Inputs, Row, Side, faster
from benchmarks.worker import Outcome, Repeat, Settings

if TYPE_CHECKING:
    from nsd_pipeline.decoding.data import Batches

BATCH: Final = 64
SHARE: Final = 0.25
"""Of the trials to train on, how many are in memory at a time."""

_STREAMED: Final = "ours, from the store"
_IN_MEMORY: Final = "ours, all in memory"


@contextmanager
def _stored(folder: Path, quick: bool) -> Iterator[Inputs]:
    n_sessions, n_trials = (4, 160) if quick else (8, 750)
    root, _ = data.subject_store(folder, n_sessions, n_trials=n_trials)
    yield Inputs(
        {"root": str(root), "n_sessions": n_sessions, "n_trials": n_trials},
        cold=[str(path) for path in root.rglob("betas/c/*/*")],
        work=f"{n_sessions} sessions of {n_trials} trials, one epoch, files not in the page cache",
    )


def train(settings: Settings) -> Repeat:
    """One epoch and its validation, over betas that were read before or are read meanwhile."""
    from nsd_pipeline import decoding
    from nsd_pipeline.storage.store import open_store
    from nsd_pipeline.surface import CHUNK_TRIALS, SessionBetas

    n_sessions, n_trials = settings["n_sessions"], settings["n_trials"]
    store = open_store(settings["root"])
    opened = [SessionBetas(store.zarr(key)) for key in data.session_keys(n_sessions)]
    number = np.arange(n_sessions * n_trials)
    trials = pd.DataFrame(
        {
            "subject": "subj01",
            "session": number // n_trials + 1,
            "trial": number % n_trials,
            "image_id": number,
            # A run in five, about as the reference splits.
            "split": np.where(number // 62 % 5 == 0, "val", "train"),
        }
    )

    def read(
        _subject: str, session: int, wanted: NDArray[np.int64], out: NDArray[np.float32]
    ) -> None:
        opened[session - 1].read(wanted, out=out)

    seen = (trials, data.N_VERTICES, read, number, data.embeddings(len(number)))
    splits: tuple[Batches, Batches]
    if settings["streamed"]:
        window = round(SHARE * (trials["split"] == "train").sum())
        stream = decoding.stream_trials(*seen, chunk_trials=CHUNK_TRIALS, window=window)
        splits = stream.split("train"), stream.split("val")
    else:
        held = decoding.assemble_trials(*seen)
        splits = held.split("train"), held.split("val")
    config = decoding.TrainingConfig(n_epochs=1, batch_size=BATCH)

    def repeat() -> Outcome:
        seconds = float(decoding.train(config, *splits, device="cpu").history["seconds"].sum())
        return Outcome(facts={"trials/s": splits[0].n_trials / seconds}, seconds=seconds)

    return repeat


ROWS: Final = (
    Row(
        "training-streamed",
        "Training on betas that do not fit into memory",
        _stored,
        (
            Side(_STREAMED, train, {"streamed": True}),
            Side(_IN_MEMORY, train, {"streamed": False}),
        ),
        (faster(_STREAMED, _IN_MEMORY, 0.7, "of the speed in memory"),),
    ),
)
