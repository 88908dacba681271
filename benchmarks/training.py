"""Rows of the training: epochs over betas and over windows of time series."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import data
from benchmarks.harness import Bar, Inputs, Row, Side, Sides, Values, fact, faster
from benchmarks.worker import Outcome, Repeat, Settings
from nsd_pipeline.nsd.layout import N_VERTICES

if TYPE_CHECKING:
    from nsd_pipeline.decoding import Trials

BATCH: Final = 64
WINDOW: Final = 4
"""Samples of a window at a TR of 1.6 s."""
_SAMPLES_PER_TRIAL: Final = 3
_N_VALIDATION: Final = 64
_EPOCHS: Final = 2

_FLOAT32, _BFLOAT16 = "ours, float32", "ours, data and steps in bfloat16"
_LIMIT_32, _LIMIT_16 = "the steps alone, float32", "the steps alone, bfloat16"
_LIGHTNING: Final = "DataLoader of trials, Lightning-style steps"
_LOADING: Final = "share of an epoch spent on loading"


@contextmanager
def _epoch(_folder: Path, quick: bool, *, n_times: int, factor: float = 1) -> Iterator[Inputs]:
    n_train = 256 if quick else round(factor * 2560)
    yield Inputs(
        {"n_train": n_train, "n_times": n_times, "n_vertices": 2048 if quick else N_VERTICES},
        work=f"{n_train} trials of {n_times} time point{'s' * (n_times > 1)}, "
        f"{_EPOCHS} epochs, batch {BATCH}",
    )


# --- what both sides learn from ----------------------------------------------------------------


def _series(settings: Settings) -> NDArray[np.float32]:
    """A row for each trial, or samples that the trials' windows are cut out of: (rows, V)."""
    n_trials, n_times = settings["n_train"] + _N_VALIDATION, settings["n_times"]
    shape = (_step(n_times) * n_trials + n_times - 1, settings["n_vertices"])
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _step(n_times: int) -> int:
    """Rows from one trial's first to the next one's: windows of neighbours overlap."""
    return 1 if n_times == 1 else _SAMPLES_PER_TRIAL


def _splits(settings: Settings) -> "tuple[Trials, Trials]":
    """Trials to train and to validate on, kept in the precision of the steps."""
    import torch

    from nsd_pipeline.decoding import HeldRows, Trials
    from nsd_pipeline.decoding.rows import NUMPY_DTYPES, as_tensor

    series, n_times = _series(settings), settings["n_times"]
    if settings["precision"] == "bfloat16":
        exact, series = series, np.empty(series.shape, NUMPY_DTYPES["bfloat16"])
        as_tensor(series).copy_(torch.from_numpy(exact))
    number = np.arange(settings["n_train"] + _N_VALIDATION)
    split = np.where(number < settings["n_train"], "train", "val")
    table = pd.DataFrame({"subject": "subj01", "session": 1, "image_id": number, "split": split})
    trials = Trials(
        rows=HeldRows(series),
        first_row=_step(n_times) * number,
        n_times=n_times,
        targets=data.embeddings(len(number)),
        target_index=number,
        table=table,
    )
    return trials.split("train"), trials.split("val")


# --- ours --------------------------------------------------------------------------------------


def train(settings: Settings) -> Repeat:
    """`decoding.train`, and how long its batches take to load by themselves."""
    import time

    import torch

    from nsd_pipeline import decoding
    from nsd_pipeline.decoding.loader import load_trials

    splits = _splits(settings)
    config = decoding.TrainingConfig(
        n_epochs=_EPOCHS, batch_size=BATCH, precision=settings["precision"]
    )

    loader = load_trials(splits[0], torch.device("cpu"), BATCH)

    def seconds_of_loading() -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in loader.batches(torch.split(torch.randperm(splits[0].n_trials), BATCH)):
                pass
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def repeat() -> Outcome:
        history = decoding.train(config, *splits, device="cpu").history
        seconds = float(history["seconds"].sum())
        return _outcome(
            history["train/loss"],
            history["val/loss"],
            seconds,
            _EPOCHS * splits[0].n_trials,
            {_LOADING: _EPOCHS * seconds_of_loading() / seconds},
        )

    return repeat


def train_more(settings: Settings) -> Repeat:
    """`train` on a multiple of the trials. Losses are not compared: they differ."""
    repeat = train({**settings, "n_train": settings["factor"] * settings["n_train"]})
    return lambda: replace(repeat(), values={})


def _outcome(
    train_losses: Any, val_losses: Any, seconds: float, n_trials: int, facts: dict[str, float]
) -> Outcome:
    # Bounded below by zero: their range is not what a difference is to be compared with.
    losses = {"train": [0, *train_losses], "validation": [0, *val_losses]}
    return Outcome(
        {name: np.array(values, np.float64) for name, values in losses.items()},
        {"trials/s": n_trials / seconds, **facts},
        seconds,
    )


# --- the limit ---------------------------------------------------------------------------------


def steps_alone(settings: Settings) -> Repeat:
    """As many steps and validations on one batch that lies where it is: no loading, no metrics."""
    import time

    import torch

    from nsd_pipeline.decoding import TrainingConfig, build_model, clip_loss

    n_train, n_times = settings["n_train"], settings["n_times"]
    config = TrainingConfig(n_epochs=_EPOCHS, batch_size=BATCH)
    rounded = settings["precision"] == "bfloat16"
    fmri = torch.randn(BATCH, n_times, settings["n_vertices"]).transpose(1, 2)
    images = torch.from_numpy(data.embeddings(BATCH))
    rounded_fmri = fmri.bfloat16() if rounded else fmri

    def repeat() -> Outcome:
        torch.manual_seed(config.seeds[0])
        model: Any = build_model(
            config,
            n_vertices=settings["n_vertices"],
            n_times=n_times,
            n_outputs=images.shape[1],
        )
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-4, weight_decay=config.weight_decay, fused=True
        )
        start = time.perf_counter()
        for _ in range(_EPOCHS):
            model.train()
            for _ in range(math.ceil(n_train / BATCH)):
                with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
                    estimate = model(rounded_fmri)
                optimizer.zero_grad()
                clip_loss(estimate.float(), images).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip_norm)
                optimizer.step()
            model.eval()
            with torch.no_grad():
                clip_loss(model(fmri), images)
        seconds = time.perf_counter() - start
        return Outcome({}, {"trials/s": _EPOCHS * n_train / seconds}, seconds)

    return repeat


# --- the alternative ---------------------------------------------------------------------------


def train_with_data_loader(settings: Settings) -> Repeat:
    """A training as frameworks make it: a dataset of trials, a DataLoader, and plain steps."""
    import time

    import torch
    from torch.utils.data import DataLoader, Dataset

    from nsd_pipeline.decoding import TrainingConfig, build_model, clip_loss
    from nsd_pipeline.decoding.order import TrialOrder

    n_train: int = settings["n_train"]
    n_times: int = settings["n_times"]
    run = _series(settings).T
    n_trials = n_train + _N_VALIDATION
    targets = data.embeddings(n_trials)
    config = TrainingConfig(n_epochs=_EPOCHS, batch_size=BATCH)

    class Trials(Dataset[dict[str, torch.Tensor]]):
        """One item a trial, cut out of its run, which is (V, samples) as neuroimaging has it."""

        def __len__(self) -> int:
            return n_trials

        def __getitem__(self, trial: int) -> dict[str, torch.Tensor]:
            first = trial * _step(n_times)
            fmri = np.ascontiguousarray(run[:, first : first + n_times])
            return {"fmri": torch.from_numpy(fmri), "image": torch.from_numpy(targets[trial])}

    def batches(trials: Sequence[int]) -> Any:
        # With a generator of its own: it draws a number from torch's, which dropout is to have.
        return DataLoader(Trials(), BATCH, sampler=trials, generator=torch.Generator())

    def repeat() -> Outcome:
        torch.manual_seed(config.seeds[0])
        model: Any = build_model(
            config, n_vertices=len(run), n_times=n_times, n_outputs=targets.shape[1]
        )
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=_EPOCHS * math.ceil(n_train / BATCH),
            pct_start=config.warmup_fraction,
        )
        # The same seeds as ours, or the losses could not be compared.
        torch.manual_seed(config.seeds[0])
        order = TrialOrder(config.data_seed, n_train)
        train_losses, val_losses = [], []
        start = time.perf_counter()
        for _ in range(_EPOCHS):
            model.train()
            losses = []
            shuffled = order.epoch(lambda draws: torch.randperm(n_train, generator=draws))
            for batch in batches(shuffled.tolist()):
                loss = clip_loss(model(batch["fmri"]), batch["image"])
                losses.append(loss.item() * len(batch["image"]))  # progress bars show it
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip_norm)
                optimizer.step()
                scheduler.step()
            train_losses.append(sum(losses) / n_train)
            model.eval()
            with torch.no_grad():
                losses = [
                    clip_loss(model(batch["fmri"]), batch["image"]).item() * len(batch["image"])
                    for batch in batches(range(n_train, n_trials))
                ]
            val_losses.append(sum(losses) / _N_VALIDATION)
        seconds = time.perf_counter() - start
        return _outcome(train_losses, val_losses, seconds, _EPOCHS * n_train, {_LOADING: math.nan})

    return repeat


def _per_trial(few: str, many: str, sides: Sides) -> float:
    return sides[few].facts["trials/s"] / sides[many].facts["trials/s"]


def _nearness(expected: Values, found: Values) -> dict[str, float]:
    loss, rounded = (values["train"][-1] for values in (expected, found))
    return {"x the last loss of float32": float(rounded / loss)}


def _not_compared(_expected: Values, _found: Values) -> dict[str, float]:
    return {}


def _times(numerator: str, denominator: str, sides: Sides) -> float:
    return sides[numerator].seconds / sides[denominator].seconds


def _near_the_limit(side: str, limit: str, precision: str) -> Bar:
    what = f"times the time of the steps alone, {precision}"
    return Bar(what, partial(_times, side, limit), 1.3, at_most=True)


_SIDES: Final = (
    Side(_FLOAT32, train, {"precision": "float32"}),
    Side(_BFLOAT16, train, {"precision": "bfloat16"}, _nearness),
    Side(_LIGHTNING, train_with_data_loader),
    Side(_LIMIT_32, steps_alone, {"precision": "float32"}, _not_compared),
    Side(_LIMIT_16, steps_alone, {"precision": "bfloat16"}, _not_compared),
)
_AT_THE_LIMIT: Final = (
    _near_the_limit(_FLOAT32, _LIMIT_32, "float32"),
    _near_the_limit(_BFLOAT16, _LIMIT_16, "bfloat16"),
)
_LIMIT: Final = (
    "The steps alone are forward and backward pass, clipping and AdamW on one batch that is never "
    "fetched. AdamW, clipping and gradients read and write 0.25 GB a step, whatever the precision "
    "of the products, so lower precision speeds up only what is left."
)

ROWS: Final = (
    Row(
        "training-windows",
        "Training on windows of time series",
        partial(_epoch, n_times=WINDOW, factor=0.5),
        _SIDES,
        (
            faster(_FLOAT32, _LIGHTNING, 2, "times faster, float32"),
            faster(_BFLOAT16, _LIGHTNING, 3.5, "times faster, bfloat16"),
            *_AT_THE_LIMIT,
        ),
        limit=_LIMIT,
        tolerance=1e-5,
    ),
    Row(
        "training-betas",
        "Training on betas",
        partial(_epoch, n_times=1),
        _SIDES,
        (
            faster(_FLOAT32, _LIGHTNING, 3, "times faster, float32"),
            fact(_LOADING, _FLOAT32, 0.05, at_most=True),
            *_AT_THE_LIMIT,
        ),
        limit=_LIMIT,
        tolerance=1e-5,
    ),
    Row(
        "training-growth",
        "Training on betas: cost against the number of trials",
        partial(_epoch, n_times=1, factor=0.5),
        tuple(
            Side(f"{factor}x the trials", train_more, {"factor": factor, "precision": "float32"})
            for factor in (1, 2, 4)
        ),
        (
            Bar(
                "times the cost of a trial at 1x, at 4x",
                partial(_per_trial, "1x the trials", "4x the trials"),
                1.15,
                at_most=True,
            ),
        ),
        repetitions=2,
    ),
)
