"""Trials that stay in the store train as they would from memory, in little of it."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsd_pipeline.decoding import (
    Memory,
    StoredRows,
    Trials,
    predict,
    train,
    vertex_contributions,
)
from nsd_pipeline.decoding.loader import load_trials
from nsd_pipeline.decoding.order import ReadingPlan, shuffled
from nsd_pipeline.decoding.rows import READ_AHEAD
from nsd_pipeline.errors import ArtifactError, NotEnoughDataError
from nsd_pipeline_tests.decoding.readers import Session, sessions_of
from nsd_pipeline_tests.decoding.test_training import (
    CONFIG,
    assert_same_training,
    fit,
    score,
)

BLOCK = 10
CPU = torch.device("cpu")


def stream(data, *, window=60, dtype="float32"):
    """The same trials, whose rows stay in the sessions that serve them."""
    rows = StoredRows(list(sessions_of(data, BLOCK).values()), BLOCK, window, dtype)
    session = data.table.groupby(["subject", "session"], sort=False).ngroup()
    first_row = rows.starts[session] + data.table["trial"].to_numpy()
    return Trials(
        rows=rows,
        first_row=first_row,
        n_times=1,
        targets=data.targets,
        target_index=data.target_index,
        table=data.table,
    )


def reads(data):
    """Blocks that were read, by session."""
    found = []
    for number, session in enumerate(data.rows.sessions):
        for rows in session.reads:
            assert len(set(rows // BLOCK)) == 1
            found.append((number, rows[0] // BLOCK))
        session.reads.clear()
    return found


def test_with_room_for_all_it_is_the_same_training(cohort):
    streamed = fit(stream(cohort, window=400))
    in_memory = fit(cohort)
    assert_same_training(streamed, in_memory)
    test = stream(cohort).split("test")
    assert np.array_equal(
        predict(streamed.model, test), predict(in_memory.model, cohort.split("test"))
    )
    np.testing.assert_array_equal(
        vertex_contributions(streamed.model, test),
        vertex_contributions(in_memory.model, cohort.split("test")),
    )


def test_a_small_window_finds_the_signal_and_reads_every_block_once(cohort):
    data = stream(cohort)
    result = fit(data)
    metrics, chance = score(result.model, cohort.split("test"))
    assert metrics["inv_norm_rank_mean_instance-agg"] > 0.9
    assert metrics["top1_acc"] > 8 * chance["top1_acc"]
    assert_same_training(fit(data), result)

    reads(data)
    split = data.split("train")
    loader = load_trials(split, CPU, 32)
    assert reads(data) == []
    for epoch in range(2):
        order = loader.shuffle(torch.Generator().manual_seed(epoch))
        batches = order.split(32)
        for trials, (x, y) in zip(batches, loader.batches(batches), strict=True):
            rows = cohort.split("train").first_row[trials]
            assert np.array_equal(x[:, :, 0], cohort.rows.values[rows])
            assert np.array_equal(y, split.y_true()[trials])
        found = reads(data)
        assert len(found) == len(set(found)) == 40
    assert loader._batches._places.shape[0] <= 60 + 32 + (READ_AHEAD + 1) * BLOCK


def test_an_epoch_that_is_given_up_leaves_the_next_one_whole(cohort):
    loader = load_trials(stream(cohort), CPU, 32)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    next(loader.batches(order.split(32)))
    for trials, (x, _) in zip(order.split(32), loader.batches(order.split(32)), strict=True):
        assert np.array_equal(x[:, :, 0], cohort.rows.values[trials])


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
    plan = ReadingPlan.of(order, block_of, batch)
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


def test_a_failing_store_fails_the_training_and_leaves_no_thread(cohort):
    data = stream(cohort)
    second = data.rows.sessions[1]
    good = second.read

    def fail(rows, *, out):
        if rows[0] > 100:
            raise ArtifactError("A chunk is damaged.", next_step="materialize it again.")
        good(rows, out=out)

    second.read = fail
    with pytest.raises(ArtifactError, match="chunk is damaged"):
        train(CONFIG, data.split("train"), data.split("val"), device="cpu")
    assert not [t for t in threading.enumerate() if t.name == "read fMRI" and t.is_alive()]


def test_sessions_of_other_lengths_begin_at_a_block(cohort):
    """Rows of a session that ends within a block are not those of the next one."""
    values = cohort.rows.values
    sessions = [Session(values[:37], BLOCK), Session(values[100:113], BLOCK)]
    rows = StoredRows(sessions, BLOCK, window=60)
    assert rows.starts.tolist() == [0, 40, 60]
    out = torch.empty((3, 40))
    rows.copy(np.array([36, 40, 52]), out)
    assert np.array_equal(out, cohort.rows.values[[36, 100, 112]])


def test_the_window_follows_from_the_memory():
    def window(gb, dtype="float32"):
        return Memory(gb, dtype).window(values=20_484, block_trials=75)

    assert 0.85 * 2e9 < window(2) * 20_484 * 4 < 2e9
    assert window(2, "bfloat16") > 1.9 * window(2)
    with pytest.raises(NotEnoughDataError, match=r"0\.10 GB of memory.*\n.*memory_gb to 0\.3") as e:
        window(0.1)
    assert window(0.3) >= 16 * 75, str(e.value)
