"""One session's time series on fsaverage5 as a Zarr group; `session_rows` reads it.

The group is Zarr v3 and holds::

    series  (sample, vertex) float32   the runs one after the other, each detrended and z-scored;
                                       NaN kept where a run has no data

with ``tr``, in seconds, and ``runs`` (number, first sample and number of samples of each) among its
attributes. Time runs along the first axis, so that a window is one contiguous piece.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import ArtifactError

if TYPE_CHECKING:
    import zarr

CHUNK_SAMPLES: Final = 75
"""Samples in one chunk: 6.1 MB on fsaverage5, as for betas."""

_DESCRIPTION: Final = (
    "Time series of one session of the Natural Scenes Dataset on the fsaverage5 surface. Subject "
    "to NSD's terms of use: research and education only, no redistribution."
)


@dataclass(frozen=True)
class SeriesLayout:
    """How a session's runs lie in its time series.

    Attributes
    ----------
    tr
        Seconds from one sample to the next.
    runs
        For each run (1-based), its first sample (0-based) and its number of samples.
    """

    tr: float
    runs: Mapping[int, tuple[int, int]]

    @classmethod
    def of_runs(cls, tr: float, n_samples: Mapping[int, int]) -> "SeriesLayout":
        """Layout of runs that follow each other without gaps, by the samples of each."""
        ends = np.cumsum([0, *n_samples.values()]).tolist()
        return cls(tr, {run: (ends[i], n) for i, (run, n) in enumerate(n_samples.items())})

    @property
    def n_samples(self) -> int:
        """Samples of all runs."""
        return sum(n for _, n in self.runs.values())


def write_series(
    folder: Path,
    series: NDArray[np.float32],
    layout: SeriesLayout,
    attributes: Mapping[str, Any],
) -> None:
    """Write one session's time series as a Zarr v3 group.

    Parameters
    ----------
    folder
        Becomes the root of the group. The caller publishes it as a whole.
    series : array of shape (R, V), float32
        Cleaned time series of all runs; vertices of the left hemisphere, then of the right.
    layout
        Where the runs lie in it.
    attributes
        What only the caller knows: subject, session, source space, ... They are added to the
        group's own and must be JSON.

    Raises
    ------
    ValueError
        If the layout is not that of this series.
    """
    import zarr

    if len(series) != layout.n_samples:
        raise ValueError(
            f"The layout is of {layout.n_samples} samples, the series has {len(series)}."
        )
    group = zarr.create_group(
        folder,
        zarr_format=3,
        attributes={
            "description": _DESCRIPTION,
            "mesh": "fsaverage5",
            "hemispheres": ["lh", "rh"],
            "n_vertices_per_hemisphere": series.shape[1] // 2,
            "units": "standard deviations of the vertex within the run",
            "tr": layout.tr,
            "runs": [
                {"run": run, "first_sample": first, "n_samples": n}
                for run, (first, n) in layout.runs.items()
            ],
            "software": {name: version(name) for name in ("nsd_pipeline", "numpy", "zarr")},
            **attributes,
        },
    )
    array = group.create_array(
        "series",
        shape=series.shape,
        dtype=series.dtype,
        chunks=(min(CHUNK_SAMPLES, len(series)), series.shape[1]),
        compressors=None,
        fill_value=float("nan"),
        dimension_names=("sample", "vertex"),
        config={"write_empty_chunks": True},
    )
    array[...] = series


def series_layout(group: "zarr.Group") -> SeriesLayout:
    """Repetition time and runs of a group that `write_series` made.

    Raises
    ------
    ArtifactError
        If the group does not say.
    """
    try:
        runs = {
            each["run"]: (each["first_sample"], each["n_samples"]) for each in group.attrs["runs"]
        }
        return SeriesLayout(float(group.attrs["tr"]), runs)
    except KeyError as error:
        raise ArtifactError(
            f"The surface time series at {group.store_path} lack the attribute {error}.",
            next_step="materialize fsaverage5_series for this session again.",
        ) from error
