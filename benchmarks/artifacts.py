"""Rows of the store: publishing a session's betas, and loading those of a subject."""

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import data
from benchmarks.harness import Bar, Inputs, Row, Side, Sides
from benchmarks.worker import Outcome, Repeat, Settings
from nsd_pipeline.nsd.layout import N_VERTICES

# --- publishing --------------------------------------------------------------------------------


@contextmanager
def _session(folder: Path, quick: bool) -> Iterator[Inputs]:
    n_trials = data.n_trials(quick)
    settings = {"folder": str(folder), "n_trials": n_trials}
    yield Inputs(settings, work=f"{n_trials} trials, both hemispheres")


def publish(settings: Settings) -> Repeat:
    """A session as the asset publishes it: checksums, and all of it synced."""
    from nsd_pipeline.storage.opening import open_store
    from nsd_pipeline.surface import summarise, write_session

    betas = _betas(settings)
    statistics = summarise(betas)
    store = open_store(Path(settings["folder"], "published"))

    def write(number: int) -> None:
        key = f"fsaverage5_betas.zarr/subj01/ses{number}"
        with data.writing_betas(store, key) as draft:
            write_session(draft.folder, betas, statistics, {})

    return partial(_timed, write, itertools.count())


def write_unsynced(settings: Settings) -> Repeat:
    """The same files and their SHA-256; a power cut may leave any part of them."""
    from nsd_pipeline.surface import summarise, write_session

    betas = _betas(settings)
    statistics = summarise(betas)

    def write(number: int) -> None:
        folder = Path(settings["folder"], "unsynced", str(number))
        write_session(folder.with_suffix(".draft"), betas, statistics, {})
        files = [path for path in folder.with_suffix(".draft").rglob("*") if path.is_file()]
        with ThreadPoolExecutor() as threads:
            list(threads.map(_sha256, files))
        folder.with_suffix(".draft").rename(folder)

    return partial(_timed, write, itertools.count())


def write_one_file(settings: Settings) -> Repeat:
    """The same bytes in a single file, synced once: what the disk itself takes."""
    betas = _betas(settings)
    folder = Path(settings["folder"], "single")
    folder.mkdir(exist_ok=True)

    def write(number: int) -> None:
        with (folder / str(number)).open("wb") as file:
            betas.tofile(file)
            os.fsync(file.fileno())

    return partial(_timed, write, itertools.count())


def _betas(settings: Settings) -> NDArray[np.float32]:
    shape = (settings["n_trials"], N_VERTICES)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _timed(write: Callable[[int], None], numbers: Iterator[int]) -> Outcome:
    # What other sides wrote, and did not sync, is not to be written in this one's time.
    os.sync()
    start = time.perf_counter()
    write(next(numbers))
    return Outcome(seconds=time.perf_counter() - start)


# --- loading -----------------------------------------------------------------------------------


@contextmanager
def _subject(folder: Path, quick: bool) -> Iterator[Inputs]:
    n_sessions = 2 if quick else 40
    root, array = data.subject_store(folder, n_sessions, n_trials=data.n_trials(quick))
    yield Inputs(
        {"root": str(root), "array": str(array), "n_sessions": n_sessions},
        work=f"{n_sessions} sessions of {data.n_trials(quick)} trials, warm",
        n_touched=array.stat().st_size,
    )


def load_store(settings: Settings) -> Repeat:
    """Through the store, as a training does it: every file is compared with its checksum."""
    from nsd_pipeline.storage.opening import open_store

    return partial(_load, lambda: _fill(settings, open_store(settings["root"]).zarr))


def load_zarr(settings: Settings) -> Repeat:
    """The same files without the store: nothing is compared."""
    import zarr

    root = Path(settings["root"])
    return partial(
        _load, lambda: _fill(settings, lambda key: zarr.open_group(root / key, mode="r"))
    )


def _fill(settings: Settings, open_group: Callable[[str], Any]) -> NDArray[np.float32]:
    from nsd_pipeline.decoding.rows import HeldRows, Memory, hold_rows
    from nsd_pipeline.surface import SessionRows

    keys = data.session_keys(settings["n_sessions"])
    with ThreadPoolExecutor(16) as threads:
        opened = list(threads.map(lambda key: SessionRows(open_group(key)), keys))
    rows, _ = hold_rows([(each, np.arange(each.n_rows)) for each in opened], 1, Memory())
    assert isinstance(rows, HeldRows)  # noqa: S101  # no memory_gb was given
    return rows.values


def load_npy(settings: Settings) -> Repeat:
    """`numpy.load` of the same numbers, z-scored already."""
    return partial(_load, lambda: np.load(settings["array"]))


def load_npy_and_score(settings: Settings) -> Repeat:
    """`numpy.load`, then the arithmetic of z-scores, in pieces that fit into a cache.

    The array has z-scores already, so means are 0 and deviations 1.
    """

    def load() -> NDArray[np.float32]:
        betas: NDArray[np.float32] = np.load(settings["array"])
        mean, scale = np.zeros(betas.shape[1], np.float32), np.ones(betas.shape[1], np.float32)
        for start in range(0, len(betas), 8):
            block = betas[start : start + 8]
            block -= mean
            block *= scale
        return betas

    return partial(_load, load)


def _load(load: Callable[[], NDArray[np.float32]]) -> Outcome:
    start = time.perf_counter()
    betas = load()
    seconds = time.perf_counter() - start
    return Outcome({"betas": betas[::97].copy()}, seconds=seconds)


def _times(ours: str, other: str, sides: Sides) -> float:
    return sides[ours].seconds / sides[other].seconds


_PUBLISHED, _UNSYNCED = "ours: checksums, synced", "the same files and SHA-256, not synced"
_SINGLE: Final = "one file of as many bytes, synced"
_STORE, _ZARR = "ours, through the store: checked", "ours: Zarr, not checked"
_NPY, _NPY_SCORED = "numpy.load of z-scores", "numpy.load, then z-scoring"

ROWS: Final = (
    Row(
        "publishing",
        "A session's betas into the store",
        _session,
        (
            Side(_PUBLISHED, publish),
            Side(_UNSYNCED, write_unsynced),
            Side(_SINGLE, write_one_file),
        ),
        (Bar("times the time, not synced", partial(_times, _PUBLISHED, _UNSYNCED), 1.1, True),),
        repetitions=9,
        limit="What outlasts a power cut has been written to the disk, and that takes time.",
    ),
    Row(
        "subject-loading",
        "A subject's betas into memory",
        _subject,
        (
            Side(_STORE, load_store),
            Side(_ZARR, load_zarr),
            Side(_NPY, load_npy),
            Side(_NPY_SCORED, load_npy_and_score),
        ),
        (
            Bar("times the time of numpy.load", partial(_times, _STORE, _NPY), 1.3, True),
            Bar("times the time without checking", partial(_times, _STORE, _ZARR), 1.1, True),
        ),
        repetitions=7,
        limit="Ours z-scores and compares checksums while it reads, which numpy.load does not.",
    ),
)
