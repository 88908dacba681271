"""Retrieval trial by trial, as tables: the rank of the right image, and the first images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nsd_pipeline.evaluation.retrieval import retrieval_sets, score_trials


def trial_ranks(
    y_pred: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    set_sizes: Sequence[int | None] = (None, 250),
) -> pd.DataFrame:
    """Rank of the right image for every trial, in every retrieval set that holds it.

    Parameters
    ----------
    y_pred, y_true, groups, subjects, set_sizes
        As :func:`retrieval_metrics` takes them.

    Returns
    -------
    DataFrame
        ``row`` (of the arguments), ``image_id``, ``subject``, ``set`` (``"all"`` or the size that
        was asked for), ``n_candidates`` and ``rank`` (0-based, halves where scores are tied).

    Raises
    ------
    NotEnoughDataError
        If there are no trials.
    NsdError
        If an estimate or a target is not finite.
    """
    scores = score_trials(y_pred, y_true, groups)
    subject_of = np.asarray(subjects)
    tables = [
        pd.DataFrame(
            {
                "row": rows,
                "image_id": some.images[some.target],
                "subject": subject_of[rows],
                "set": "all" if size is None else str(size),
                "n_candidates": len(some.images),
                "rank": some.ranks(),
            }
        )
        for size, some, rows in retrieval_sets(scores, set_sizes)
    ]
    return pd.concat(tables, ignore_index=True)


def top_images(
    y_pred: ArrayLike,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    n_top: int = 10,
) -> pd.DataFrame:
    """List the images that come first for every trial, among all distinct ones.

    Parameters
    ----------
    y_pred, y_true, groups, subjects
        As :func:`retrieval_metrics` takes them.
    n_top
        Images for each trial; all of them if there are fewer.

    Returns
    -------
    DataFrame
        ``row`` (of the arguments), ``image_id`` (that was shown), ``subject``, ``place`` (from 1),
        ``retrieved_image_id`` and ``score``, best first; tied images by first appearance.

    Raises
    ------
    NotEnoughDataError
        If there are no trials.
    NsdError
        If an estimate or a target is not finite.
    """
    scores = score_trials(y_pred, y_true, groups)
    n_trials, n_images = scores.values.shape
    n_top = min(n_top, n_images)
    columns = np.argsort(-scores.values, axis=1, kind="stable")[:, :n_top]
    row = np.repeat(np.arange(n_trials), n_top)
    return pd.DataFrame(
        {
            "row": row,
            "image_id": scores.images[scores.target][row],
            "subject": np.asarray(subjects)[row],
            "place": np.tile(np.arange(1, n_top + 1), n_trials),
            "retrieved_image_id": scores.images[columns.ravel()],
            "score": np.take_along_axis(scores.values, columns, axis=1).ravel(),
        }
    )


def name_trials(table: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Add to each row of a table which trial it is about.

    Parameters
    ----------
    table
        What :func:`trial_ranks` or :func:`top_images` returned: ``row`` counts the trials from 0.
    trials
        The trials (M) in the order of the estimates: ``session`` and ``trial``, its index within
        the session.

    Returns
    -------
    DataFrame
        The table with ``session`` and ``trial`` after ``subject``.
    """
    named = table.copy()
    after = list(named).index("subject") + 1
    for place, name in enumerate(("session", "trial"), after):
        named.insert(place, name, trials[name].to_numpy(np.int64)[named["row"]])
    return named
