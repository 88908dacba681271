"""Metrics of models that differ in their seeds only, and of their ensemble."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nsd_pipeline.evaluation.chance import chance_levels
from nsd_pipeline.evaluation.metrics import retrieval_metrics
from nsd_pipeline.evaluation.retrieval import Floats


def ensemble(by_seed: Floats) -> Floats:
    """Mean (M, D) of the seeds' estimates (S, M, D), each scaled to unit length.

    One seed is its own ensemble, and stays as it is.
    """
    if len(by_seed) == 1:
        only: Floats = by_seed[0]
        return only
    lengths: Floats = np.linalg.norm(by_seed, axis=2, keepdims=True)
    mean: Floats = (by_seed / np.maximum(lengths, np.finfo(np.float32).tiny)).mean(axis=0)
    return mean


def seeds_table(
    by_seed: Floats,
    y_true: ArrayLike,
    groups: Sequence[Any],
    subjects: Sequence[Any],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """Every metric of :func:`retrieval_metrics`: mean over seeds, each seed's, the ensemble's.

    Parameters
    ----------
    by_seed
        Estimates (S, M, D) of each seed's model.
    y_true, groups, subjects
        As :func:`retrieval_metrics` takes them.
    seeds
        Names of the seeds (S).

    Returns
    -------
    DataFrame
        ``metric``, ``value`` (mean over seeds), ``chance``, ``ratio`` (value / chance),
        ``sd_of_seeds`` (of a sample; NaN for one seed), ``ensemble``, and ``seed_<k>`` for each.
    """
    columns = {
        f"seed_{seed}": retrieval_metrics(estimates, y_true, groups, subjects)
        for seed, estimates in zip(seeds, by_seed, strict=True)
    }
    each = pd.DataFrame(columns)
    chance = pd.Series(chance_levels(groups, subjects)).reindex(each.index)
    value = each.mean(axis=1)
    together = retrieval_metrics(ensemble(by_seed), y_true, groups, subjects)
    table = pd.DataFrame(
        {
            "value": value,
            "chance": chance,
            # No ratio to a chance level of 0.
            "ratio": value / chance.where(chance != 0),
            "sd_of_seeds": each.std(axis=1, ddof=1),
            "ensemble": pd.Series(together),
        }
    ).join(each)
    return table.rename_axis("metric").reset_index()
