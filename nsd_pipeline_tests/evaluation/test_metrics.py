"""Metrics from one score matrix against metrics computed name by name, row by row."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom

from nsd_pipeline.decoding import TrainingConfig
from nsd_pipeline.errors import NotEnoughDataError, NsdError
from nsd_pipeline.evaluation import (
    against_chance,
    batch_chance,
    metrics,
    name_trials,
    query_ranks,
    retrieval,
    retrieval_metrics,
    table_chance,
    top_images,
    trial_ranks,
)
from nsd_pipeline.evaluation.chance import Verdict


def naive_rank(row, own):
    ordered = sorted(row, reverse=True)
    best = ordered.index(row[own])
    worst = len(ordered) - 1 - ordered[::-1].index(row[own])
    return (best + worst) / 2


def naive_metric(name, y_pred, y_true, groups, subjects):
    """One metric of the full sets, from the definitions, sharing nothing with the others."""
    name, _, size = name.replace("_macro", "").partition("_size=")
    images = list(dict.fromkeys(groups))
    if size:
        counts = {image: list(groups).count(image) for image in images}
        images = sorted(images, key=lambda image: -counts[image])[: int(size)]
        images = [image for image in dict.fromkeys(groups) if image in images]
    keep = [i for i, image in enumerate(groups) if image in images]
    candidates = []
    for image in images:
        mean = np.mean([y_true[i] for i in keep if groups[i] == image], axis=0)
        candidates.append(mean / np.linalg.norm(mean))
    if name.endswith("subject-agg"):
        keys = [(subjects[i], groups[i]) for i in keep]
    elif name.endswith("instance-agg"):
        keys = [(None, groups[i]) for i in keep]
    else:
        keys = [(i, groups[i]) for i in keep]
    ranks = []
    for key in dict.fromkeys(keys):
        estimate = np.mean([y_pred[i] for i, k in zip(keep, keys, strict=True) if k == key], axis=0)
        ranks.append(naive_rank([estimate @ c for c in candidates], images.index(key[1])))

    def lower(values):
        return sorted(values)[(len(values) - 1) // 2]

    normalised = [1 - r / (len(images) - 1) for r in ranks]
    base = name.split("_instance-")[0].split("_subject-agg")[0]
    if base.endswith("subject-ind"):
        return np.mean(
            [
                lower([r for r, i in zip(ranks, keep, strict=True) if subjects[i] == subject])
                for subject in {subjects[i] for i in keep}
            ]
        )
    if base.startswith("top"):
        return np.mean([r < int(base[3:].split("_")[0]) for r in ranks])
    return {
        "median_retrieval_rank": lambda: lower(ranks),
        "mean_retrieval_rank": lambda: np.mean(ranks),
        "std_retrieval_rank": lambda: np.std(ranks, ddof=1),
        "inv_norm_rank_mean": lambda: np.mean(normalised),
        "inv_norm_rank_median": lambda: lower(normalised),
    }[base]()


def make_predictions(seed, n_trials=90, n_images=14, n_outputs=6):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, n_images, n_trials)
    targets = rng.standard_normal((n_images, n_outputs))[images].astype(np.float32)
    estimates = (targets + 2 * rng.standard_normal(targets.shape)).astype(np.float32)
    return estimates, targets, images * 7, rng.choice(["subj01", "subj02", "subj05"], n_trials)


@pytest.mark.parametrize("seed", range(3))
def test_every_name_agrees_with_its_definition(seed):
    arguments = make_predictions(seed)
    computed = retrieval_metrics(*arguments, set_sizes=(None, 5, 99))
    names = [n for n in computed if not n.startswith("batch") and not n.endswith("_macro")]
    # There are 14 images, so no set of 99.
    assert len(names) == 2 * 25
    for name in names:
        assert computed[name] == pytest.approx(naive_metric(name, *arguments), rel=1e-6), name


@given(st.data(), hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
def test_ranks_with_ties(data, shape):
    """Few distinct scores, so that most of them are tied."""
    values = data.draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([-1, 0, 0.5, 2])))
    target = data.draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    ranks = retrieval.Scores(values, target, np.arange(shape[1])).ranks()
    naive = [naive_rank(list(row), own) for row, own in zip(values, target, strict=True)]
    np.testing.assert_array_equal(ranks, naive)


def test_identical_candidates_are_tied():
    """A matrix product alone gives them different last bits, depending on the column."""
    rng = np.random.default_rng(0)
    for n_candidates in range(2, 65):
        image = rng.integers(0, n_candidates, n_candidates)
        candidates = rng.standard_normal((n_candidates, 768), dtype=np.float32)[image]
        estimates = rng.standard_normal((3, 768), dtype=np.float32)
        scores = retrieval.cosine_to_candidates(estimates, candidates)
        first = [list(image).index(i) for i in image]
        np.testing.assert_array_equal(scores, scores[:, first])


@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_what_metrics_do_not_depend_on(seed, factor):
    y_pred, y_true, groups, subjects = make_predictions(seed, n_trials=30)
    expected = retrieval_metrics(y_pred, y_true, groups, subjects, (None,))

    renamed = [f"{group}.png" for group in groups]
    assert retrieval_metrics(y_pred * 4, y_true / 8, renamed, subjects, (None,)) == expected

    order = np.random.default_rng(seed).permutation(len(y_pred))
    shuffled = retrieval_metrics(
        y_pred[order], y_true[order], groups[order], subjects[order], (None,), batch_size=30
    )
    whole = retrieval_metrics(y_pred, y_true, groups, subjects, (None,), batch_size=30)
    assert shuffled == pytest.approx(whole, rel=1e-6)

    table = trial_ranks(y_pred, y_true, groups, subjects, (None,))
    scale = np.where(np.arange(len(y_pred)) % 2, 1, factor).astype(np.float32)[:, None]
    scaled = trial_ranks(y_pred * scale, y_true, groups, subjects, (None,))
    assert (table["rank"] - scaled["rank"]).abs().mean() < 0.1


def test_perfect_estimates():
    _, y_true, groups, subjects = make_predictions(0)
    computed = retrieval_metrics(y_true, y_true, groups, subjects)
    assert computed["mean_retrieval_rank"] == 0
    assert computed["inv_norm_rank_mean"] == computed["top1_acc_subject-agg"] == 1
    assert not [name for name in computed if "size" in name]
    assert computed["batch_pearson_corr"] == pytest.approx(1)


def test_one_score_matrix_serves_all_names(monkeypatch):
    """What makes it fast: name by name there would be 50 of them."""
    calls = []
    original = retrieval.cosine_to_candidates

    def count(estimates, candidates):
        calls.append(estimates.shape)
        return original(estimates, candidates)

    monkeypatch.setattr(retrieval, "cosine_to_candidates", count)
    monkeypatch.setattr(metrics, "cosine_to_candidates", count)
    retrieval_metrics(*make_predictions(0), batch_size=45)
    assert calls == [(90, 6), (45, 6), (45, 6)]


def test_tables_say_what_the_metrics_say():
    arguments = make_predictions(4)
    computed = retrieval_metrics(*arguments, set_sizes=(None, 5))
    table = trial_ranks(*arguments, set_sizes=(None, 5))
    for name, suffix in (("all", ""), ("5", "_size=5")):
        rank = table.loc[table["set"] == name, "rank"]
        assert rank.mean() == pytest.approx(computed[f"mean_retrieval_rank{suffix}"])
    assert set(table.loc[table["set"] == "5", "n_candidates"]) == {5}

    top = top_images(*arguments, n_top=5)
    hits = top[top["image_id"] == top["retrieved_image_id"]]
    assert len(hits) / 90 == pytest.approx(computed["top5_acc"])
    everything = table[table["set"] == "all"].set_index("row")["rank"]
    # Ranks count from 0 as the reference's do, places from 1.
    pd.testing.assert_series_equal(
        hits.set_index("row")["place"] - 1,
        everything[hits["row"]],
        check_dtype=False,
        check_names=False,
    )
    assert (top.groupby("row")["score"].diff().dropna() <= 0).all()


def test_chance_is_what_random_estimates_get():
    rng = np.random.default_rng(0)
    n_trials, n_images, n_draws = 60, 13, 250
    groups = rng.permutation(np.arange(n_trials) % n_images)
    subjects = np.where(np.arange(n_trials) % 3, "subj01", "subj02")
    options = {"set_sizes": (None, 5), "batch_size": 16}
    draws = []
    for _ in range(n_draws):
        y_pred = rng.standard_normal((n_trials, 8), dtype=np.float32)
        y_true = rng.standard_normal((n_images, 8), dtype=np.float32)[groups]
        draws.append(retrieval_metrics(y_pred, y_true, groups, subjects, **options))
    simulated = pd.DataFrame(draws)
    queries = query_ranks(y_pred[None], y_true, groups, subjects, [0], (None, 5))
    expected = table_chance(queries) | batch_chance(groups, 16)
    assert set(expected) == set(simulated)
    for name, level in expected.items():
        error = simulated[name].sem()
        assert level == pytest.approx(simulated[name].mean(), rel=0.02, abs=4.5 * error), name


def test_rows_name_their_trials():
    arguments = make_predictions(4)
    trials = pd.DataFrame({"session": np.arange(90) // 30 + 1, "trial": np.arange(90) % 30 + 5})
    named = name_trials(trial_ranks(*arguments, set_sizes=(None, 5)), trials)
    assert list(named)[:5] == ["row", "image_id", "subject", "session", "trial"]
    assert (named["session"] == named["row"] // 30 + 1).all()
    assert (named["trial"] == named["row"] % 30 + 5).all()


def test_no_more_permutations_pass_than_the_level_allows():
    """A model that has learned what the images look like, but not which one was seen.

    Its estimates are targets of other images, the same ones in all of an image's trials, so that
    hits come image by image: a test over trials lets many more of these pass.
    """
    rng = np.random.default_rng(0)
    n_images, n_passed, n_passed_by_trials = 60, 0, 0
    targets = rng.standard_normal((n_images, 8), dtype=np.float32)
    groups = np.repeat(np.arange(n_images), 3)
    for _ in range(1000):
        mistaken = targets[rng.permutation(n_images)[groups]]
        y_pred = mistaken + 0.3 * rng.standard_normal(mistaken.shape, dtype=np.float32)
        scores = retrieval.score_trials(y_pred, targets[groups], groups)
        by_image = scores.averaged(scores.target).ranks()
        n_passed += against_chance(float(np.mean(by_image < 5)), n_images).p_value < 0.01
        by_trial = float(np.mean(scores.ranks() < 5))
        n_passed_by_trials += binom.sf(by_trial * 180 - 1, 180, 5 / n_images) < 0.01
    assert 3 <= n_passed <= 20
    assert n_passed_by_trials > 40


def test_what_so_few_images_can_show():
    assert against_chance(1.0, 7).p_value == pytest.approx(against_chance(1.0, 7).least_p_value)
    assert against_chance(1.0, 7).least_p_value == pytest.approx((5 / 7) ** 7)
    assert against_chance(0.5, 4).least_p_value == 1


def test_a_seed_is_no_reason_where_nothing_is_drawn():
    for model, why in (("FmriMlp", "the seeds 0, 1 (train"), ("ridge", "too few sessions")):
        seeds = TrainingConfig(model=model, seeds=[0, 1]).drawn_by
        verdict = Verdict("subj01", against_chance(0.1, 60), seeds, 1)
        assert f"this: {why}" in verdict.message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad):
    y_pred, y_true, groups, subjects = make_predictions(0)
    for which, name in ((0, "estimates"), (1, "targets")):
        arrays = [y_pred.copy(), y_true.copy()]
        arrays[which][3, 0] = bad
        with pytest.raises(NsdError, match=f"1 of 90 {name}.*row 3"):
            retrieval_metrics(*arrays, groups, subjects)
        with pytest.raises(NsdError, match=f"1 of 90 {name}.*row 3"):
            trial_ranks(*arrays, groups, subjects)
        with pytest.raises(NsdError, match=f"1 of 90 {name}.*row 3"):
            metrics.BatchMetrics().update(*arrays)
    y_pred[3] = 3e38
    with pytest.raises(NsdError, match=r"1 of 90 scores.*row 3"), np.errstate(all="ignore"):
        retrieval_metrics(y_pred, y_true, groups, subjects)


def test_no_trials():
    y_pred, y_true, groups, subjects = make_predictions(0)
    with pytest.raises(NotEnoughDataError, match="test split is empty"):
        retrieval_metrics(y_pred[:0], y_true[:0], groups[:0], subjects[:0])
