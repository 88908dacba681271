"""Retrieval as tables: the rank of the right image for every query, and the first images."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.evaluation.retrieval import (
    Floats,
    Integers,
    Scores,
    averaged_queries,
    retrieval_sets,
    score_trials,
)
from nsd_pipeline.evaluation.seeds import seeds_and_ensemble

if TYPE_CHECKING:
    import pandas as pd


def trial_ranks(
    y_pred: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    set_sizes: Sequence[int | None] = (None, 250),
) -> "pd.DataFrame":
    """Rank of the right image for every trial, in every retrieval set that holds it.

    Takes what :func:`retrieval_metrics` does, and raises the same errors. Columns are ``row`` (of
    the arguments), ``image_id``, ``subject``, ``set`` (``"all"`` or the size that was asked for),
    ``n_candidates`` and ``rank`` (0-based, halves where scores are tied).
    """
    import pandas as pd

    scores = score_trials(y_pred, y_true, groups)
    subject_of = np.asarray(subjects)
    tables = [
        pd.DataFrame(
            {
                "row": rows,
                "image_id": some.images[some.target],
                "subject": subject_of[rows],
                "set": name,
                "n_candidates": len(some.images),
                "rank": some.ranks(),
            }
        )
        for name, some, rows in retrieval_sets(scores, set_sizes)
    ]
    return pd.concat(tables, ignore_index=True)


def query_ranks(
    predictions: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    seeds: Sequence[int],
    set_sizes: Sequence[int | None] = (None, 250),
) -> "pd.DataFrame":
    """Rank of the right image for every query of an experiment: all that its statistics need.

    A query is what is ranked: a trial's estimate, or the mean of several trials'. The table is what
    intervals and comparisons of experiments start from, long after the estimates are gone. With 3
    seeds, 10,000 trials and 8 subjects it has some 100,000 rows, below 1 MB as Parquet.

    Takes the estimates (S, M, D) of the models of S seeds, and what :func:`retrieval_metrics` does,
    whose errors it raises. Columns are ``seed`` (as text; ``"ensemble"`` for the mean of the seeds'
    unit-length estimates, where there are several), ``set`` (as in :func:`trial_ranks`),
    ``n_candidates``, ``candidates`` (which images these were, as a hash), ``aggregation`` (what
    names of metrics say: ``""``, ``"instance-agg"``, ``"subject-agg"``), ``image_id``, ``subject``
    (null where all subjects' estimates were averaged) and ``rank`` (0-based, halves where scores
    are tied).
    """
    import pandas as pd

    subject_of = np.asarray(subjects)
    tables = []
    for seed, estimates in seeds_and_ensemble(predictions, seeds):
        scores = score_trials(estimates, y_true, groups)
        for name, some, rows in retrieval_sets(scores, set_sizes):
            candidates = hash_of(some.images)
            for aggregation, queries, subject in averaged_queries(some, subject_of[rows]):
                image = queries.images[queries.target]
                tables.append(
                    rank_table(seed, name, candidates, aggregation, image, subject, queries)
                )
    return pd.concat(tables, ignore_index=True)


def rank_table(
    seed: str,
    set_name: str,
    candidates: str,
    aggregation: str,
    images: NDArray[Any],
    subjects: NDArray[Any] | None,
    scores: Scores,
) -> "pd.DataFrame":
    """Put the ranks of some queries into the columns that :func:`query_ranks` documents."""
    import pandas as pd

    subject = pd.array([None] * len(images) if subjects is None else subjects, dtype="str")
    columns = {
        "seed": seed,
        "set": set_name,
        "n_candidates": scores.values.shape[1],
        "candidates": candidates,
        "aggregation": aggregation,
        "image_id": images,
        "subject": subject,
        "rank": scores.ranks().astype(np.float32),  # halves: exact
    }
    return pd.DataFrame(columns)


def hash_of(names: Iterable[Any]) -> str:
    """Hash of images, or of other names, whatever their order."""
    text = "\n".join(sorted(map(str, names)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def top_images(
    y_pred: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    n_top: int = 10,
) -> "pd.DataFrame":
    """List the ``n_top`` images that come first for every trial, among all distinct ones.

    Takes what :func:`retrieval_metrics` does, and raises the same errors. Columns are ``row`` (of
    the arguments), ``image_id`` (that was shown), ``subject``, ``place`` (from 1),
    ``retrieved_image_id`` and ``score``, best first; tied images by first appearance. All images if
    there are fewer.
    """
    import pandas as pd

    scores = score_trials(y_pred, y_true, groups)
    row, place, column = best_first(scores.values, n_top)
    return pd.DataFrame(
        {
            "row": row,
            "image_id": scores.images[scores.target][row],
            "subject": np.asarray(subjects)[row],
            "place": place,
            "retrieved_image_id": scores.images[column],
            "score": scores.values[row, column],
        }
    )


def best_first(scores: Floats, n_top: int) -> tuple[Integers, Integers, Integers]:
    """Row, place (from 1) and column of each row's ``n_top`` highest scores, or all, of (M, N).

    Tied ones stay in order.
    """
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :n_top]
    row, place = np.indices(columns.shape)
    return row.ravel(), place.ravel() + 1, columns.ravel()


def name_trials(table: "pd.DataFrame", trials: "pd.DataFrame") -> "pd.DataFrame":
    """Add ``session`` and ``trial`` (its index within the session) to each row, after ``subject``.

    ``table`` is what :func:`trial_ranks` or :func:`top_images` returned, whose ``row`` counts the
    ``trials`` (M) from 0, in the order of the estimates.
    """
    named = table.copy()
    after = list(named).index("subject") + 1
    for place, name in enumerate(("session", "trial"), after):
        named.insert(place, name, trials[name].to_numpy(np.int64)[named["row"]])
    return named
