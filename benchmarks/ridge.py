"""Rows of ridge regression: beside scikit-learn on some sessions, and on a whole subject."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from benchmarks import data
from benchmarks.harness import Inputs, Row, Side, Values, faster
from benchmarks.worker import Outcome, Repeat, Settings
from nsd_pipeline.nsd.layout import N_VERTICES

if TYPE_CHECKING:
    from nsd_pipeline.decoding import Trials

_ALPHAS: Final = (1e3, 1e4, 1e5, 1e6, 1e7)
_OURS: Final = "ours"
_SKLEARN: Final = "scikit-learn, Ridge for each penalty"
_SKLEARN_CV: Final = "scikit-learn, RidgeCV (leave one out)"


@contextmanager
def _betas(
    _folder: Path, quick: bool, *, n_sessions: int, alphas: tuple[float, ...]
) -> Iterator[Inputs]:
    n_trials = 300 if quick else 750 * n_sessions
    settings = {"n_trials": n_trials, "n_vertices": 2048 if quick else N_VERTICES}
    yield Inputs(
        {**settings, "alphas": alphas},
        work=f"{n_trials} betas, a fifth for validation, {len(alphas)} penalties",
    )


def _splits(settings: Settings) -> "tuple[Trials, Trials]":
    """Betas that are a tenth signal, of as many images."""
    from nsd_pipeline.decoding import HeldRows, Trials

    n_trials = settings["n_trials"]
    rng = np.random.default_rng(0)
    betas = rng.standard_normal((n_trials, settings["n_vertices"]), np.float32)
    targets = data.embeddings(n_trials)
    betas[:, : targets.shape[1]] += 0.3 * targets[:, : betas.shape[1]]
    number = np.arange(n_trials)
    split = np.where(number % 5 == 0, "val", "train")
    table = pd.DataFrame({"subject": "subj01", "session": 1, "image_id": number, "split": split})
    trials = Trials(
        rows=HeldRows(betas),
        first_row=number,
        n_times=1,
        targets=targets,
        target_index=number,
        table=table,
    )
    return trials.split("train"), trials.split("val")


def _outcome(y_pred: Any, alpha: float) -> Outcome:
    return Outcome({"estimates": np.asarray(y_pred), "log alpha": np.log10([1, alpha])})


def fit(settings: Settings) -> Repeat:
    """`decoding.fit_ridge`, and the estimates of the validation trials."""
    from nsd_pipeline.decoding import fit_ridge, predict

    train, validation = _splits(settings)

    def repeat() -> Outcome:
        found = fit_ridge(train, validation, alphas=settings["alphas"], device="cpu")
        return _outcome(predict(found.model, validation), found.alphas[0])

    return repeat


def _arrays(settings: Settings) -> list[Any]:
    """FMRI and targets to fit, and to validate on, as float32."""
    return [
        values
        for trials in _splits(settings)
        for values in (trials.rows.values[trials.first_row], trials.y_true())  # type: ignore[union-attr]
    ]


def fit_each(settings: Settings) -> Repeat:
    """scikit-learn's Ridge with every penalty; the one with the least error on validation."""
    from sklearn.linear_model import Ridge

    x, y, x_validation, y_validation = _arrays(settings)

    def repeat() -> Outcome:
        least, best = np.inf, (x, 0.0)
        for alpha in settings["alphas"]:
            estimates = Ridge(alpha=alpha).fit(x, y).predict(x_validation)
            error = np.square(estimates - y_validation).sum()
            if error < least:
                least, best = error, (estimates, alpha)
        return _outcome(*best)

    return repeat


def fit_cv(settings: Settings) -> Repeat:
    """scikit-learn's RidgeCV on the trials to fit, which leaves out one after the other."""
    from sklearn.linear_model import RidgeCV

    x, y, x_validation, _ = _arrays(settings)

    def repeat() -> Outcome:
        model = RidgeCV(alphas=settings["alphas"]).fit(x, y)
        return _outcome(model.predict(x_validation), model.alpha_)

    return repeat


def _same_penalty(expected: Values, found: Values) -> dict[str, float]:
    ours, its = (values["log alpha"][1] for values in (expected, found))
    return {"x our penalty": float(10 ** (its - ours))}


ROWS: Final = (
    Row(
        "ridge",
        "Ridge regression of four sessions",
        partial(_betas, n_sessions=4, alphas=_ALPHAS),
        (
            Side(_OURS, fit),
            Side(_SKLEARN, fit_each),
            Side(_SKLEARN_CV, fit_cv, agreement=_same_penalty),
        ),
        (
            faster(_OURS, _SKLEARN, 1, "times faster than Ridge"),
            faster(_OURS, _SKLEARN_CV, 1, "times faster than RidgeCV"),
        ),
        repetitions=2,
        tolerance=1e-4,
        limit="Ours computes in float64, scikit-learn's in float32 here, as its input is.",
    ),
    Row(
        "ridge-subject",
        "Ridge regression of one subject's 30 sessions",
        partial(_betas, n_sessions=30, alphas=_ALPHAS[1:4]),
        (Side(_OURS, fit),),
        repetitions=1,
        warm_up=False,
        patience=3600,
    ),
)
