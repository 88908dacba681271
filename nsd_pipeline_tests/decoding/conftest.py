"""A small cohort whose betas know what was seen, and one whose betas do not."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from nsd_pipeline.decoding import HeldRows, Trials


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Matrices are tiny here, and threads that wait for each other cost more than they give."""
    import torch  # noqa: F401  # its thread pool has to exist to be limited

    with threadpool_limits(1):
        yield


def make_cohort(*, signal: float, n_trials: int = 400, seed: int = 1) -> Trials:
    """Two subjects, 80 images, 40 vertices; `signal` is the share of it in the betas."""
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal((80, 12), dtype=np.float32)
    image = rng.integers(0, 80, n_trials)
    mixing = rng.standard_normal((12, 40))
    betas = signal * targets[image] @ mixing + rng.standard_normal((n_trials, 40))
    number = np.arange(n_trials)
    split = np.where(image < 20, "test", np.where(number % 5 == 0, "val", "train"))
    trials = pd.DataFrame(
        {
            "subject": np.where(number < n_trials // 2, "subj01", "subj02"),
            "session": 1,
            "trial": number % (n_trials // 2),
            "image_id": image + 1000,
            "split": split,
        }
    )
    betas = (betas / betas.std(axis=0)).astype(np.float32)
    return Trials(
        rows=HeldRows(betas),
        first_row=number,
        n_times=1,
        targets=targets,
        target_index=image,
        table=trials,
    )


@pytest.fixture(scope="session")
def cohort():
    return make_cohort(signal=1.0)


@pytest.fixture(scope="session")
def noise():
    return make_cohort(signal=0.0)
