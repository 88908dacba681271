"""MGH files for tests, as NSD has them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.mgh import header_bytes


def write_mgh(path: Path, data: NDArray[np.floating]) -> None:
    """Write frames of vertices, (T, V), as big-endian float32 behind a header."""
    n_frames, n_vertices = data.shape
    path.write_bytes(header_bytes(n_vertices, n_frames) + data.astype(">f4").tobytes())
