"""Training a decoder as the reference does.

REFERENCE, "The task's configuration": AdamW under one cycle of the learning rate, stepped per batch
and laid out over all epochs; every trial once an epoch in a new order, the last batch as short as
it comes; gradients clipped; validation after every epoch; the epoch that is best by the monitor
(unless set otherwise, the top-5 accuracy among the 64 targets of a validation batch) is kept, and
training stops when five epochs in a row were no better. OneCycleLR also moves AdamW's first
momentum between 0.85 and 0.95, which is PyTorch's default and therefore the reference's.

Seeds are the reference's: the same seed gives its initial weights, dropout and order of trials.

Several processes can train one model (``loss.ProcessGroup``): in a group of torch.distributed, each
calls :func:`train` with the same arguments. Results are those of one process, to rounding.

It differs from the reference in speed only: batches are rows of one array, and AdamW is fused. The
steps are in `epochs`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nsd_pipeline.decoding.config import OnEpoch, TrainingConfig
from nsd_pipeline.decoding.epochs import Splits, Training, graphs_pay
from nsd_pipeline.decoding.loader import ResidentLoader
from nsd_pipeline.decoding.loss import ProcessGroup
from nsd_pipeline.decoding.model import Decoder
from nsd_pipeline.decoding.saved_models import Checkpoint, take_weights
from nsd_pipeline.decoding.trials import Trials
from nsd_pipeline.errors import NotEnoughDataError

CHECKPOINT_SECONDS = 5.0
"""A GPU writes no checkpoint sooner after another: writing one takes as long as an epoch there."""

_OVER = object()


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and how it came about.

    The model has the weights of its best epoch, is in evaluation mode, on the training's device;
    `best_score` is that epoch's value of the monitor. `history` has a row an epoch: ``epoch``
    (0-based), ``step`` (steps so far), ``learning_rate`` (of the epoch's last step),
    ``train/loss``, ``val/loss``, every ``val/batch_...`` metric, and ``seconds``. `stopped_early`
    says whether epochs were left when training stopped.
    """

    model: Decoder
    history: pd.DataFrame
    best_epoch: int
    best_score: float
    stopped_early: bool


def train(
    config: TrainingConfig,
    train: Trials,
    validation: Trials,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    start_from: Mapping[str, Tensor] | None = None,
) -> TrainingResult:
    """Train a model. Same settings and data give the same weights, bit for bit on the CPU.

    Torch's own random state is as it was afterwards.

    Parameters
    ----------
    config
        Architecture, loss and optimisation.
    train, validation
        Trials to learn from, and to choose the best epoch by.
    seed, device
        Of initial weights and dropout; where to train: the first GPU if there is one, or the CPU.
    on_epoch
        Called after every epoch, when its checkpoint is written if it is; by the first process
        only.
    checkpoint
        Says where the training stands after each epoch, on a GPU after some. If it is there and is
        of this very training, the training goes on from it and ends with the weights it would have
        had without the interruption. It is left there: remove it when the result is safe.
    start_from
        Weights to begin with, of a model of the same architecture (its ``state_dict()``), instead
        of drawing them. A checkpoint does not know them: its recipe has to.

    Raises
    ------
    NotEnoughDataError
        If there are fewer than two trials to learn from, or none to validate on.
    NsdError
        If the loss is no longer finite, or the weights to start from are of another architecture.
    """
    return train_seeds(
        config,
        train,
        validation,
        seeds=[seed],
        device=device,
        on_epoch=on_epoch and (lambda _, row: on_epoch(row)),
        checkpoint_of=lambda _: checkpoint,
        start_of=lambda _: start_from,
    )[seed]


def train_seeds(
    config: TrainingConfig,
    train: Trials,
    validation: Trials,
    *,
    seeds: Sequence[int],
    device: str | torch.device | None = None,
    on_epoch: Callable[[int, Mapping[str, float]], object] | None = None,
    checkpoint_of: Callable[[int], Checkpoint | None] = lambda _: None,
    start_of: Callable[[int], Mapping[str, Tensor] | None] = lambda _: None,
) -> dict[int, TrainingResult]:
    """Train a model with each of several seeds: each is the one that :func:`train` gives.

    Trials are brought to the device once. A GPU that holds them trains all seeds side by side: the
    kernels of one leave most of it idle. ``seconds`` of a history are then its share of the time.

    Arguments and errors are those of :func:`train`, but each seed has a checkpoint and weights to
    begin with of its own, and `on_epoch` is called with the seed first.
    """
    _require_enough(config, train, validation)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    splits = Splits.of(train, validation, device, config.batch_size)
    resident = isinstance(splits.load_train, ResidentLoader)
    side_by_side = resident and graphs_pay(config, ProcessGroup.current(device))
    results: dict[int, TrainingResult] = {}
    for some in [seeds] if side_by_side else [[seed] for seed in seeds]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            trainings = {}
            for seed in some:
                torch.manual_seed(seed)
                training = trainings[seed] = Training(config, splits, seed, device)
                weights = start_of(seed)
                if weights is not None:
                    take_weights(training.model, weights)
                # Again, as the reference does: dropout then does not depend on what the model drew.
                torch.manual_seed(seed)
                checkpoint = checkpoint_of(seed)
                if checkpoint is not None:
                    if saved := checkpoint.read(config, seed, device):
                        training.restore(*saved)
                    training.require_same_start()
            _take_turns(
                [_epochs(trainings, seed, checkpoint_of(seed), on_epoch) for seed in trainings]
            )
        results |= {seed: _result(training) for seed, training in trainings.items()}
    return results


def _epochs(
    trainings: Mapping[int, Training],
    seed: int,
    checkpoint: Checkpoint | None,
    on_epoch: Callable[[int, Mapping[str, float]], object] | None,
) -> Iterator[None]:
    """All epochs that are left of one seed's training; stops after each step."""
    training, written = trainings[seed], time.monotonic()
    while not training.finished:
        yield from training.epoch(sum(not each.finished for each in trainings.values()))
        if training.group.rank == 0:
            due = training.device.type == "cpu" or training.finished
            if checkpoint is not None and (due or time.monotonic() - written >= CHECKPOINT_SECONDS):
                with training.on_stream():
                    state = training.state()
                    checkpoint.write(training.config, seed, training.device, *state)
                written = time.monotonic()
            if on_epoch is not None:
                on_epoch(seed, training.history[-1])


def _take_turns(trainings: Sequence[Iterator[None]]) -> None:
    """Let each training make a step, again and again, until all are over."""
    left = list(trainings)
    while left:
        left = [training for training in left if next(training, _OVER) is not _OVER]


def _result(training: Training) -> TrainingResult:
    """The model at its best, and its history."""
    with training.on_stream():
        training.model.load_state_dict(training.best)
    if training.stream is not None:
        torch.cuda.current_stream(training.device).wait_stream(training.stream)
    return TrainingResult(
        model=training.model.eval(),
        history=pd.DataFrame(training.history),
        best_epoch=training.best_epoch,
        best_score=training.best_score,
        stopped_early=len(training.history) < training.config.n_epochs,
    )


def _require_enough(config: TrainingConfig, train: Trials, validation: Trials) -> None:
    # A normalised rank among one trial does not exist, so no epoch would ever be the best.
    n_validation = 2 if config.monitor == "val/batch_inv_norm_rank_mean" else 1
    if train.n_trials < 2 or validation.n_trials < n_validation:
        counts = f"{train.n_trials} trials to train on and {validation.n_trials} to validate on"
        raise NotEnoughDataError(
            f"{counts} are too few: a trial is told from the others of its batch.",
            next_step="prepare more sessions of this cohort.",
        )
