"""MGH files for tests and benchmarks, as NSD has them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, FSAVERAGE_VERTICES


def write_mgh(path: Path, data: NDArray[np.floating]) -> None:
    """Write frames of vertices, (T, V), as big-endian float32 behind a header."""
    n_frames, n_vertices = data.shape
    path.write_bytes(mgh.header_bytes(n_vertices, n_frames) + data.astype(">f4").tobytes())


def write_sparse_betas(path: Path, rng: np.random.Generator, n_trials: int) -> None:
    """Write noise to fsaverage5's vertices, and leave the others a hole in the file."""
    header = mgh.MghHeader(FSAVERAGE_VERTICES, n_trials)
    with path.open("wb") as file:
        file.write(mgh.header_bytes(FSAVERAGE_VERTICES, n_trials))
        for offset, _ in mgh.frame_ranges(header, FSAVERAGE5_VERTICES):
            file.seek(offset)
            file.write(rng.standard_normal(FSAVERAGE5_VERTICES).astype(">f4").tobytes())
        file.truncate(header.data_end)
