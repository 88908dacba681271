"""Trials that stay in the store train as they would from memory, in little of it."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsd_pipeline.decoding import predict, stream_trials, train, vertex_contributions, window_of
from nsd_pipeline.decoding.prefetch import READ_AHEAD, Plan
from nsd_pipeline.decoding.stream import shuffled
from nsd_pipeline.nsd.errors import ArtifactError, NotEnoughDataError
from nsd_pipeline_tests.decoding.test_training import (
    CONFIG,
    assert_same_training,
    fit,
    score,
)

CHUNK = 10


class Store:
    """Serves the betas of a cohort in memory as sessions, and remembers what was read."""

    def __init__(self, data):
        self.data, self.reads = data, []
        self.row = {
            key: row
            for row, key in enumerate(
                data.trials[["subject", "session", "trial"]].itertuples(index=False, name=None)
            )
        }

    def read(self, subject, session, trials, out):
        assert (np.diff(trials) > 0).all()
        assert len(set(trials // CHUNK)) == 1
        self.reads.append((subject, session, trials[0] // CHUNK))
        out[:] = self.data.betas[[self.row[subject, session, trial] for trial in trials]]

    def stream(self, **options):
        options = {"chunk_trials": CHUNK, "window": 60} | options
        ids = np.arange(len(self.data.targets)) + 1000
        return stream_trials(self.data.trials, 40, self.read, ids, self.data.targets, **options)


@pytest.fixture
def store(cohort):
    return Store(cohort)


def test_with_room_for_all_it_is_the_same_training(store, cohort):
    streamed = fit(store.stream(window=400))
    in_memory = fit(cohort)
    assert_same_training(streamed, in_memory)
    test = store.stream().split("test")
    assert np.array_equal(
        predict(streamed.model, test), predict(in_memory.model, cohort.split("test"))
    )
    np.testing.assert_array_equal(
        vertex_contributions(streamed.model, test),
        vertex_contributions(in_memory.model, cohort.split("test")),
    )


def test_a_small_window_finds_the_signal_and_reads_every_chunk_once(store, cohort):
    data = store.stream()
    result = fit(data)
    metrics, chance = score(result.model, cohort.split("test"))
    assert metrics["inv_norm_rank_mean_instance-agg"] > 0.9
    assert metrics["top1_acc"] > 8 * chance["top1_acc"]
    assert_same_training(fit(data), result)

    store.reads.clear()
    split = data.split("train")
    gather = split.gather(torch.device("cpu"), 32)
    assert store.reads == []
    for epoch in range(2):
        order = gather.shuffle(torch.Generator().manual_seed(epoch))
        gather.expect(order)
        for trials in order.split(32):
            x, y = gather(trials)
            rows = cohort.split("train").rows[trials]
            assert np.array_equal(x[:, :, 0], cohort.betas[rows])
            assert np.array_equal(y, split.y_true()[trials])
        assert len(store.reads) == len(set(store.reads)) == 40
        store.reads.clear()
    assert gather._rows._places.shape[0] <= 60 + 32 + (READ_AHEAD + 1) * CHUNK


def test_what_was_not_expected_comes_as_well(store, cohort):
    gather = store.stream().gather(torch.device("cpu"), 32)
    gather.expect(torch.arange(400))
    for trials in (torch.arange(32), torch.tensor([350, 3, 350]), torch.arange(32, 64)):
        assert np.array_equal(gather(trials)[0][:, :, 0], cohort.betas[trials])


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    window=st.integers(1, 200),
    batch=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_every_trial_comes_once_and_memory_suffices(sizes, window, batch, seed):
    block_of = np.repeat(np.random.default_rng(seed).permutation(len(sizes)), sizes)
    order = shuffled(block_of, window, torch.Generator().manual_seed(seed)).numpy()
    assert np.array_equal(np.sort(order), np.arange(len(block_of)))
    plan = Plan.of(order, block_of, batch)
    assert plan.n_places <= window + batch + (READ_AHEAD + 1) * max(sizes)
    # No batch waits for a block that in turn waits for the batch's places.
    read = 0
    reads = iter(plan.reads)
    here = set()
    for start in range(0, len(order), batch):
        wanted = set(order[start : start + batch].tolist())
        while not wanted <= here:
            here |= set(next(reads).tolist())
            read += 1
            assert len(here) <= plan.n_places
        here -= wanted
    assert read == len(sizes)


def test_neighbours_part():
    """Mean distance in the order between trials of one chunk, beside that of a full shuffle."""
    block_of = np.repeat(np.arange(100), 20)
    apart = {}
    for window in (400, 2000):
        order = shuffled(block_of, window, torch.Generator().manual_seed(0)).numpy()
        place = np.argsort(order).reshape(100, 20)
        apart[window] = np.abs(np.diff(place, axis=1)).mean()
    assert apart[2000] == pytest.approx(2000 / 3, rel=0.1)
    assert 200 < apart[400] < 2000 / 3


def test_a_failing_store_fails_the_training_and_leaves_no_thread(store):
    data = store.stream()
    good = store.read

    def fail(subject, session, trials, out):
        if subject == "subj02" and trials[0] > 100:
            raise ArtifactError("A chunk is damaged.", next_step="materialize it again.")
        good(subject, session, trials, out)

    object.__setattr__(data, "read_session", fail)
    with pytest.raises(ArtifactError, match="chunk is damaged"):
        train(CONFIG, data.split("train"), data.split("val"), device="cpu")
    assert not [t for t in threading.enumerate() if t.name == "read betas" and t.is_alive()]


def test_the_window_follows_from_the_memory():
    window = window_of(2e9, 20_484, 75, 64, "float32")
    assert 0.85 * 2e9 < window * 20_484 * 4 < 2e9
    assert window_of(2e9, 20_484, 75, 64, "bfloat16") > 1.9 * window
    with pytest.raises(NotEnoughDataError, match=r"0\.10 GB of memory.*\n.*memory_gb to 0\.3") as e:
        window_of(1e8, 20_484, 75, 64, "float32")
    assert window_of(3e8, 20_484, 75, 64, "float32") >= 16 * 75, str(e.value)
