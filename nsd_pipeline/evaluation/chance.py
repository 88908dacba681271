"""What every retrieval metric is expected to be by guessing, and whether a model is better.

By guessing, the rank of the right image is uniform over the retrieval set. Means and shares follow
exactly. The median of M ranks is an order statistic: its expectation is the sum over its
distribution, with ranks taken as independent. The standard deviation is that of one rank.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.evaluation.metrics import BATCH_SIZE, TOP_K, metric_ending
from nsd_pipeline.evaluation.retrieval import Doubles

if TYPE_CHECKING:
    import pandas as pd


def table_chance(table: "pd.DataFrame") -> dict[str, float]:
    """What each metric of :func:`metric_intervals` is expected to be at chance; takes its table."""
    one_seed = table[table["seed"] == table["seed"].iloc[0]]
    levels: dict[str, float] = {}
    for key, part in one_seed.groupby(["set", "aggregation"], sort=False):
        name, aggregation = map(str, key)
        n_candidates, ending = int(part["n_candidates"].iloc[0]), metric_ending(aggregation, name)
        levels |= _query_levels(len(part), n_candidates, ending)
        if not aggregation:
            levels |= _subject_levels(part["subject"].to_numpy(), n_candidates, ending)
    return levels


def batch_chance(groups: Sequence[Any], batch_size: int = BATCH_SIZE) -> dict[str, float]:
    """What the ``batch_...`` metrics are expected to be at chance; takes what they do.

    Batches may hold an image several times.
    """
    import pandas as pd

    codes, _ = pd.factorize(np.asarray(groups))
    # How many trials have an image that is `own` times in their batch, beside those others.
    cases: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for start in range(0, len(codes), batch_size):
        repeats = sorted(Counter(codes[start : start + batch_size].tolist()).values())
        for place, own in enumerate(repeats):
            cases[own, (*repeats[:place], *repeats[place + 1 :])] += own
    parts = [
        (float(n), _ranks_with_repeats(own, others), own + sum(others))
        for (own, others), n in cases.items()
    ]
    levels = {f"batch_{name}": v for name, v in _expectations(parts, len(codes), "rank")}
    return levels | {"batch_pearson_corr": 0.0}


@dataclass(frozen=True)
class AgainstChance:
    """How an accuracy, the share of images that were found, compares with guessing.

    Each of ``n_images`` images was asked for once. ``chance`` is the share that guessing finds,
    ``p_value`` the probability of at least as many hits by guessing.
    """

    accuracy: float
    chance: float
    n_images: int
    p_value: float

    @property
    def least_p_value(self) -> float:
        """The p value if every image had been found: no model can reach a smaller one."""
        return float(self.chance**self.n_images)


def against_chance(accuracy: float, n_images: int) -> AgainstChance:
    """Compare a top-5 accuracy over images with guessing: an exact binomial test, one-sided.

    Images are independent of each other. Trials are not: those that showed the same image share its
    target, so a test over trials would take luck with a few images for skill. So ``accuracy`` is
    ``top5_acc_instance-agg`` (estimates averaged per image over all of its trials), and the
    distinct test images are all candidates.
    """
    from scipy.stats import binom

    hits, chance = round(accuracy * n_images), min(1.0, 5 / n_images)
    return AgainstChance(accuracy, chance, n_images, float(binom.sf(hits - 1, n_images, chance)))


@dataclass(frozen=True)
class _Distribution:
    """Values in ascending order and how probable each of them is."""

    values: Doubles
    probabilities: Doubles

    @classmethod
    def uniform(cls, n_values: int) -> "_Distribution":
        return cls(np.arange(n_values, dtype=np.float64), np.full(n_values, 1 / n_values))

    @classmethod
    def mixture(cls, parts: "Sequence[tuple[float, _Distribution]]") -> "_Distribution":
        """Mix distributions by weight."""
        values = np.concatenate([part.values for _, part in parts])
        weights = np.concatenate([weight * part.probabilities for weight, part in parts])
        distinct, index = np.unique(values, return_inverse=True)
        return cls(distinct, np.bincount(index, weights) / weights.sum())

    def normalised(self, n_candidates: int) -> "_Distribution":
        """Turn ranks into inverse normalised ranks, 1 - rank / (N - 1), in ascending order."""
        return _Distribution(1 - self.values[::-1] / (n_candidates - 1), self.probabilities[::-1])

    def mean(self) -> float:
        return float(self.values @ self.probabilities)

    def std(self) -> float:
        return float(np.sqrt((self.values - self.mean()) ** 2 @ self.probabilities))

    def below(self, limit: float) -> float:
        return float(self.probabilities[self.values < limit].sum())

    def lower_median(self, n_draws: int) -> float:
        """Compute the expected lower median of independent draws."""
        from scipy.stats import binom

        share = np.minimum(np.cumsum(self.probabilities), 1)
        middle = (n_draws + 1) // 2
        # The median is at most a value if at least `middle` of the draws are.
        at_most = binom.sf(middle - 1, n_draws, share)
        return float(self.values @ np.diff(at_most, prepend=0))


def _query_levels(n_queries: int, n_candidates: int, ending: str) -> dict[str, float]:
    uniform = _Distribution.uniform(n_candidates)
    expected = _expectations([(1.0, uniform, n_candidates)], n_queries, "retrieval_rank")
    return {f"{name}{ending}": level for name, level in expected}


def _subject_levels(subjects: NDArray[Any], n_candidates: int, ending: str) -> dict[str, float]:
    uniform = _Distribution.uniform(n_candidates)
    name = f"median_retrieval_rank_subject-ind{ending}"
    counts = np.unique(subjects, return_counts=True)[1]
    return {
        name: float(np.mean([uniform.lower_median(int(count)) for count in counts])),
        # The median of an image's ranks averages the two in the middle, so it is symmetric.
        f"{name}_macro": uniform.mean(),
    }


def _ranks_with_repeats(own: int, others: Sequence[int]) -> _Distribution:
    """Distribution of the rank of an image that is ``own`` times among the candidates.

    Repeats of an image are tied, so each image is a block in the order. Every number of other
    blocks before the own one is as likely, and so is every choice of that many blocks. ``others``
    are the blocks' sizes.
    """
    n_others = sum(others)
    # choices[b, c]: in how many ways b of the other blocks hold c candidates together.
    choices = np.zeros((len(others) + 1, n_others + 1))
    choices[0, 0] = 1
    for size in others:
        choices[1:, size:] += choices[:-1, : n_others + 1 - size]
    # Probability that c candidates come before the own block.
    before = (choices / choices.sum(axis=1, keepdims=True)).mean(axis=0)
    return _Distribution(np.arange(n_others + 1) + np.float64(own - 1) / 2, before)


def _expectations(
    parts: Sequence[tuple[float, _Distribution, int]], n_queries: int, noun: str
) -> Iterator[tuple[str, float]]:
    """Yield names and expected statistics of ``n_queries`` ranks whose distribution is a mixture.

    Each part has a weight, a distribution of ranks and a number of candidates. ``noun`` is what
    names of metrics call a rank.
    """
    ranks = _Distribution.mixture([(weight, part) for weight, part, _ in parts])
    yield f"median_{noun}", ranks.lower_median(n_queries)
    yield f"mean_{noun}", ranks.mean()
    yield f"std_{noun}", ranks.std()
    for k in TOP_K:
        yield f"top{k}_acc", ranks.below(k)
    # A single candidate has no normalised rank.
    several = [(weight, part.normalised(size)) for weight, part, size in parts if size > 1]
    normalised = _Distribution.mixture(several) if several else None
    yield "inv_norm_rank_mean", normalised.mean() if normalised else np.nan
    yield "inv_norm_rank_median", normalised.lower_median(n_queries) if normalised else np.nan


LEVEL: Final = 0.001
"""Probability, at most, with which a model that only guesses is said to be better."""


@dataclass(frozen=True)
class Verdict:
    """What the top-5 accuracy over images says about the model of a cohort.

    It is about the ensemble of the models of ``seeds`` (none if nothing was drawn), which were
    trained on ``n_sessions`` sessions.
    """

    cohort: str
    against: AgainstChance
    seeds: tuple[int, ...]
    n_sessions: int

    @property
    def above_chance(self) -> bool:
        """Whether the model is better than guessing."""
        return self.against.p_value < LEVEL

    @property
    def conclusive(self) -> bool:
        """Whether there are enough test images for any model to show that it is better."""
        return self.against.least_p_value < LEVEL

    @property
    def message(self) -> str:
        """The verdict in words; for a model at chance, with what usually causes that."""
        found = self.against
        numbers = (
            f"top-5 of {found.n_images} test images {found.accuracy:.1%}, chance"
            f" {found.chance:.1%}, p = {found.p_value:.2g}"
        )
        if self.above_chance:
            return f"The model of {self.cohort} is better than guessing: {numbers}."
        if not self.conclusive:
            return (
                f"{found.n_images} test images are too few to tell the model of {self.cohort} from"
                f" guessing: {numbers}. More sessions show more of the shared images."
            )
        sessions = f"{self.n_sessions} session{'s' * (self.n_sessions > 1)}"
        named = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        seeds = f"the {named} (train with another one and compare); " if self.seeds else ""
        return (
            f"The model of {self.cohort} is no better than guessing: {numbers}. What usually causes"
            f" this: {seeds}too"
            f" few sessions (there are {sessions}); a wrong mapping from trials to images (see the"
            " checks trial_counts and mapping_agreement of events). The model and its metrics are"
            " kept."
        )
