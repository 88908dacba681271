"""Retrieval metrics under the reference's names.

All of them come from one score matrix: a smaller retrieval set is some of its rows and columns, and
estimates averaged over trials have averaged scores. A name says the statistic, how trials were
averaged before ranking, and the retrieval set:

``median_retrieval_rank``, ``mean_...``, ``std_...``, ``top{1,5,10}_acc``,
``inv_norm_rank_{mean,median}``
    over ranks among all distinct images. ``inv_norm_rank`` is 1 - rank / (N - 1).
``..._instance-agg``, ``..._subject-agg``
    estimates averaged per image over all subjects, or per image and subject, and ranked then.
``median_retrieval_rank_subject-ind``, ``..._macro``
    mean over subjects of their median rank, and mean over images of theirs.
``..._size=250``
    the same among the 250 most frequent images; a size goes before ``_macro``.
``batch_...``
    ranks among the targets of a batch, batches in the order of the trials.

Medians are the lower one of two middle values, as the reference's are, except in ``_macro``.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.evaluation.retrieval import (
    Doubles,
    Floats,
    Integers,
    Scores,
    averaged_queries,
    cosine_to_candidates,
    require_finite,
    retrieval_sets,
    score_trials,
)

TOP_K: Final = (1, 5, 10)
BATCH_SIZE: Final = 64
"""Candidates of the ``batch_...`` metrics, as the reference has it."""


def retrieval_metrics(
    y_pred: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    set_sizes: Sequence[int | None] = (None, 250),
    batch_size: int = BATCH_SIZE,
) -> dict[str, float]:
    """Compute all metrics of a test set, by the reference's names.

    Parameters
    ----------
    y_pred, y_true
        Estimates and targets (M, D) of the test trials, in their order.
    groups, subjects
        Image and subject (M,) of each trial.
    set_sizes
        Sizes of retrieval sets: that number of the most frequent images, ``None`` for all. A set of
        more images than there are is left out.
    batch_size
        Candidates of the ``batch_...`` metrics.

    Raises
    ------
    NotEnoughDataError
        If there are no trials.
    NsdError
        If an estimate or a target is not finite.
    """
    scores = score_trials(y_pred, y_true, groups)
    subject_of = np.asarray(subjects)
    metrics: dict[str, float] = {}
    for name, some, rows in retrieval_sets(scores, set_sizes):
        metrics |= _set_metrics(some, subject_of[rows], name)
    return metrics | batch_retrieval(y_pred, y_true, batch_size)


def batch_retrieval(
    y_pred: ArrayLike, y_true: ArrayLike, batch_size: int = BATCH_SIZE
) -> dict[str, float]:
    """Compute the ``batch_...`` metrics alone; takes what :func:`retrieval_metrics` does."""
    batches = BatchMetrics()
    estimates, targets = np.asarray(y_pred, np.float32), np.asarray(y_true, np.float32)
    for start in range(0, len(estimates), batch_size):
        batches.update(estimates[start : start + batch_size], targets[start : start + batch_size])
    return batches.compute()


def metric_ending(aggregation: str, set_name: str) -> str:
    """Return what the name of a metric ends with for a way of averaging and a retrieval set."""
    averaged = f"_{aggregation}" if aggregation else ""
    if set_name == "all":
        return averaged
    return f"{averaged}_{'size' if set_name.isdigit() else 'set'}={set_name}"


def _set_metrics(scores: Scores, subjects: NDArray[Any], set_name: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for aggregation, queries, _ in averaged_queries(scores, subjects):
        ranks = queries.ranks()
        ending = metric_ending(aggregation, set_name)
        metrics |= rank_statistics(ranks, len(scores.images), ending)
        if not aggregation:
            of_trials = subject_statistics(ranks, scores.target, subjects, ending)
    return metrics | of_trials


def rank_statistics(ranks: Doubles, n_candidates: int, ending: str) -> dict[str, float]:
    """Metrics of one retrieval set and one way of averaging, from ranks (Q,) of queries' images.

    ``ending`` is that of their names, from :func:`metric_ending`.
    """
    statistics = _statistics(ranks, np.array(n_candidates), "retrieval_rank")
    return {f"{name}{ending}": value for name, value in statistics}


def subject_statistics(
    ranks: Doubles, images: Integers, subjects: NDArray[Any], ending: str
) -> dict[str, float]:
    """Compute the ``_subject-ind`` metrics of a set from ranks, images and subjects (M,) of trials.

    Images are numbered in order of first appearance, which is the order of summation.
    """
    import pandas as pd

    name = f"median_retrieval_rank_subject-ind{ending}"
    of_subjects = [lower_median(ranks[subjects == subject]) for subject in np.unique(subjects)]
    return {
        name: float(np.mean(of_subjects)),
        f"{name}_macro": float(pd.Series(ranks).groupby(images).median().mean()),
    }


def _statistics(ranks: Doubles, n_candidates: Integers, noun: str) -> Iterator[tuple[str, float]]:
    """Named statistics of ranks (M,), each among a number of candidates, (M,) or ()."""
    yield f"median_{noun}", lower_median(ranks)
    yield f"mean_{noun}", float(ranks.mean())
    yield f"std_{noun}", float(ranks.std(ddof=1)) if len(ranks) > 1 else float("nan")
    for k in TOP_K:
        yield f"top{k}_acc", float(np.mean(ranks < k))
    sizes = np.broadcast_to(n_candidates, ranks.shape)
    # A single candidate has no normalised rank.
    normalised = 1 - ranks[sizes > 1] / (sizes[sizes > 1] - 1)
    yield "inv_norm_rank_mean", float(normalised.mean()) if len(normalised) else float("nan")
    yield "inv_norm_rank_median", lower_median(normalised)


def lower_median(values: Doubles) -> float:
    """Median; of an even number of values, the lower one of the two in the middle."""
    if len(values) == 0:
        return float("nan")
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


class BatchMetrics:
    """The ``batch_...`` metrics, collected batch by batch; nothing but ranks and sums is kept.

    Sums are of differences to the first batch's means. Sums of the values themselves would be large
    and nearly equal, and their difference would lose its digits.
    """

    def __init__(self) -> None:
        self._ranks: list[Doubles] = []
        self._shift: tuple[Doubles, Doubles] | None = None
        self._sums: Doubles = np.zeros((5, 1))

    def update(self, y_pred: Floats, y_true: Floats) -> None:
        """Add a batch of estimates and targets (B, D); an NsdError if any of them is not finite."""
        require_finite(y_pred, y_true)
        own = np.arange(len(y_pred))
        self._ranks.append(Scores(cosine_to_candidates(y_pred, y_true), own, own).ranks())
        if self._shift is None:
            mean_pred, mean_true = (v.mean(axis=0, dtype=np.float64) for v in (y_pred, y_true))
            self._shift = mean_pred, mean_true
        x, y = y_pred - self._shift[0], y_true - self._shift[1]
        self._sums = self._sums + [v.sum(axis=0) for v in (x, y, x * x, y * y, x * y)]

    def compute(self) -> dict[str, float]:
        """Metrics over all batches so far."""
        ranks = np.concatenate(self._ranks)
        sizes = np.concatenate([np.full(len(batch), len(batch)) for batch in self._ranks])
        return batch_metrics(ranks, sizes, mean_correlation(self._sums / len(ranks)))


def batch_metrics(ranks: Doubles, sizes: Integers, correlation: float) -> dict[str, float]:
    """Compute the ``batch_...`` metrics of trials that were ranked already.

    ``ranks`` (M,) are those of trials' own targets among the targets of their batches, ``sizes``
    (M,) the numbers of trials in these batches, ``correlation`` Pearson's, the mean over outputs.
    """
    metrics = {f"batch_{name}": value for name, value in _statistics(ranks, sizes, "rank")}
    return metrics | {"batch_pearson_corr": correlation}


def mean_correlation(moments: Doubles) -> float:
    """Mean Pearson correlation of two variables over D outputs, leaving out those that never vary.

    From the means (5, D) over trials of x, y, x * x, y * y and x * y.
    """
    sx, sy, sxx, syy, sxy = moments
    variances = (sxx - sx * sx) * (syy - sy * sy)
    varies = variances > 0
    if not varies.any():
        return float("nan")
    return float(np.mean((sxy - sx * sy)[varies] / np.sqrt(variances[varies])))
