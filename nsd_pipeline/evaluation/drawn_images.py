"""Metrics for many draws of the test images at once.

A draw (bootstrap) takes images with replacement, each with all of its queries. The candidates stay
the same, and with them every rank. So a draw is a weight for each image, how often it was taken,
and every metric follows from weighted sums and weighted counts of ranks: matrix products instead of
a loop over draws and metrics.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.evaluation.metrics import (
    TOP_K,
    metric_ending,
    rank_statistics,
    subject_statistics,
)
from nsd_pipeline.evaluation.retrieval import Doubles, Floats, Integers

if TYPE_CHECKING:
    import pandas as pd


def draw_images(n_images: int, n_draws: int, seed: int) -> Floats:
    """Draw N images with replacement, B times: how often each was drawn, (N, B)."""
    drawn = np.random.default_rng(seed).integers(n_images, size=(n_draws, n_images))
    drawn += np.arange(n_draws)[:, None] * n_images
    counts = np.bincount(drawn.ravel(), minlength=n_draws * n_images)
    return np.ascontiguousarray(counts.reshape(n_draws, n_images).T, np.float32)


@dataclass(frozen=True)
class RankedQueries:
    """The ranks of one seed in one retrieval set, with one way of averaging estimates.

    For each of Q queries: the rank of its own image, the row of the weights that belongs to that
    image, and a number for its subject, in their alphabetical order. ``aggregation`` is how
    estimates were averaged, ``""`` for single trials.
    """

    ranks: Doubles
    image: Integers
    subject: Integers
    n_candidates: int
    aggregation: str
    set_name: str

    def metrics(self) -> dict[str, float]:
        """All metrics, as `retrieval_metrics` computes them."""
        import pandas as pd

        ending = metric_ending(self.aggregation, self.set_name)
        found = rank_statistics(self.ranks, self.n_candidates, ending)
        if self.aggregation:
            return found
        image, _ = pd.factorize(self.image)
        return found | subject_statistics(self.ranks, image, self.subject, ending)

    def drawn(
        self, weights: Floats | int, *, accuracies_only: bool = False
    ) -> Iterator[tuple[str, Doubles]]:
        """All metrics (B,) for weights (N, B) of the images; NaN in a draw without a query.

        For a number N, those (N,) of each image by itself. Accuracies alone take a tenth of the
        time.
        """
        n_images = weights if isinstance(weights, int) else len(weights)
        levels = (np.inf, *TOP_K)
        hits = np.stack([np.bincount(self.image, self.ranks < k, n_images) for k in levels])
        with np.errstate(invalid="ignore", divide="ignore"):
            # Counts are exact in float32, and the weights need no copy.
            if not isinstance(weights, int):
                hits = (hits.astype(np.float32) @ weights).astype(np.float64)
            n, *found = hits
            by_name = {f"top{k}_acc": hit / n for k, hit in zip(TOP_K, found, strict=True)}
            if not accuracies_only:
                of = np.eye(weights, dtype=np.float32) if isinstance(weights, int) else weights
                powers = [np.bincount(self.image, self.ranks**k, n_images) for k in (1, 2)]
                total, squares = np.stack(powers) @ of
                mean = total / n
                lower, upper = weighted_medians(self.ranks, self.image, of)
                last = self.n_candidates - 1 or np.nan  # of a single candidate there is none
                by_name = {
                    "median_retrieval_rank": lower,
                    "mean_retrieval_rank": mean,
                    "std_retrieval_rank": np.sqrt(np.maximum(squares - n * mean**2, 0) / (n - 1)),
                    **by_name,
                    "inv_norm_rank_mean": 1 - mean / last,
                    # Seen from the other end, the lower of two middle values is the upper one.
                    "inv_norm_rank_median": 1 - upper / last,
                }
            ending = metric_ending(self.aggregation, self.set_name)
            yield from ((f"{name}{ending}", values) for name, values in by_name.items())
            if not self.aggregation and not accuracies_only:
                yield from self._of_subjects(of)

    def _of_subjects(self, weights: Floats) -> Iterator[tuple[str, Doubles]]:
        import pandas as pd

        name = f"median_retrieval_rank_subject-ind{metric_ending('', self.set_name)}"
        medians = []
        for subject in np.unique(self.subject):
            own = self.subject == subject
            medians.append(weighted_medians(self.ranks[own], self.image[own], weights)[0])
        # In a draw without any of a subject's images, the mean is over the others.
        there = np.isfinite(medians)
        yield name, np.where(there, medians, 0).sum(axis=0) / there.sum(axis=0)
        of_images = pd.Series(self.ranks).groupby(self.image).median()
        seen = weights[of_images.index]
        yield f"{name}_macro", of_images.to_numpy() @ seen / seen.sum(axis=0)


def weighted_medians(ranks: Doubles, image: Integers, weights: Floats) -> tuple[Doubles, Doubles]:
    """Lower and upper median (B,) of ranks (Q,) whose images (Q,) have weights (N, B)."""
    from scipy.sparse import csr_array

    values, code = np.unique(ranks, return_inverse=True)
    ones = np.ones(len(ranks), np.float32)
    # at_most[v, b]: how many ranks of draw b are at most values[v]. As float32 exact to 16 million.
    at_most = csr_array((ones, (code, image)), shape=(len(values), len(weights))) @ weights
    for v in range(1, len(values)):  # np.cumsum takes four times as long along this axis
        at_most[v] += at_most[v - 1]
    n = at_most[-1]
    medians = []
    for place in (np.ceil(n / 2), n // 2 + 1):
        found = np.minimum((at_most < place).sum(axis=0), len(values) - 1)
        medians.append(np.where(n > 0, values[found], np.nan))
    return medians[0], medians[1]


def by_seed(table: "pd.DataFrame", images: NDArray[Any]) -> dict[str, Sequence[RankedQueries]]:
    """Split what :func:`query_ranks` returned by seed, and that by retrieval set and averaging.

    The table may hold some of its images only; rows of weights belong to ``images`` (N,).
    """
    import pandas as pd

    row_of = pd.Series(np.arange(len(images)), index=images)
    table = table.assign(
        image_id=row_of[table["image_id"]].to_numpy(),
        subject=pd.factorize(table["subject"], sort=True)[0],
    )
    result: dict[str, list[RankedQueries]] = {}
    keys = ["seed", "set", "aggregation"]
    for key, part in table.groupby(keys, sort=False, observed=True):
        seed, name, aggregation = map(str, key)
        queries = RankedQueries(
            part["rank"].to_numpy(np.float64),
            part["image_id"].to_numpy(),
            part["subject"].to_numpy(),
            int(part["n_candidates"].iloc[0]),
            aggregation,
            name,
        )
        result.setdefault(seed, []).append(queries)
    return dict(result)
