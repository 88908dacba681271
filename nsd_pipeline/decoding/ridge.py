"""Ridge regression from fMRI to embeddings: in closed form, the penalty chosen on validation.

Which equations
    With more trials than values of a trial, (V x T)^2 sums of products of values (the primal form);
    otherwise as many as pairs of trials (the dual form). Both are summed up over chunks of trials,
    so rows may stay in the store: two passes for the primal form and one over the validation trials
    for each penalty; for the dual form one pass over what is left for each 0.5 GB of trials.
Which penalty
    The one with the least squared error on the validation trials: for all targets together, which
    is the distance in the space that retrieval looks in, or for each target by itself, where
    nothing else is defined. Not the top-5 accuracy that chooses a network's epoch: it belongs to no
    single target, and where nearly every trial is right it cannot tell penalties apart. It is in
    the history beside the error.
Which trials
    Those to train on alone, as for a network. Validation trials choose, and are never fitted.
Which arithmetic
    float64, in memory twice 8 bytes x min(trials, V x T)^2: 6.7 GB at 20,484. float32 would halve
    that and the time, but at a penalty of 1e-7 of the largest eigenvalue it was wrong by 2 %.

The algebra is LAPACK's, by torch: a Cholesky factor for each penalty. For 4096 values and 1536
targets that takes 2.2 s of a CPU core in float64; an eigendecomposition, which does for all
penalties, 12 s even in float32, and 12 times as long whenever their number doubles.

Why no library does all of it: scikit-learn's RidgeCV and himalaya's solvers fit the validation
trials too once the penalty is chosen. Both want all rows in memory. himalaya decomposes a matrix of
trials, or the rows themselves, so 150,000 trials are beyond it; scikit-learn's Ridge sums products
up anew for each penalty. Where all of them can be used none is faster by much (docs/decoders.md).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import r2_score
from torch import Tensor

from nsd_pipeline.decoding.loader import load_trials
from nsd_pipeline.decoding.model import FmriRidge
from nsd_pipeline.decoding.rows import Floats, available_bytes
from nsd_pipeline.decoding.trials import Trials
from nsd_pipeline.errors import NotEnoughDataError, NsdError
from nsd_pipeline.evaluation import batch_retrieval

_CHUNK_BYTES: Final = 1 << 29
"""Of trials in float64 that are multiplied at once."""
_COLUMNS: Final = 2048
"""Columns of the sums at once: of a symmetric matrix only what is below the diagonal is needed."""
_EDGE_SHARE: Final = 0.1
"""Of the targets: if more choose the least or the largest penalty, others may be better."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class RidgeResult:
    """A fitted ridge regression, in evaluation mode on the CPU, and how penalties were chosen.

    `alphas` (D,) are the penalty of each target. `history` has a row a penalty, from the largest:
    ``alpha``, ``val/r2`` (of all targets together, each with the weight of its variance), every
    ``val/batch_...`` metric, and ``chosen``, the number of targets that have it. `scores` are the
    same ``val/`` figures of the model itself.
    """

    model: FmriRidge
    alphas: NDArray[np.float64]
    history: pd.DataFrame
    scores: dict[str, float]


def fit_ridge(
    train: Trials,
    validation: Trials,
    *,
    alphas: Sequence[float],
    per_target: bool = False,
    device: str | torch.device | None = None,
    batch_size: int = 64,
) -> RidgeResult:
    """Fit ``|Y - b - XW|^2 + alpha |W|^2`` for several penalties and keep the best.

    Penalties, above zero, are in scikit-learn's units: of squared values of fMRI, summed over
    trials. They are chosen on the validation trials, for each of the D values of an embedding by
    itself if `per_target`. The intercept b is not penalised. It is computed on a device, by default
    the first GPU if there is one, else the CPU. `batch_size` is the number of candidates of the
    ``val/batch_...`` metrics.

    A NotEnoughDataError if there are fewer than two trials to fit, or to validate on; an NsdError
    if there is too little memory, fMRI or embeddings are not finite, or a penalty is too small for
    the equations to have one solution; a ValueError if there are no penalties, or some are not
    above zero.
    """
    if not len(alphas) or min(alphas) <= 0:
        raise ValueError("alphas are one or more numbers above zero")
    if min(train.n_trials, validation.n_trials) < 2:
        raise NotEnoughDataError(
            f"{train.n_trials} trials to fit and {validation.n_trials} to validate on are too few"
            " for a ridge regression.",
            next_step="prepare more sessions of this cohort.",
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dual = train.n_trials < train.n_times * train.n_vertices
    equations = (_Dual if dual else _Primal)(train, validation, device)
    y_true, ascending = validation.y_true(), np.unique(np.asarray(alphas, np.float64))
    chosen = np.full(train.n_outputs, ascending[-1])
    least = np.full(train.n_outputs, np.inf)
    coefficients, estimates, history = torch.empty(0), np.empty_like(y_true), []
    for alpha in ascending[::-1].tolist():  # of equally good ones the simplest model is kept
        found = equations.solve(alpha)
        y_pred = (equations.estimate(found) + equations.y_mean).float().cpu().numpy()
        error = np.square(y_true - y_pred, dtype=np.float64).sum(axis=0)
        better = error < least if per_target else np.full(len(error), error.sum() < least.sum())
        least[better], chosen[better], estimates[:, better] = (
            error[better],
            alpha,
            y_pred[:, better],
        )
        columns = torch.from_numpy(better).to(device)
        coefficients = torch.where(columns, found, coefficients) if len(coefficients) else found
        history.append({"alpha": alpha, **_scores(y_pred, y_true, batch_size)})
    _warn_of_edges(chosen, ascending)
    weights = equations.weights(coefficients)
    model = FmriRidge(train.n_vertices, train.n_outputs, train.n_times)
    shape = model.weight.shape
    with torch.no_grad():
        model.weight.copy_(weights.T.reshape(shape))
        model.bias.copy_(equations.y_mean - equations.x_mean @ weights)
    table = pd.DataFrame(history)
    table["chosen"] = [int((chosen == alpha).sum()) for alpha in table["alpha"]]
    return RidgeResult(model.eval(), chosen, table, _scores(estimates, y_true, batch_size))


def _scores(y_pred: Floats, y_true: Floats, batch_size: int) -> dict[str, float]:
    metrics = batch_retrieval(y_pred, y_true, batch_size)
    r2 = float(r2_score(y_true, y_pred, multioutput="variance_weighted"))
    return {"val/r2": r2, **{f"val/{name}": value for name, value in metrics.items()}}


def _warn_of_edges(chosen: NDArray[np.float64], alphas: NDArray[np.float64]) -> None:
    for edge, which, more in (
        (alphas[0], "smallest", "smaller"),
        (alphas[-1], "largest", "larger"),
    ):
        n_targets = int((chosen == edge).sum())
        if len(alphas) > 1 and n_targets > _EDGE_SHARE * len(chosen):
            _LOGGER.warning(
                "Ridge regression chose alpha %g, the %s of `alphas`, for %d of the %d values of an"
                " embedding: %s ones may fit better.",
                *(edge, which, n_targets, len(chosen), more),
            )


class _Centred:
    """Trials less some means (their own, unless given), chunk by chunk, in float64 on a device."""

    def __init__(
        self, trials: Trials, device: torch.device, means: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self._n_trials = trials.n_trials
        n_features = trials.n_times * trials.n_vertices
        self._size = _chunk_trials(trials)
        self._loader = load_trials(trials, device, self._size)
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.means = zeros(n_features), zeros(trials.n_outputs)
        self.means = means or self._measure()

    def _measure(self) -> tuple[Tensor, Tensor]:
        x_mean, y_mean = (torch.zeros_like(mean) for mean in self.means)
        for _, x, y in self.chunks():
            x_mean += x.sum(dim=0) / self._n_trials
            y_mean += y.sum(dim=0) / self._n_trials
        if not (x_mean.isfinite().all() and y_mean.isfinite().all()):
            raise NsdError(
                "Some fMRI or embeddings of the trials to fit are not finite.",
                next_step="check betas and embeddings for NaN.",
            )
        return x_mean, y_mean

    def chunks(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Numbers, fMRI (n, T x V) and targets (n, D) in order; one of these runs at a time."""
        batches = torch.split(torch.arange(first, last or self._n_trials), self._size)
        for numbers, values in zip(batches, self._loader.batches(batches), strict=True):
            # Transposed, the values of a batch follow each other in memory as they were read.
            x, y = values[0].transpose(1, 2).flatten(1), values[1]
            x, y = (
                value.to(torch.float64, copy=True).sub_(mean)
                for value, mean in zip((x, y), self.means, strict=True)
            )
            yield slice(int(numbers[0]), int(numbers[-1]) + 1), x, y

    def chunk(self, first: int) -> tuple[slice, Tensor]:
        """Numbers and fMRI of the chunk that begins with a trial."""
        last = min(first + self._size, self._n_trials)
        ((numbers, x, _),) = self.chunks(first, last)
        return numbers, x


class _Equations:
    """Symmetric equations (S + alpha I) C = R, one solution C for each alpha."""

    def __init__(self, train: Trials, validation: Trials, size: int, device: torch.device) -> None:
        _require_memory(train, validation, size, device)
        # Before rows are put on a GPU, which take of its memory what is left. LAPACK has columns
        # contiguous: it works in place then.
        self.matrix, self._factor = (
            torch.zeros((size, size), dtype=torch.float64, device=device).T for _ in range(2)
        )
        self.train = _Centred(train, device)
        self.validation = _Centred(validation, device, self.train.means)
        self.x_mean, self.y_mean = self.train.means
        self.right = torch.zeros((size, train.n_outputs), dtype=torch.float64, device=device)

    def solve(self, alpha: float) -> Tensor:
        """Solution C (size, D)."""
        factor = self._factor.copy_(self.matrix)
        factor.diagonal().add_(alpha)
        info = torch.empty((), dtype=torch.int32, device=factor.device)
        torch.linalg.cholesky_ex(factor, out=(factor, info))
        if info:
            raise NsdError(
                f"With alpha {alpha:g} the equations of the ridge regression have no single"
                " solution to rounding.",
                next_step="leave out penalties as small as that.",
            )
        half = torch.linalg.solve_triangular(factor, self.right, upper=False)
        solution: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        return solution


class _Primal(_Equations):
    """S (T x V, T x V) has sums over trials, C are the weights."""

    def __init__(self, train: Trials, validation: Trials, device: torch.device) -> None:
        size = train.n_times * train.n_vertices
        super().__init__(train, validation, size, device)
        for _, x, y in self.train.chunks():
            for j in range(0, size, _COLUMNS):
                self.matrix[j:, j : j + _COLUMNS].addmm_(x[:, j:].T, x[:, j : j + _COLUMNS])
            self.right.addmm_(x.T, y)

    def estimate(self, coefficients: Tensor) -> Tensor:
        """Targets (n, D) of the validation trials, less their mean."""
        return torch.cat([x @ coefficients for _, x, _ in self.validation.chunks()])

    def weights(self, coefficients: Tensor) -> Tensor:
        """Weights (T x V, D)."""
        return coefficients


class _Dual(_Equations):
    """S (N, N) has sums over values for each pair of trials, C is what each trial adds."""

    def __init__(self, train: Trials, validation: Trials, device: torch.device) -> None:
        n_trials = train.n_trials
        super().__init__(train, validation, n_trials, device)
        self._across = self.matrix.new_empty((validation.n_trials, n_trials))
        first = 0
        while first < n_trials:
            held, x = self.train.chunk(first)
            for rows, other, y in self.train.chunks(first):
                self.matrix[rows, held] = other @ x.T
                self.right[rows] = y
            for rows, other, _ in self.validation.chunks():
                self._across[rows, held] = other @ x.T
            first = held.stop

    def estimate(self, coefficients: Tensor) -> Tensor:
        """Targets (n, D) of the validation trials, less their mean."""
        return self._across @ coefficients

    def weights(self, coefficients: Tensor) -> Tensor:
        """Weights (T x V, D)."""
        weights = self.matrix.new_zeros((len(self.x_mean), coefficients.shape[1]))
        for rows, x, _ in self.train.chunks():
            weights.addmm_(x.T, coefficients[rows])
        return weights


def _chunk_trials(trials: Trials) -> int:
    most = _CHUNK_BYTES // (8 * trials.n_times * trials.n_vertices)
    return min(max(1, most), trials.n_trials)


def _require_memory(train: Trials, validation: Trials, size: int, device: torch.device) -> None:
    """Refuse what would end for lack of memory, before hours of work."""
    across = validation.n_trials * size if size == train.n_trials else 0
    n_features = train.n_times * train.n_vertices
    targets = (6 * size + n_features) * train.n_outputs
    chunks = 4 * _chunk_trials(train) * n_features
    needed = 8 * (2 * size**2 + across + targets + chunks)
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else available_bytes()
    if needed > free:
        raise NsdError(
            f"Ridge regression of {train.n_trials} trials of {n_features} values takes"
            f" {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB of memory are free on {device}.",
            next_step="fit it where there is more memory, on fewer sessions, or with `region`.",
        )
