"""Training a decoder as the reference does.

REFERENCE, "The task's configuration": AdamW under one cycle of the learning rate, stepped per batch
and laid out over all epochs; every trial once an epoch in a new order, the last batch as short as
it comes; gradients clipped; validation after every epoch; the epoch that is best by the monitor
(unless set otherwise, the top-5 accuracy among the 64 targets of a validation batch) is kept, and
training stops when five epochs in a row were no better. OneCycleLR also moves AdamW's first
momentum between 0.85 and 0.95, which is PyTorch's default and therefore the reference's.

Seeds are the reference's: the same seed gives its initial weights, its dropout and its order of
trials.

Several processes can train one model (``loss.ProcessGroup``): started with a group of
torch.distributed, each calls :func:`train` with the same arguments and gets the same result.
Batches are the same as those of one process, and so are losses, dropout on the CPU, and updates, to
rounding.

It differs from the reference in speed only: no data loader (batches are rows of one array), and
AdamW's fused kernel, whose results agree with the plain one to rounding. On a GPU that holds all
trials, gradients of full batches are a CUDA graph (`cuda_graph`) and metrics of the validation stay
there (`validation`).
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from nsd_pipeline.decoding.config import OnEpoch, TrainingConfig
from nsd_pipeline.decoding.cuda_graph import GraphedGradients
from nsd_pipeline.decoding.loader import Loader, ResidentLoader, load_trials
from nsd_pipeline.decoding.loss import ProcessGroup, clip_loss, share_dropout
from nsd_pipeline.decoding.model import Decoder, FmriLinear, FmriMlp, build_model
from nsd_pipeline.decoding.order import TrialOrder
from nsd_pipeline.decoding.saved_models import Checkpoint, Notes, Tensors, take_weights
from nsd_pipeline.decoding.trials import Trials
from nsd_pipeline.decoding.validation import validate_together
from nsd_pipeline.errors import NotEnoughDataError, NsdError
from nsd_pipeline.evaluation.metrics import BatchMetrics

_CLIP_EPSILON = 1e-6
"""What clip_grads_with_norm_ adds to the norm before it divides by it."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and how it came about.

    Attributes
    ----------
    model
        The model with the weights of its best epoch, in evaluation mode, on the training's device.
    history
        One row an epoch: ``epoch`` (0-based), ``step`` (steps so far), ``learning_rate`` (of the
        epoch's last step), ``train/loss``, ``val/loss``, every ``val/batch_...`` metric, and
        ``seconds``.
    best_epoch
        Epoch of the weights.
    best_score
        Its value of the monitor.
    stopped_early
        Whether epochs were left when training stopped.
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
    seed
        Seed of initial weights and dropout.
    device
        Where to train; the first GPU if there is one, else the CPU.
    on_epoch
        Called after every epoch, when its checkpoint is written; by the first process only.
    checkpoint
        Says where the training stands after each epoch. If it is there and is of this very
        training, the training goes on from it and ends with the weights it would have had without
        the interruption. It is left there: remove it when the result is safe.
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
    _require_enough(config, train, validation)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        training = _Training(config, train, validation, device)
        if start_from is not None:
            take_weights(training.model, start_from)
        # Again, as the reference does: dropout then does not depend on what the model drew.
        torch.manual_seed(seed)
        if checkpoint is not None:
            if saved := checkpoint.read(config, seed, device):
                training.restore(*saved)
            training.require_same_start()
        while not training.finished:
            row = training.epoch()
            if checkpoint is not None and training.group.rank == 0:
                checkpoint.write(config, seed, device, *training.state())
            if on_epoch is not None and training.group.rank == 0:
                on_epoch(row)
    return training.result()


def _require_enough(config: TrainingConfig, train: Trials, validation: Trials) -> None:
    # A normalised rank among one trial does not exist, so no epoch would ever be the best.
    n_validation = 2 if config.monitor == "val/batch_inv_norm_rank_mean" else 1
    if train.n_trials < 2 or validation.n_trials < n_validation:
        raise NotEnoughDataError(
            f"{train.n_trials} trials to train on and {validation.n_trials} to validate on are too "
            "few: a trial is told from the others of its batch.",
            next_step="prepare more sessions of this cohort.",
        )


class _Training:
    """A training between two epochs."""

    def __init__(
        self, config: TrainingConfig, train: Trials, validation: Trials, device: torch.device
    ) -> None:
        self.config, self.device = config, device
        self.group = ProcessGroup.current(device)
        self.n_train, self.n_validation = train.n_trials, validation.n_trials
        self.load_train = load_trials(train, device, config.batch_size)
        self.load_validation = load_trials(validation, device, config.batch_size)
        self.model = build_model(
            config,
            n_vertices=train.n_vertices,
            n_times=train.n_times,
            n_outputs=train.n_outputs,
        ).to(device)
        self.dropouts = share_dropout(self.model, self.group) if self.group.size > 1 else []
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.scheduler = _one_cycle(
            self.optimizer, config, config.n_epochs * math.ceil(self.n_train / config.batch_size)
        )
        self.order = TrialOrder(config.data_seed, self.n_train)
        self.total_loss = torch.zeros((), dtype=torch.float64, device=device)
        self.graphed: GraphedGradients | None = None
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_score = -1, -math.inf
        self.best: Tensors = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs are over, or too many of them since the best one."""
        since_best = len(self.history) - 1 - self.best_epoch
        return len(self.history) == self.config.n_epochs or since_best >= self.config.patience

    def epoch(self) -> dict[str, float]:
        """Learn from every trial once, validate, and remember the weights if they are the best."""
        start = time.perf_counter()
        learning_rate, train_loss = self._learn()
        found = {
            "epoch": len(self.history),
            "step": self.scheduler.last_epoch,
            "learning_rate": learning_rate,
            "train/loss": train_loss,
            **self._validate(),
            "seconds": time.perf_counter() - start,
        }
        # Machines of different kinds may round differently, but must take the same decisions.
        row = dict(zip(found, self.group.agree(list(found.values())), strict=True))
        row |= {name: int(row[name]) for name in ("epoch", "step")}
        score = row[self.config.monitor]
        if score > self.best_score:
            self.best_epoch, self.best_score = len(self.history), score
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.history.append(row)
        return row

    def _learn(self) -> tuple[float, float]:
        self.model.train()
        learning_rate = math.nan
        for _ in self._gradients(self.order.epoch(self.load_train.shuffle)):
            self.optimizer.step()
            learning_rate = self.optimizer.param_groups[0]["lr"]
            self.scheduler.step()
        mean_loss = self.total_loss.item() / self.n_train
        if not math.isfinite(mean_loss):
            raise NsdError(
                f"The loss is {mean_loss} in epoch {len(self.history)}.",
                next_step="check betas and embeddings for NaN, or lower the learning rate.",
            )
        return learning_rate, mean_loss

    def _gradients(self, order: Tensor) -> Iterator[None]:
        """Leave the gradients of one batch after the other in the parameters; add up losses."""
        batch_size, loader = self.config.batch_size, self.load_train
        if not isinstance(loader, ResidentLoader) or not _graphs_pay(self.model, self.group):
            self.total_loss.zero_()
            for batch in self._batches(loader, order):
                self._backward(*batch)
                yield
            return

        def compute(trials: Tensor) -> None:
            self._backward(len(trials), *loader.batch(trials))

        if self.graphed is None and len(order) >= batch_size:
            self.graphed = GraphedGradients(compute, self.parameters, batch_size, self.device)
        self.total_loss.zero_()
        for trials in torch.split(order.to(self.device), batch_size):
            if self.graphed is not None and len(trials) == batch_size:
                self.graphed(trials)
            else:
                compute(trials)
            yield

    def _backward(self, n_trials: int, x: Tensor, target: Tensor) -> None:
        loss = self._loss(*self._forward(n_trials, x, target, self.config.precision))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.group.sum_gradients(self.parameters)
        self._clip_gradients()
        self.total_loss += loss.detach() * n_trials

    def _validate(self) -> dict[str, float]:
        self.model.eval()
        with torch.inference_mode():
            loader, found = self.load_validation, None
            if isinstance(loader, ResidentLoader) and self.group.size == 1:
                found = validate_together(
                    loader, self.n_validation, self.config.batch_size, self._estimate, self._loss
                )
            found = found or self._validate_by_batch()
        return {f"val/{name}": value for name, value in found.items()}

    def _validate_by_batch(self) -> dict[str, float]:
        metrics, total = BatchMetrics(), 0.0
        in_order = torch.arange(self.n_validation)
        for n_trials, x, target in self._batches(self.load_validation, in_order):
            estimate, candidate = self._forward(n_trials, x, target)
            total += self._loss(estimate, candidate).item() * n_trials
            metrics.update(estimate.cpu().numpy(), candidate.cpu().numpy())
        return {"loss": total / self.n_validation, **metrics.compute()}

    def _batches(self, loader: Loader, order: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Trials in each batch of all processes; fMRI and candidates of this process's share."""
        whole = torch.split(order, self.config.batch_size)
        shares = [self.group.share(trials) for trials in whole]
        for trials, (x, candidate) in zip(whole, loader.batches(shares), strict=True):
            yield len(trials), x, candidate

    def _forward(
        self, n_trials: int, x: Tensor, candidate: Tensor, precision: str = "float32"
    ) -> tuple[Tensor, Tensor]:
        """Estimates and candidates of a batch, whichever processes have its trials."""
        for dropout in self.dropouts:
            dropout.n_rows = n_trials
        estimate = self._estimate(x, precision)
        return self.group.gather(estimate, n_trials), self.group.gather(candidate, n_trials)

    def _estimate(self, x: Tensor, precision: str = "float32") -> Tensor:
        rounded = precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
            estimate: Tensor = self.model(x if rounded else x.float()).float()
        return estimate

    def _loss(self, estimate: Tensor, candidate: Tensor) -> Tensor:
        kind = self.config.norm_kind
        norm_kind = None if kind == "none" else kind
        return clip_loss(estimate, candidate, norm_kind, self.config.symmetric)

    def _clip_gradients(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        limit = self.config.gradient_clip_norm
        # Scaling by 1 changes nothing, but takes a pass over all gradients. On the CPU we leave it
        # out; on a GPU, finding out that the factor is 1 would mean waiting for the GPU.
        if self.device.type != "cpu" or norm + _CLIP_EPSILON > limit:
            nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)

    def require_same_start(self) -> None:
        """Complain about processes that went on from different checkpoints."""
        start = [float(len(self.history)), self.best_score if self.history else 0.0]
        if self.group.agree(start) != start:
            raise NsdError(
                f"Process {self.group.rank} did not find the checkpoint that the first one goes on"
                " from.",
                next_step="put the artifacts on a disk that all machines of the training share.",
            )

    def state(self) -> tuple[Tensors, Notes]:
        """All that the rest of the training depends on, and what it has found so far."""
        optimizer = self.optimizer.state_dict()
        tensors = {
            **{f"model/{name}": value for name, value in self.model.state_dict().items()},
            **{f"best/{name}": value for name, value in self.best.items()},
            **{
                f"optimizer/{index}/{name}": value
                for index, values in optimizer["state"].items()
                for name, value in values.items()
            },
            "random/order": self.order.generator.get_state(),
            "random/cpu": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        notes = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "optimizer": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
        }
        return tensors, notes

    def restore(self, tensors: Tensors, notes: Notes) -> None:
        """Go on from a :meth:`state`."""
        self.model.load_state_dict(_below("model", tensors))
        self.best = {k: v.to(self.device) for k, v in _below("best", tensors).items()}
        moments: dict[int, Tensors] = {}
        for name, value in _below("optimizer", tensors).items():
            index, moment = name.split("/")
            moments.setdefault(int(index), {})[moment] = value
        # JSON has no tuples.
        groups = [{**group, "betas": tuple(group["betas"])} for group in notes["optimizer"]]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.scheduler.load_state_dict(notes["scheduler"])
        self.order.generator.set_state(tensors["random/order"])
        torch.set_rng_state(tensors["random/cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)
        self.history = notes["history"]
        self.best_epoch, self.best_score = notes["best_epoch"], notes["best_score"]

    def result(self) -> TrainingResult:
        """The model at its best, and its history."""
        self.model.load_state_dict(self.best)
        return TrainingResult(
            model=self.model.eval(),
            history=pd.DataFrame(self.history),
            best_epoch=self.best_epoch,
            best_score=self.best_score,
            stopped_early=len(self.history) < self.config.n_epochs,
        )


def _graphs_pay(model: Decoder, group: ProcessGroup) -> bool:
    """Whether a GPU computes alone what does the same at every step.

    Messages between GPUs have launches of their own, and a class of a user's may decide by values.
    """
    ours = isinstance(model, FmriMlp | FmriLinear)
    return ours and group.device.type == "cuda" and group.size == 1


def _below(folder: str, tensors: Tensors) -> Tensors:
    prefix = f"{folder}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _one_cycle(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, n_steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    warmup_fraction = config.warmup_fraction
    if warmup_fraction * n_steps == 1:
        # A warm-up of exactly one step starts and ends at step 0, and OneCycleLR divides by its
        # length.
        warmup_fraction = math.nextafter(warmup_fraction, 1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=n_steps,
        pct_start=warmup_fraction,
        anneal_strategy="cos",
    )
