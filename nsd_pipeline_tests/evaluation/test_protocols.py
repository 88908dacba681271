"""Other ways to test the same estimates, against their definitions written out as loops."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from nsd_pipeline.evaluation import (
    drawn_retrieval,
    hard_negative_ranks,
    image_difficulty,
    metric_intervals,
    query_ranks,
    repeat_ranks,
    seen_by_all,
    seen_by_all_ranks,
    table_chance,
)
from nsd_pipeline.evaluation.seeds import ENSEMBLE


def make_experiment(seed=0, noise=2.0, n_seeds=2):
    """Two subjects; the first saw images 0..19 three times, the second 10..19 only twice or so."""
    rng = np.random.default_rng(seed)
    pairs = [("subj01", i) for i in range(20) for _ in range(3)]
    pairs += [("subj02", i) for i in range(20) for _ in range(3 if i < 10 else i % 3)]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    subjects, images = (np.array(each) for each in zip(*pairs, strict=True))
    targets = rng.standard_normal((20, 6), np.float32)[images]
    estimates = targets + noise * rng.standard_normal((n_seeds, *targets.shape), np.float32)
    return estimates, targets, (images * 3).tolist(), subjects.tolist(), [0, 1][:n_seeds]


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_draws_of_the_literature_in_both_directions():
    estimates, targets, images, subjects, seeds = make_experiment()
    found = drawn_retrieval(estimates, targets, images, subjects, seeds, n_images=99, n_draws=3)
    assert set(found["seed"]) == {"0", "1", ENSEMBLE}
    # All images are drawn, so every draw is the whole set, which a loop can do as well.
    assert (found["draw_sd"] < 1e-9).all()
    for _, row in found[found["seed"] == "1"].iterrows():
        trials = [i for i, subject in enumerate(subjects) if subject == row["subject"]]
        ids = sorted({images[i] for i in trials})
        brains = [np.mean([estimates[1][i] for i in trials if images[i] == k], axis=0) for k in ids]
        wanted = [targets[images.index(k)] for k in ids]
        pairs = (brains, wanted) if row["direction"] == "brain to image" else (wanted, brains)
        first = [np.argmax([cosine(query, each) for each in pairs[1]]) for query in pairs[0]]
        assert row["value"] == pytest.approx(np.mean(first == np.arange(len(ids))))
        assert row["chance"] == 1 / row["n_images"] == 1 / len(ids)

    few = drawn_retrieval(estimates, targets, images, subjects, seeds, n_images=4, n_draws=50)
    assert (few["draw_sd"] > 0).all()
    assert few["value"].mean() > found["value"].mean()
    guessed = np.random.default_rng(1).standard_normal(estimates.shape, np.float32)
    guess = drawn_retrieval(guessed, targets, images, subjects, seeds, n_images=4, n_draws=50)
    assert guess["value"].mean() == pytest.approx(0.25, abs=0.08)
    # Neither the order of the trials matters, nor how long a seed's estimates are.
    scaled = estimates[:, ::-1] * np.array([1, 4], np.float32)[:, None, None]
    again = drawn_retrieval(
        scaled, targets[::-1], images[::-1], subjects[::-1], seeds, n_images=4, n_draws=50
    )
    pd.testing.assert_frame_equal(few, again)


def test_images_that_all_saw_three_times():
    estimates, targets, images, subjects, seeds = make_experiment()
    kept = seen_by_all(images, subjects)
    assert set(np.array(images)[kept]) == set(range(0, 30, 3))
    table = seen_by_all_ranks(estimates, targets, images, subjects, seeds)
    assert set(table["n_candidates"]) == {10}
    assert set(table["image_id"]) == set(range(0, 30, 3))
    names = metric_intervals(table, n_draws=10)["metric"]
    assert "top1_acc_subject-agg_set=seen-by-all" in set(names)
    twice = [i for i in range(len(images)) if subjects[i] == "subj02" and images[i] >= 30]
    nobody = seen_by_all_ranks(
        estimates[:, twice],
        targets[twice],
        [images[i] for i in twice],
        [subjects[i] for i in twice],
        seeds,
    )
    assert len(nobody) == 0
    assert list(pd.concat([table, nobody]).dtypes) == list(table.dtypes)


def test_hard_negatives_are_the_nearest_images():
    estimates, targets, images, subjects, seeds = make_experiment()
    table = hard_negative_ranks(estimates, targets, images, subjects, seeds, n_neighbours=4)
    assert set(table["n_candidates"]) == {5}
    ranks = table.loc[(table["seed"] == "0") & (table["aggregation"] == ""), "rank"]
    distinct = dict(zip(images, targets, strict=True))
    for i, rank in enumerate(ranks):
        own = distinct[images[i]]
        others = sorted(
            (each for k, each in distinct.items() if k != images[i]),
            key=lambda each: -cosine(own, each),
        )[:4]
        score = cosine(estimates[0][i], own)
        assert rank == sum(cosine(estimates[0][i], each) > score for each in others)
    everything = query_ranks(estimates, targets, images, subjects, seeds, (None,))
    every_other = hard_negative_ranks(estimates, targets, images, subjects, seeds, n_neighbours=99)
    assert every_other["rank"].tolist() == everything["rank"].tolist()
    # Neighbours of another encoder are other candidates.
    other = hard_negative_ranks(estimates, targets[::-1], images[::-1], subjects, seeds)
    assert set(other["candidates"]).isdisjoint(table["candidates"])


def test_repeats_are_averaged_in_every_choice():
    estimates, targets, images, subjects, seeds = make_experiment()
    table = repeat_ranks(estimates, targets, images, subjects, seeds)
    first = table[table["seed"] == "0"]
    assert first["aggregation"].value_counts().to_dict() == {
        "repeats=1": 90,
        "repeats=2": 90,
        "repeats=3": 30,
    }
    distinct = dict(zip(images, targets, strict=True))
    pairs = list(zip(subjects, images, strict=True))
    for n in (1, 2, 3):
        expected = []
        for pair in set(pairs):
            trials = [i for i, each in enumerate(pairs) if each == pair]
            if len(trials) == 3:
                for some in combinations(trials, n):
                    mean = estimates[0][list(some)].mean(axis=0)
                    own = cosine(mean, distinct[pair[1]])
                    better = sum(cosine(mean, each) > own + 1e-6 for each in distinct.values())
                    expected.append((*pair, better))
        part = first[first["aggregation"] == f"repeats={n}"]
        found = zip(part["subject"], part["image_id"], part["rank"], strict=True)
        assert sorted(found) == sorted(expected)
    accuracy = metric_intervals(table).set_index("metric")["value"]
    one, two, three = (accuracy[f"top1_acc_repeats={n}"] for n in (1, 2, 3))
    assert one < two < three


def test_chance_of_tables():
    experiment = make_experiment()
    hard = table_chance(hard_negative_ranks(*experiment, n_neighbours=4))
    assert hard["top1_acc_set=hard-negatives"] == pytest.approx(1 / 5)
    assert table_chance(repeat_ranks(*experiment))["top5_acc_repeats=2"] == pytest.approx(5 / 20)


def test_difficulty_of_images():
    table = query_ranks(*make_experiment())
    found = image_difficulty(table)
    _, _, images, _, _ = make_experiment()
    assert found["n_trials"].sum() == len(images)
    hardest = found.iloc[0]
    trials = table[(table["image_id"] == hardest["image_id"]) & (table["seed"] != ENSEMBLE)]
    places = trials.loc[trials["aggregation"] == "", "rank"] + 1
    assert hardest["mean_place"] == pytest.approx(places.mean())
    assert found["mean_place"].is_monotonic_decreasing
