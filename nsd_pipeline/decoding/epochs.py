"""One training, step by step, and where it stands between two epochs.

On a GPU, gradients of full batches are a CUDA graph (`cuda_graph`), metrics of a validation whose
trials lie there stay there (`validation`), and each training has a stream of its own: kernels of a
step are small, so that those of several seeds fit side by side.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.cuda_graph import GraphedGradients
from nsd_pipeline.decoding.loader import Loader, ResidentLoader, load_trials
from nsd_pipeline.decoding.loss import ProcessGroup, clip_loss, share_dropout
from nsd_pipeline.decoding.model import build_model
from nsd_pipeline.decoding.order import TrialOrder
from nsd_pipeline.decoding.saved_models import Notes, Tensors
from nsd_pipeline.decoding.trials import Trials
from nsd_pipeline.decoding.validation import validate_together
from nsd_pipeline.errors import NsdError
from nsd_pipeline.evaluation.metrics import BatchMetrics

_CLIP_EPSILON = 1e-6
"""What clip_grads_with_norm_ adds to the norm before it divides by it."""


@dataclass(frozen=True)
class Splits:
    """Trials to learn from and to validate on, and what gets them to where the model is.

    Trainings with other seeds share them.
    """

    train: Trials
    validation: Trials
    load_train: Loader
    load_validation: Loader

    @classmethod
    def of(
        cls, train: Trials, validation: Trials, device: torch.device, batch_size: int
    ) -> "Splits":
        """Prepare to put batches of the trials on a device."""
        loaders = (load_trials(trials, device, batch_size) for trials in (train, validation))
        return cls(train, validation, *loaders)


def graphs_pay(config: TrainingConfig, group: ProcessGroup) -> bool:
    """Whether a GPU computes alone what is the same at every step.

    Messages between GPUs have launches of their own, and a class of a user's may decide by values.
    """
    return group.device.type == "cuda" and group.size == 1 and _is_ours(config)


def _is_ours(config: TrainingConfig) -> bool:
    return config.model in ("FmriMlp", "FmriLinear")


class Training:
    """A training with one seed; drawn from torch's current random state."""

    def __init__(
        self, config: TrainingConfig, splits: Splits, seed: int, device: torch.device
    ) -> None:
        self.config, self.splits, self.device = config, splits, device
        self.group = ProcessGroup.current(device)
        self.n_train, self.n_validation = splits.train.n_trials, splits.validation.n_trials
        train = splits.train
        self.model = build_model(
            config,
            n_vertices=train.n_vertices,
            n_times=train.n_times,
            n_outputs=train.n_outputs,
        ).to(device)
        # Of its own, so that trainings on one GPU do not take each other's random numbers.
        self.generator: torch.Generator | None = None
        if device.type == "cuda" and _is_ours(config):
            self.generator = torch.Generator(device).manual_seed(seed)
        several = self.group.size > 1
        shared = several or self.generator is not None
        dropouts = share_dropout(self.model, self.group, self.generator) if shared else []
        self.dropouts = dropouts if several else []
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.scheduler = _one_cycle(
            self.optimizer, config, config.n_epochs * math.ceil(self.n_train / config.batch_size)
        )
        self.order = TrialOrder(config.data_seed, self.n_train)
        self.total_loss = torch.zeros((), dtype=torch.float64, device=device)
        self.in_graphs = graphs_pay(config, self.group)
        self.graphed: GraphedGradients | None = None
        self.stream: torch.cuda.Stream | None = None
        if self.in_graphs and device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_score = -1, -math.inf
        self.best: Tensors = {}

    @property
    def finished(self) -> bool:
        """Whether all epochs are over, or too many of them since the best one."""
        since_best = len(self.history) - 1 - self.best_epoch
        return len(self.history) == self.config.n_epochs or since_best >= self.config.patience

    def epoch(self, n_together: int = 1) -> Iterator[None]:
        """Learn from every trial once, validate, and remember the weights if they are the best.

        Stops after each step, so that trainings can take turns on a GPU; ``n_together`` of them
        share its time.
        """
        start = time.perf_counter()
        self.model.train()
        if self.stream is not None:  # for weights that were loaded, the first time
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        order = self.order.epoch(self.splits.load_train.shuffle)
        computations = self._computations(order)
        learning_rate = math.nan
        while True:
            with self.on_stream():
                compute_gradients = next(computations, None)
                if compute_gradients is None:
                    break
                compute_gradients()
                self.optimizer.step()
            learning_rate = self.optimizer.param_groups[0]["lr"]
            self.scheduler.step()
            yield
        with self.on_stream():
            found = {
                "epoch": len(self.history),
                "step": self.scheduler.last_epoch,
                "learning_rate": learning_rate,
                "train/loss": self._train_loss(),
                **self._validate(),
                "seconds": (time.perf_counter() - start) / n_together,
            }
            # Machines of different kinds may round differently, but must take the same decisions.
            row = dict(zip(found, self.group.agree(list(found.values())), strict=True))
            row |= {name: int(row[name]) for name in ("epoch", "step")}
            score = row[self.config.monitor]
            if score > self.best_score:
                self.best_epoch, self.best_score = len(self.history), score
                self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.history.append(row)

    def on_stream(self) -> AbstractContextManager[object]:
        """Launch what follows on the training's own stream, if it has one."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _train_loss(self) -> float:
        mean_loss = self.total_loss.item() / self.n_train
        if not math.isfinite(mean_loss):
            raise NsdError(
                f"The loss is {mean_loss} in epoch {len(self.history)}.",
                next_step="check betas and embeddings for NaN, or lower the learning rate.",
            )
        return mean_loss

    def _computations(self, order: Tensor) -> Iterator[Callable[[], None]]:
        """For one batch after the other, what leaves its gradients in the parameters."""
        batch_size, loader = self.config.batch_size, self.splits.load_train
        self.total_loss.zero_()
        if not self.in_graphs:
            for n_trials, x, target in self._batches(loader, order):
                yield partial(self._backward, n_trials, x, target)
            return

        def by_number(trials: Tensor) -> None:
            self._backward(len(trials), *loader.batch(trials))  # type: ignore[union-attr]

        def as_it_comes(x: Tensor, target: Tensor) -> None:
            self._backward(len(x), x, target)

        compute: Callable[..., None]
        inputs: Iterator[tuple[Tensor, ...]]
        if isinstance(loader, ResidentLoader):
            compute = by_number
            inputs = ((trials,) for trials in torch.split(order.to(self.device), batch_size))
        else:
            compute = as_it_comes
            inputs = ((x, target) for _, x, target in self._batches(loader, order))
        for batch in inputs:
            if len(batch[0]) < batch_size:
                yield partial(compute, *batch)
                continue
            if self.graphed is None:
                self.graphed = GraphedGradients(
                    compute,
                    batch,
                    self.parameters,
                    self.generator,  # type: ignore[arg-type]  # a GPU has one
                    self.stream,  # type: ignore[arg-type]
                )
                self.total_loss.zero_()  # recording has added to it
            yield partial(self.graphed, *batch)

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
            loader, found = self.splits.load_validation, None
            if isinstance(loader, ResidentLoader) and self.group.size == 1:
                found = validate_together(
                    loader, self.n_validation, self.config.batch_size, self._estimate, self._loss
                )
            found = found or self._validate_by_batch()
        return {f"val/{name}": value for name, value in found.items()}

    def _validate_by_batch(self) -> dict[str, float]:
        metrics, total = BatchMetrics(), 0.0
        in_order = torch.arange(self.n_validation)
        for n_trials, x, target in self._batches(self.splits.load_validation, in_order):
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
        if self.generator is not None:
            tensors["random/dropout"] = self.generator.get_state()
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
        if self.generator is not None:
            self.generator.set_state(tensors["random/dropout"])
        self.history = notes["history"]
        self.best_epoch, self.best_score = notes["best_epoch"], notes["best_score"]


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
