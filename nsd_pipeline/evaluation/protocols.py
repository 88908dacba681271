"""Other ways to test the same estimates: the field's protocol, and harder or narrower retrieval.

Hard negatives, images that all subjects saw three times, and numbers of repeats are tables of the
form of :func:`query_ranks`, so that they have all metrics, with intervals, differences and chance.
Draws of 300 images are a table of their own: see :func:`drawn_retrieval`.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.evaluation.ceiling import REPEATS
from nsd_pipeline.evaluation.ranks import hash_of, query_ranks, rank_table
from nsd_pipeline.evaluation.retrieval import (
    Scores,
    averaged_queries,
    cosine_to_candidates,
    mean_by_code,
    pair_codes,
    score_trials,
)
from nsd_pipeline.evaluation.seeds import ENSEMBLE, seeds_and_ensemble

if TYPE_CHECKING:
    import pandas as pd

SEEN_BY_ALL: Final = "seen-by-all"
HARD_NEGATIVES: Final = "hard-negatives"


def drawn_retrieval(
    predictions: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    seeds: Sequence[int],
    n_images: int = 300,
    n_draws: int = 30,
) -> "pd.DataFrame":
    """Top-1 among 300 drawn test images in both directions, the protocol of the literature.

    Takes what :func:`query_ranks` does. Estimates of an image's repeats are averaged within each
    subject; scores are cosines. From brain to image, an estimate is to find its image among the
    drawn images; from image to brain, an image is to find its estimate among those of the drawn
    images. (Lin et al. 2022; Scotti et al. 2023. Both average repeats; theirs is the mean of
    responses or outputs, ours of outputs.) Images are drawn without replacement, the same for all
    seeds, and all of a subject's if it saw fewer.

    Columns are ``seed`` (``"ensemble"`` for all together), ``subject``, ``direction`` (``"brain to
    image"`` or ``"image to brain"``), ``value`` (top-1 accuracy, mean over draws), ``draw_sd``
    (standard deviation over draws), ``chance``, ``n_images`` and ``n_draws``. The deviation over
    draws is no interval: all draws are from the same test images, so drawing more often narrows
    down the mean for these images and says nothing about others.
    """
    import pandas as pd

    subject_of = np.asarray(subjects)
    images_of = np.asarray(groups)
    rows = []
    for seed, estimates in seeds_and_ensemble(predictions, seeds):
        for subject in np.unique(subject_of):
            own = subject_of == subject
            # Sorted, so that the draws do not depend on the order of the trials.
            codes, images = pd.factorize(images_of[own], sort=True)
            brains = mean_by_code(estimates[own], codes)
            targets = mean_by_code(np.asarray(y_true, np.float32)[own], codes)
            size = min(n_images, len(images))
            rng = np.random.default_rng(0)
            draws = [rng.choice(len(images), size, replace=False) for _ in range(n_draws)]
            for direction, scores in (
                ("brain to image", cosine_to_candidates(brains, targets)),
                ("image to brain", cosine_to_candidates(targets, brains)),
            ):
                found = [_top1(scores[np.ix_(draw, draw)]) for draw in draws]
                rows.append(
                    {
                        "seed": seed,
                        "subject": subject,
                        "direction": direction,
                        "value": np.mean(found),
                        "draw_sd": np.std(found, ddof=1),
                        "chance": 1 / size,
                        "n_images": size,
                        "n_draws": n_draws,
                    }
                )
    return pd.DataFrame(rows)


def seen_by_all(groups: Sequence[Any], subjects: Sequence[Any]) -> NDArray[np.bool_]:
    """Find the trials (M,) whose image each of the subjects saw three times.

    With all of NSD's sessions, these trials show 515 images.
    """
    import pandas as pd

    codes, _ = pd.factorize(np.asarray(groups))
    subject_codes, distinct = pd.factorize(np.asarray(subjects))
    times = np.zeros((codes.max() + 1, len(distinct)), np.int64)
    np.add.at(times, (codes, subject_codes), 1)
    kept: NDArray[np.bool_] = np.min(times, axis=1)[codes] >= REPEATS
    return kept


def seen_by_all_ranks(
    predictions: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    seeds: Sequence[int],
) -> "pd.DataFrame":
    """Rank every query among the images that all subjects saw three times.

    Subjects can be compared there: the same images, each as often. Parameters and columns are
    those of :func:`query_ranks`; ``set`` is ``"seen-by-all"``. No rows if there is no such image.
    """
    kept = seen_by_all(groups, subjects)
    if not kept.any():
        nothing = Scores(np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
        return rank_table("", SEEN_BY_ALL, "", "", nothing.images, None, nothing)
    targets, images, subject_of = (np.asarray(each)[kept] for each in (y_true, groups, subjects))
    estimates = np.asarray(predictions)[:, kept]
    table = query_ranks(estimates, targets, list(images), list(subject_of), seeds, (None,))
    return table.assign(set=SEEN_BY_ALL)


def hard_negative_ranks(
    predictions: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    seeds: Sequence[int],
    n_neighbours: int = 20,
) -> "pd.DataFrame":
    """Rank every query's image among itself and the ``n_neighbours`` test images most like it.

    Most like it are those whose targets have the highest cosine with its own, so which they are
    depends on the image encoder; all others if there are fewer. Parameters and columns are those of
    :func:`query_ranks`; ``set`` is ``"hard-negatives"``.
    """
    import pandas as pd

    codes, images = pd.factorize(np.asarray(groups))
    targets = mean_by_code(np.asarray(y_true, np.float32), codes)
    likeness = cosine_to_candidates(targets, targets)  # times each row's length: the same order
    np.fill_diagonal(likeness, -np.inf)
    n_others = min(n_neighbours, len(images) - 1)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :n_others]
    candidates = np.column_stack([np.arange(len(images)), nearest])
    name = hash_of(images[each].tolist() for each in candidates)
    tables = []
    for seed, estimates in seeds_and_ensemble(predictions, seeds):
        scores = score_trials(estimates, y_true, groups)
        for aggregation, queries, subject in averaged_queries(scores, np.asarray(subjects)):
            values = np.take_along_axis(queries.values, candidates[queries.target], axis=1)
            among = Scores(values, np.zeros(len(values), np.int64), images)
            image = images[queries.target]
            tables.append(
                rank_table(seed, HARD_NEGATIVES, name, aggregation, image, subject, among)
            )
    return pd.concat(tables, ignore_index=True)


def repeat_ranks(
    predictions: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    seeds: Sequence[int],
) -> "pd.DataFrame":
    """Rank means of one, two and three repeats of an image in a subject, among all test images.

    Only images that a subject saw three times are asked for, so that the numbers of repeats differ
    in nothing else. Every choice of one or two of the three is a query. Parameters and columns are
    those of :func:`query_ranks`; ``aggregation`` is ``"repeats=1"`` to ``"repeats=3"``. No rows if
    there is no such image.
    """
    import pandas as pd

    subject_of = np.asarray(subjects)
    codes, _ = pd.factorize(np.asarray(groups))
    pairs = pair_codes(codes, subject_of)
    counts = np.bincount(pairs)
    first = np.cumsum(counts) - counts
    # rows[p, r]: the trial that is repeat r of pair p of subject and image.
    in_pairs = np.argsort(pairs, kind="stable")
    rows = in_pairs[first[counts >= REPEATS, None] + np.arange(REPEATS)]
    tables = []
    for seed, estimates in seeds_and_ensemble(predictions, seeds):
        scores = score_trials(estimates, y_true, groups)
        target = scores.target[rows[:, 0]]
        name = hash_of(scores.images)
        for n in range(1, REPEATS + 1):
            for some in combinations(range(REPEATS), n):
                means = scores.values[rows[:, some]].mean(axis=1)
                queries = Scores(means, target, scores.images)
                image, subject = scores.images[target], subject_of[rows[:, 0]]
                averaged = f"repeats={n}"
                tables.append(rank_table(seed, "all", name, averaged, image, subject, queries))
    return pd.concat(tables, ignore_index=True)


def image_difficulty(table: "pd.DataFrame") -> "pd.DataFrame":
    """How hard each test image is to find, hardest first, from what :func:`query_ranks` returned.

    Columns are ``image_id``, ``mean_place`` (from 1, among all test images; mean over single trials
    of all subjects and over seeds, without their ensemble) and ``n_trials``.
    """
    import pandas as pd

    single = (table["set"] == "all") & (table["aggregation"] == "") & (table["seed"] != ENSEMBLE)
    ranks = table[single]
    by_image = ranks.groupby("image_id", sort=False)["rank"].agg(["mean", "size"])
    found = pd.DataFrame(
        {
            "mean_place": by_image["mean"].astype(np.float64) + 1,
            "n_trials": by_image["size"] // ranks["seed"].nunique(),
        }
    )
    return found.sort_values("mean_place", ascending=False, kind="stable").reset_index()


def _top1(scores: NDArray[np.float32]) -> float:
    """Share of rows of (N, N) scores whose own column comes first."""
    own = np.arange(len(scores))
    return float(np.mean(Scores(scores, own, own).ranks() < 1))
