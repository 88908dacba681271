"""Ridge regression is scikit-learn's, whichever way it is computed, and chooses on validation."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from nsd_pipeline.decoding import (
    FmriRidge,
    HeldRows,
    StoredRows,
    TrainingConfig,
    Trials,
    fit_ridge,
    load_model,
    predict,
    ridge,
    save_model,
    vertex_contributions,
)
from nsd_pipeline.errors import NotEnoughDataError, NsdError
from nsd_pipeline_tests.decoding.conftest import make_cohort
from nsd_pipeline_tests.decoding.readers import sessions_of

ALPHAS = [1.0, 10.0, 100.0, 1000.0, 10_000.0]


def values(trials):
    """fMRI (N, T x V) of trials in memory."""
    return trials.rows.values[trials.places()].reshape(trials.n_trials, -1).astype(np.float64)


def by_sklearn(train, validation, alphas, *, per_target=False):
    """Weights (D, T x V), intercepts and penalties: a model for each, the best on validation."""
    models = [Ridge(alpha=alpha).fit(values(train), train.y_true()) for alpha in alphas]
    errors = np.array(
        [np.square(m.predict(values(validation)) - validation.y_true()).sum(axis=0) for m in models]
    )
    if not per_target:
        errors[:] = errors.sum(axis=1, keepdims=True)
    best, column = errors.argmin(axis=0), np.arange(train.n_outputs)
    weights = np.array([m.coef_ for m in models])[best, column]
    return weights, np.array([m.intercept_ for m in models])[best, column], np.array(alphas)[best]


def windows(n_trials=120, n_times=3, n_vertices=30):
    """Windows that overlap, with a mean that is far from zero."""
    rng = np.random.default_rng(3)
    number = np.arange(n_trials)
    rows = rng.standard_normal((n_trials + n_times, n_vertices), np.float32) + 50
    targets = rows[1 : n_trials + 1, :6] + rng.standard_normal((n_trials, 6), np.float32)
    split = np.where(number % 4 == 0, "val", "train")
    table = pd.DataFrame({"subject": "subj01", "session": 1, "image_id": number, "split": split})
    return Trials(
        rows=HeldRows(rows),
        first_row=number,
        n_times=n_times,
        targets=targets,
        target_index=number,
        table=table,
    )


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 17 trials of 40 values, and blocks of 7 columns."""
    monkeypatch.setattr(ridge, "_CHUNK_BYTES", 17 * 8 * 40)
    monkeypatch.setattr(ridge, "_COLUMNS", 7)


DATA = {
    "more betas than vertices": make_cohort(signal=1.0),
    "fewer": make_cohort(signal=1.0, n_trials=40),
    "more windows than values": windows(n_vertices=20),
    "fewer windows": windows(n_vertices=40),
}


@pytest.mark.parametrize("per_target", [False, True])
@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_weights_and_penalties_are_scikit_learn_s(small_chunks, data, per_target):
    train, validation = data.split("train"), data.split("val")
    found = fit_ridge(train, validation, alphas=ALPHAS, per_target=per_target, device="cpu")
    weights, intercept, alphas = by_sklearn(train, validation, ALPHAS, per_target=per_target)
    np.testing.assert_array_equal(found.alphas, alphas)
    assert per_target == (len(set(alphas)) > 1)
    ours = found.model.weight.detach().numpy().reshape(len(weights), -1)
    np.testing.assert_allclose(ours, weights, rtol=1e-6, atol=1e-6 * np.abs(weights).max())
    np.testing.assert_allclose(found.model.bias.detach(), intercept, rtol=1e-5, atol=1e-6)

    estimates = values(validation) @ weights.T + intercept
    r2 = r2_score(validation.y_true(), estimates, multioutput="variance_weighted")
    assert found.scores["val/r2"] == pytest.approx(r2, rel=1e-5)
    assert list(found.history["alpha"]) == ALPHAS[::-1]
    assert found.history["chosen"].sum() == train.n_outputs
    if not per_target:
        row = found.history[found.history["chosen"] > 0].iloc[0]
        assert row["val/r2"] == found.history["val/r2"].max()
        assert found.scores == {name: row[name] for name in found.scores}


@pytest.mark.parametrize("n_trials", [400, 40])
def test_rows_that_stay_in_the_store_give_the_same_weights(small_chunks, n_trials):
    data = make_cohort(signal=1.0, n_trials=n_trials)
    stored = replace(data, rows=StoredRows(list(sessions_of(data).values()), 10, window=20))
    one, other = (
        fit_ridge(each.split("train"), each.split("val"), alphas=ALPHAS, device="cpu").model
        for each in (data, stored)
    )
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-7, atol=0)


def test_both_forms_have_one_solution(small_chunks, cohort):
    splits = cohort.split("train"), cohort.split("val")
    one, other = (form(*splits, torch.device("cpu")) for form in (ridge._Primal, ridge._Dual))
    coefficients = one.solve(3.0), other.solve(3.0)
    torch.testing.assert_close(one.weights(coefficients[0]), other.weights(coefficients[1]))
    torch.testing.assert_close(one.estimate(coefficients[0]), other.estimate(coefficients[1]))


def test_a_fitted_model_is_one_like_any_other(cohort, tmp_path):
    result = fit_ridge(cohort.split("train"), cohort.split("val"), alphas=ALPHAS, device="cpu")
    save_model(tmp_path, result.model, TrainingConfig(model="ridge"))
    loaded, test = load_model(tmp_path), cohort.split("test")
    assert isinstance(loaded, FmriRidge)
    assert loaded.settings == result.model.settings
    estimates = predict(loaded, test)
    np.testing.assert_array_equal(estimates, predict(result.model, test))
    assert r2_score(test.y_true(), estimates) > 0.5  # of images it never saw
    unit = test.y_true() / np.linalg.norm(test.y_true(), axis=1, keepdims=True)
    by_hand = (unit @ loaded.weight.detach().numpy()[:, 0] * values(test)).mean(axis=0)
    np.testing.assert_allclose(vertex_contributions(loaded, test), by_hand, rtol=1e-4, atol=1e-6)


def test_the_end_of_the_grid_is_told(cohort, caplog):
    train, validation = cohort.split("train"), cohort.split("val")
    with caplog.at_level(logging.WARNING):
        fit_ridge(train, validation, alphas=[1e-3, 10.0, 1e5], device="cpu")
    assert not caplog.messages
    fit_ridge(train, validation, alphas=[1e4, 1e5], device="cpu")
    (message,) = caplog.messages
    assert "alpha 10000, the smallest of `alphas`, for 12 of the 12 values" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_not_finite_is_refused(cohort, split):
    broken = cohort.rows.values.copy()
    broken[cohort.split(split).first_row[0], 3] = np.nan
    data = replace(cohort, rows=HeldRows(broken))
    with pytest.raises(NsdError, match="finite"):
        fit_ridge(data.split("train"), data.split("val"), alphas=ALPHAS, device="cpu")


def test_too_little_is_refused_before_it_is_tried(cohort, monkeypatch):
    train, validation = cohort.split("train"), cohort.split("val")
    one = validation.select(np.arange(validation.n_trials) == 0)
    with pytest.raises(NotEnoughDataError, match="1 to validate on"):
        fit_ridge(train, one, alphas=ALPHAS, device="cpu")
    for alphas in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="above zero"):
            fit_ridge(train, validation, alphas=alphas, device="cpu")
    monkeypatch.setattr(ridge, "available_bytes", lambda: 10_000)
    with pytest.raises(NsdError, match="memory are free"):
        fit_ridge(train, validation, alphas=ALPHAS, device="cpu")


def test_equations_without_a_solution_are_refused(cohort):
    same = np.repeat(cohort.rows.values[:, :1], 40, axis=1)
    data = replace(cohort, rows=HeldRows(same))
    with pytest.raises(NsdError, match="alpha 1e-30"):
        fit_ridge(data.split("train"), data.split("val"), alphas=[1.0, 1e-30], device="cpu")
