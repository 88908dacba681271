"""Scores of trials with images, ranks from scores, and the sets of images to retrieve from.

REFERENCE, "Behaviour that is easy to get wrong": candidates are scaled to unit length and estimates
are not; the retrieval set holds each image once (the mean of its targets), in order of first
appearance; ranks are 0-based, and ties get the mean of the best and the worst rank they could have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.errors import NotEnoughDataError, NsdError

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_EPSILON = np.float32(1e-15)
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Scores:
    """Scores (M, N) of every query with every candidate image.

    A query is a trial, or a mean of trials. ``target`` (M,) is the column of each query's own
    image; ``images`` (N,) are named as in ``groups``.
    """

    values: Floats
    target: Integers
    images: NDArray[Any]

    def ranks(self) -> NDArray[np.float64]:
        """Rank (M,) of each query's own image among the N candidates."""
        ranks = np.empty(len(self.values))
        for start in range(0, len(ranks), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            values = self.values[rows]
            own = np.take_along_axis(values, self.target[rows, None], axis=1)
            above = np.count_nonzero(values > own, axis=1)
            not_below = np.count_nonzero(values >= own, axis=1)
            ranks[rows] = (above + not_below - 1) / 2
        return ranks

    def among(self, columns: Integers) -> tuple["Scores", Integers]:
        """Scores within a smaller retrieval set, and the queries (rows) whose image is in it."""
        if len(columns) == len(self.images):
            return self, np.arange(len(self.values))
        place = np.full(len(self.images), -1)
        place[columns] = np.arange(len(columns))
        rows = np.flatnonzero(place[self.target] >= 0)
        values = self.values[rows[:, None], columns]
        return Scores(values, place[self.target[rows]], self.images[columns]), rows

    def averaged(self, codes: Integers) -> "Scores":
        """Scores of the mean estimates of all queries that share a code (0, 1, ...).

        Estimates are not normalised, so the score of a mean is the mean of the scores.
        Queries that share a code share an image.
        """
        target = np.empty(codes.max() + 1, dtype=np.int64)
        target[codes] = self.target
        return Scores(mean_by_code(self.values, codes), target, self.images)


def score_trials(y_pred: ArrayLike, y_true: ArrayLike, groups: Sequence[Any]) -> Scores:
    """Score every trial's estimate (M, D) with every distinct image: the mean of its targets.

    ``groups`` (M,) are the images that trials showed. A NotEnoughDataError if there are no trials,
    an NsdError if an estimate, a target or a score is not finite.
    """
    import pandas as pd

    estimates, targets = np.asarray(y_pred, np.float32), np.asarray(y_true, np.float32)
    if estimates.shape != targets.shape or estimates.ndim != 2 or len(groups) != len(estimates):
        raise ValueError(
            f"y_pred {estimates.shape} and y_true {targets.shape} are both (M, D), with M groups "
            f"(here {len(groups)})"
        )
    if not len(estimates):
        raise NotEnoughDataError(
            "The test split is empty: no trial shows one of the shared images.",
            next_step="prepare sessions with shared images for this cohort.",
        )
    require_finite(estimates, targets)
    codes, images = pd.factorize(np.asarray(groups))
    values = cosine_to_candidates(estimates, mean_by_code(targets, codes))
    return Scores(values, codes, np.asarray(images))


def cosine_to_candidates(estimates: Floats, candidates: Floats) -> Floats:
    """Dot products (M, N) of estimates (M, D) with candidates (N, D) scaled to unit length.

    Identical candidates get identical scores. An NsdError if a score is not finite, as finite
    estimates near float32's limit can make it.
    """
    lengths = np.linalg.norm(candidates, axis=1, keepdims=True)
    scores: Floats = estimates @ (candidates / (lengths + _EPSILON)).T
    # NaN is neither above nor below anything, so it would be ranked before the first place.
    _require_finite_rows("scores", scores, "check the size of the model's estimates.")
    # A matrix product sums the columns at its edge in another order, which breaks ties by accident:
    # identical candidates all take the scores of the first.
    seen: dict[bytes, int] = {}
    first = [seen.setdefault(row.tobytes(), i) for i, row in enumerate(candidates)]
    return scores if len(seen) == len(candidates) else scores[:, first]


def mean_by_code(values: Floats, codes: Integers) -> Floats:
    """Means (N, D) of the rows of ``values`` (M, D) that share a code in 0..N-1."""
    from scipy.sparse import csr_array

    # Adds rows in their order, as np.add.reduceat does in ten times the time.
    rows = np.arange(len(codes))
    belongs = csr_array((np.ones(len(codes), values.dtype), (codes, rows)))
    means: Floats = belongs @ values
    means /= np.bincount(codes)[:, None]
    return means


def most_frequent(codes: Integers, size: int | None) -> Integers:
    """Find the ``size`` most frequent codes, ties by first appearance, and sort them.

    Codes number the images in order of first appearance. All of them for ``size=None``, or if
    there are fewer.
    """
    counts = np.bincount(codes)
    return np.sort(np.argsort(-counts, kind="stable")[:size])


def retrieval_sets(
    scores: Scores, set_sizes: Sequence[int | None]
) -> Iterator[tuple[str, Scores, Integers]]:
    """Go through the retrieval sets for which there are enough images; None is all there are.

    Yields the set's name, the scores within it, and the queries (rows of ``scores``) whose image is
    in it.
    """
    for size in set_sizes:
        if size is None or size <= len(scores.images):
            name = "all" if size is None else str(size)
            yield name, *scores.among(most_frequent(scores.target, size))


def averaged_queries(
    scores: Scores, subjects: NDArray[Any]
) -> Iterator[tuple[str, Scores, NDArray[Any] | None]]:
    """Go through the ways in which estimates are averaged before they are ranked.

    Yields what names of metrics say for it (nothing for single trials), the scores of its queries,
    and the subject of each of them (None where estimates of all subjects are averaged).
    """
    yield "", scores, subjects
    yield "instance-agg", scores.averaged(scores.target), None
    codes = pair_codes(scores.target, subjects)
    subject_of = np.empty(codes.max() + 1, subjects.dtype)
    subject_of[codes] = subjects
    yield "subject-agg", scores.averaged(codes), subject_of


def pair_codes(target: Integers, subjects: NDArray[Any]) -> Integers:
    """Give each pair of subject and image a number (M,), in order of first appearance."""
    import pandas as pd

    subject_codes, _ = pd.factorize(subjects)
    codes: Integers = pd.factorize(subject_codes * (target.max() + 1) + target)[0]
    return codes


def require_finite(estimates: Floats, targets: Floats) -> None:
    """Raise `NsdError` if estimates (M, D) or targets (M, D) are not finite."""
    _require_finite_rows(
        "estimates", estimates, "check the model's weights and the betas it was given for NaN."
    )
    _require_finite_rows("targets", targets, "make stimulus_embeddings of the images again.")


def _require_finite_rows(what: str, values: Floats, next_step: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise NsdError(
            f"{len(bad)} of {len(values)} {what} are not finite (the first is row {bad[0]}).",
            next_step=next_step,
        )
