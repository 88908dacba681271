"""Models that differ in their seeds only, one after the other, and their ensemble."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike

from nsd_pipeline.evaluation.retrieval import Floats

if TYPE_CHECKING:
    import pandas as pd

ENSEMBLE: Final = "ensemble"
"""What ``seed`` is where the estimates of several seeds were put together."""


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


def seeds_and_ensemble(
    predictions: ArrayLike, seeds: Sequence[int]
) -> Iterator[tuple[str, Floats]]:
    """Go through the names and estimates (M, D) of seeds, then of their ensemble if several."""
    estimates = np.asarray(predictions, np.float32)
    if estimates.ndim != 3 or len(estimates) != len(seeds):
        raise ValueError(
            f"predictions {estimates.shape} are (S, M, D) for S seeds (here {len(seeds)})"
        )
    yield from zip(map(str, seeds), estimates, strict=True)
    if len(seeds) > 1:
        yield ENSEMBLE, ensemble(estimates)


def over_seeds(values: "pd.DataFrame") -> "pd.DataFrame":
    """Put the metrics (rows) of seeds (columns), and perhaps of their `ENSEMBLE`, together.

    Columns are ``value`` (mean over seeds), ``sd_of_seeds`` (of a sample; NaN for one seed),
    ``ensemble`` (of one seed: its value) and ``seed_<k>`` for each, with the metrics as index.
    """
    import pandas as pd

    each = values.drop(columns=ENSEMBLE, errors="ignore")
    mean = each.mean(axis=1)
    found = {
        "value": mean,
        "sd_of_seeds": each.std(axis=1, ddof=1),
        "ensemble": values.get(ENSEMBLE, mean),
    }
    return pd.DataFrame(found).join(each.add_prefix("seed_"))
