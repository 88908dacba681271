"""Inputs that several rows share: made once below the benchmark's folder, always the same."""

from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import FSAVERAGE_VERTICES, HEMISPHERES, N_VERTICES

if TYPE_CHECKING:
    from nsd_pipeline.storage.store import Draft, Store

_GRID: Final = (91, 109, 91)
_AFFINE: Final = ((-2.0, 0, 0, 90), (0, 2, 0, -126), (0, 0, 2, -72), (0, 0, 0, 1))


def n_trials(quick: bool) -> int:
    """Trials of a session: NSD's 750, or few."""
    return 30 if quick else 750


def session_files(folder: Path, *, quick: bool) -> list[Path]:
    """Both hemispheres' files of a session on fsaverage, every byte of them written."""
    paths = [folder / f"{side}.betas_{n_trials(quick)}.mgh" for side in HEMISPHERES]
    for seed, path in enumerate(paths):
        if not path.exists():
            # One frame of noise, turned: as good as new noise for every frame, and soon made.
            noise = np.random.default_rng(seed).standard_normal(FSAVERAGE_VERTICES, np.float32)
            noise[::1000] = np.nan
            with path.open("wb") as file:
                file.write(mgh.header_bytes(len(noise), n_trials(quick)))
                for frame in range(n_trials(quick)):
                    file.write(np.roll(noise, 7 * frame).astype(">f4").tobytes())
    return paths


def volumes(n_volumes: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Smooth-valued volumes (X, Y, Z, T) on the 2 mm MNI grid, and their affine."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((*_GRID, n_volumes), np.float32)
    # The order in which nibabel reads files.
    return np.asfortranarray(noise), np.array(_AFFINE)


def volume_file(folder: Path, n_volumes: int) -> Path:
    """Write such volumes as NSD's are: int16, 0 outside the brain, gzip."""
    from nibabel import Nifti1Image

    path = folder / f"volumes_{n_volumes}.nii.gz"
    if not path.exists():
        noise, affine = volumes(n_volumes)
        scaled = (noise * 300).astype(np.int16)
        x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in _GRID)]
        scaled[x * x + y * y + z * z > 0.8] = 0
        Nifti1Image(scaled, affine).to_filename(path)
    return path


def session_keys(n_sessions: int) -> list[str]:
    """Keys of a subject's surface betas in the store."""
    return [f"fsaverage5_betas.zarr/subj01/ses{n:02d}" for n in range(1, n_sessions + 1)]


def subject_store(folder: Path, n_sessions: int, *, n_trials: int) -> tuple[Path, Path]:
    """Write a store with a subject's sessions, and one array file with their z-scores."""
    import zarr

    from nsd_pipeline.storage.opening import open_store
    from nsd_pipeline.surface import read_session, summarise, write_session

    root, array = folder / f"subject_{n_sessions}", folder / f"subject_{n_sessions}.npy"
    if not array.exists():
        store = open_store(root)
        rng = np.random.default_rng(1)
        noise = rng.standard_normal((n_trials, N_VERTICES), np.float32)
        shape = (n_sessions * n_trials, N_VERTICES)
        scored = np.lib.format.open_memmap(array, "w+", np.dtype(np.float32), shape)
        bounds = range(0, shape[0] + 1, n_trials)
        for key, (start, stop) in zip(session_keys(n_sessions), pairwise(bounds), strict=True):
            betas = np.roll(noise, start, axis=1)
            with writing_betas(store, key) as draft:
                write_session(draft.folder, betas, summarise(betas), {})
            read_session(zarr.open_group(root / key, mode="r"), out=scored[start:stop])
        scored.flush()
    return root, array


def writing_betas(store: "Store", key: str) -> AbstractContextManager["Draft"]:
    """Write a session's betas into a store, with as much of a manifest as a store asks for."""
    return store.write(
        key,
        asset="fsaverage5_betas",
        partition=None,
        fingerprint="benchmark",
        code_version="1",
        inputs={},
        config={},
    )


def embeddings(n_images: int, width: int = 1536) -> NDArray[Any]:
    """Targets of a training: (n_images, width) float32."""
    return np.random.default_rng(2).standard_normal((n_images, width), np.float32)
