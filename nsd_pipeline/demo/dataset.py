"""Generating a whole demo dataset: a folder that is a valid mirror of NSD's bucket, only small."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from nsd_pipeline.demo.anatomy import write_transforms
from nsd_pipeline.demo.brain import Brain, image_features, standardise
from nsd_pipeline.demo.experiment import DemoSettings, make_design, shown_images, write_tables
from nsd_pipeline.demo.made_files import (
    write_events,
    write_labels,
    write_session_in,
    write_surface_betas,
    write_surface_runs,
)
from nsd_pipeline.demo.pictures import render
from nsd_pipeline.errors import NsdError, StorageFullError
from nsd_pipeline.nsd.design import ExperimentDesign
from nsd_pipeline.nsd.layout import (
    GENERATED_KEY,
    HEMISPHERES,
    IMAGE_SHAPE,
    LABELS_FOLDER,
    N_IMAGES,
    STIMULI_KEY,
    betas_keys,
)
from nsd_pipeline.nsd.stimuli import DATASET

if TYPE_CHECKING:
    import h5py


logger = logging.getLogger(__name__)

_UNFINISHED_FILE: Final = "demo.unfinished"
"""Marks a folder as ours while a dataset is being written to it; its settings come last."""
_THREADS: Final = 2
_IMAGES_AT_ONCE: Final = 32
_PROBE_BYTES: Final = 1 << 24
_BLOCK_BYTES: Final = 512


@contextmanager
def create_stimuli(path: Path) -> Iterator["h5py.Dataset"]:
    """Open a new ``nsd_stimuli.hdf5`` for writing: 39.6 GB, of which only what is set takes space.

    The dataset is contiguous and not compressed, so that a row's place in the file can be computed,
    and its space is left as a hole until a row is written. A StorageFullError if the file system
    has no holes in files.
    """
    import h5py

    _require_sparse_files(path.parent)
    with h5py.File(path, "w", libver="earliest") as file:
        creation: Any = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((N_IMAGES, *IMAGE_SHAPE))
        h5py.h5d.create(file.id, DATASET.encode(), h5py.h5t.STD_U8LE, space, creation)
        yield file[DATASET]


def _require_sparse_files(folder: Path) -> None:
    """Fail now rather than with a full disk later."""
    probe = folder / "probe.tmp"
    try:
        with probe.open("wb") as file:
            file.truncate(_PROBE_BYTES)
        used = probe.stat().st_blocks * _BLOCK_BYTES
    finally:
        probe.unlink(missing_ok=True)
    if used >= _PROBE_BYTES:
        raise StorageFullError(
            f"{folder} is on a file system without sparse files, so the stimulus file would take "
            "39.6 GB there.",
            next_step="choose a folder on another file system (ext4, xfs and APFS have them).",
        )


@dataclass(frozen=True, eq=False)
class DemoDataset:
    """A generated dataset: NSD's keys are paths below its folder.

    `image_ids` (N,), 0-based and sorted, are those that someone is shown, and `shared_image_ids`
    those among them that are shared: the test set. Only these are in the stimulus file; other rows
    are black. `created` is False if the dataset was there already.
    """

    folder: Path
    settings: DemoSettings
    image_ids: NDArray[np.int64]
    shared_image_ids: NDArray[np.int64]
    created: bool

    @property
    def sessions(self) -> dict[str, int]:
        """Number of sessions of every subject."""
        return self.settings.subject_sessions


def generate(folder: str | Path, **options: Any) -> DemoDataset:
    """Generate a small dataset in NSD's exact layout, in a new or an empty folder.

    Options are those of :class:`DemoSettings`, such as ``subjects=2``; what is left out has its
    default. If the folder already has the dataset of the same settings, nothing is done; what an
    interrupted call left is replaced.

    An NsdError if the folder has other files in it, or a dataset of other settings; a
    StorageFullError if the file system cannot hold the stimulus file sparsely; a ValueError if
    there is no such setting, or it is out of range.
    """
    settings = DemoSettings(**options)
    folder = Path(folder)
    design = make_design(settings)
    image_ids = shown_images(design, settings)
    is_there = _is_complete(folder, settings)
    if is_there:
        logger.info("%s already has this dataset; nothing to do", folder)
    else:
        _start(folder)
        write_tables(folder, design, settings)
        features = _write_stimuli(_file(folder, STIMULI_KEY), image_ids, settings)
        _write_betas(folder, settings, design, features)
        (folder / _UNFINISHED_FILE).write_text(settings.model_dump_json(indent=2) + "\n")
        (folder / _UNFINISHED_FILE).rename(folder / GENERATED_KEY)
    if not (folder / LABELS_FOLDER).exists():  # earlier versions wrote none
        write_labels(folder / LABELS_FOLDER)
    return DemoDataset(
        folder=folder,
        settings=settings,
        image_ids=image_ids,
        shared_image_ids=np.intersect1d(image_ids, design.sharedix - 1),
        created=not is_there,
    )


def _is_complete(folder: Path, settings: DemoSettings) -> bool:
    """Whether the folder has this very dataset; fails if it has anything else."""
    path = folder / GENERATED_KEY
    if path.exists():
        found, wanted = json.loads(path.read_text()), settings.model_dump(mode="json")
        differ = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        if differ:
            changes = ", ".join(f"{k} {found.get(k)} instead of {wanted.get(k)}" for k in differ)
            raise NsdError(
                f"{folder} has a demo dataset of other settings: {changes}.",
                next_step="choose another folder, or delete this one.",
            )
        return True
    ours = (folder / _UNFINISHED_FILE).exists()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise NsdError(
            f"{folder} is not empty, and what is in it is not a demo dataset.",
            next_step="choose a new folder.",
        )
    return False


def _start(folder: Path) -> None:
    """Mark the folder as ours, and remove what an interrupted call left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _UNFINISHED_FILE).touch()
    for leftover in folder.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)


def _file(folder: Path, key: str) -> Path:
    """Path of a key, its folder made."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_stimuli(
    path: Path, image_ids: NDArray[np.int64], settings: DemoSettings
) -> pd.DataFrame:
    """Draw and store the images; returns their standardised features, one row an image id."""
    features = []
    with (
        create_stimuli(path) as dataset,
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(total=len(image_ids), desc="images", unit="image", disable=None) as progress,
    ):
        for start in range(0, len(image_ids), _IMAGES_AT_ONCE):
            part = image_ids[start : start + _IMAGES_AT_ONCE].tolist()
            for image_id, image in zip(
                part, pool.map(partial(render, seed=settings.seed), part), strict=True
            ):
                dataset[image_id] = image
                features.append(image_features(image))
                progress.update()
    return pd.DataFrame(standardise(np.stack(features)), index=image_ids)


def _write_betas(
    folder: Path, settings: DemoSettings, design: ExperimentDesign, features: pd.DataFrame
) -> None:
    """Write all sessions of all subjects, a file a task."""
    tasks: list[Callable[[], None]] = []
    for subject, n_sessions in settings.subject_sessions.items():
        brains = [
            Brain(subject, hemisphere, settings.strength, settings.seed)
            for hemisphere in HEMISPHERES
        ]
        for session in range(1, n_sessions + 1):
            trials = design.trials(subject, session)
            shown = features.loc[trials["image_id"]].to_numpy()
            keys = betas_keys(subject, session, "fsaverage")
            tasks += [
                partial(write_surface_betas, _file(folder, key), brain, shown, session)
                for key, brain in zip(keys, brains, strict=True)
            ]
            if session == 1:
                write = partial(write_session_in, folder, brains, shown, session)
                tasks += [partial(write, s, hdf5=s in settings.hdf5) for s in settings.spaces]
            if settings.signal == "bold":
                write_events(folder, trials, settings.seed)
                tasks += [
                    partial(write_surface_runs, folder, brain, trials, shown) for brain in brains
                ]
        if settings.spaces:
            to = folder / f"nsddata/ppdata/{subject}/transforms"
            tasks.append(partial(write_transforms, to, subject, settings.spaces, settings.seed))
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in tqdm(
                as_completed(futures), total=len(futures), desc="betas", unit="file", disable=None
            ):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
