"""Rows of trainings on a store: larger than the memory given to it, and with several seeds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from benchmarks import data
from benchmarks.harness import Inputs, Row, Side, faster
from benchmarks.worker import Outcome, Repeat, Settings

if TYPE_CHECKING:
    from nsd_pipeline.decoding import Trials

BATCH: Final = 64
SHARE: Final = 0.25
"""Of the trials to train on, how many are in memory at a time."""

_STREAMED: Final = "ours, from the store"
_IN_MEMORY: Final = "ours, all in memory"
_ONE_RUN: Final = "three seeds in one run"
_THREE_RUNS: Final = "three runs of one seed"


@contextmanager
def _stored(folder: Path, quick: bool) -> Iterator[Inputs]:
    n_sessions, n_trials = (4, 160) if quick else (8, 750)
    root, _ = data.subject_store(folder, n_sessions, n_trials=n_trials)
    yield Inputs(
        {"root": str(root), "n_sessions": n_sessions, "n_trials": n_trials},
        cold=[str(path) for path in root.rglob("betas/c/*/*")],
        work=f"{n_sessions} sessions of {n_trials} trials, one epoch, files not in the page cache",
    )


def _splits(settings: Settings) -> "tuple[Trials, Trials]":
    """Trials to learn from and to validate on; read here unless they are streamed later."""
    from nsd_pipeline import decoding
    from nsd_pipeline.storage.opening import open_store
    from nsd_pipeline.surface import SessionRows

    n_sessions, n_trials = settings["n_sessions"], settings["n_trials"]
    store = open_store(settings["root"])
    opened = {
        ("subj01", session): SessionRows(store.zarr(key))
        for session, key in enumerate(data.session_keys(n_sessions), 1)
    }
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

    images = data.embeddings(len(number))
    kept: Trials
    if settings["streamed"]:
        readers = list(opened.values())
        window = round(SHARE * (trials["split"] == "train").sum())
        rows = decoding.StoredRows(readers, readers[0].chunk_rows, window)
        kept = decoding.Trials(
            rows=rows,
            first_row=rows.starts[number // n_trials] + number % n_trials,
            n_times=1,
            targets=images,
            target_index=number,
            table=trials,
        )
    else:
        kept = decoding.assemble_trials(trials, opened, number, images)
    return kept.split("train"), kept.split("val")


def train(settings: Settings) -> Repeat:
    """One epoch and its validation, over betas that were read before or are read meanwhile."""
    from nsd_pipeline import decoding

    splits = _splits(settings)
    config = decoding.TrainingConfig(n_epochs=1, batch_size=BATCH)

    def repeat() -> Outcome:
        seconds = float(decoding.train(config, *splits, device="cpu").history["seconds"].sum())
        return Outcome(facts={"trials/s": splits[0].n_trials / seconds}, seconds=seconds)

    return repeat


def train_seeds(settings: Settings) -> Repeat:
    """Three seeds from the store to their weights: read once for all, or once for each."""
    from nsd_pipeline import decoding

    config = decoding.TrainingConfig(n_epochs=2, batch_size=BATCH)
    runs: list[list[int]] = [[0, 1, 2]] if settings["together"] else [[0], [1], [2]]

    def repeat() -> Outcome:
        losses: dict[str, Any] = {}
        for seeds in runs:
            splits = _splits({**settings, "streamed": False})
            found = decoding.train_seeds(config, *splits, seeds=seeds, device="cpu")
            losses |= {f"seed {seed}": each.history["val/loss"] for seed, each in found.items()}
        return Outcome(losses)

    return repeat


ROWS: Final = (
    Row(
        "seeds",
        "Three seeds of a subject's model, from the store",
        _stored,
        (
            Side(_ONE_RUN, train_seeds, {"together": True}),
            Side(_THREE_RUNS, train_seeds, {"together": False}),
        ),
        (faster(_ONE_RUN, _THREE_RUNS, 1.0),),
    ),
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
