"""fMRI of a cohort's trials: in memory if it fits, and otherwise read as it is needed."""

from typing import TYPE_CHECKING, Final, Protocol

import pandas as pd

from nsd_pipeline.assets.memory import available_bytes
from nsd_pipeline.decoding.data import (
    Floats,
    Integers,
    ReadSession,
    TrialData,
    assemble_trials,
)
from nsd_pipeline.decoding.dtypes import DataDtype
from nsd_pipeline.decoding.windows import (
    ReadSeries,
    WindowData,
    Windows,
    assemble_windows,
    count_samples,
    read_windows,
)
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES

if TYPE_CHECKING:
    from nsd_pipeline.decoding.stream import StreamedTrials

N_VERTICES: Final = 2 * FSAVERAGE5_VERTICES

FREE_SHARE: Final = 0.8
"""fMRI may take so much of the memory that is free."""
STREAM_GB: Final = 4.0
"""Memory for fMRI that does not fit, unless told otherwise. How trials are shuffled depends on it,
so it does not follow what else the machine is doing."""


CHUNK_WINDOWS: Final = 25
"""Windows that are read together: about 75 samples, a chunk of the series, and no more in memory
than as many betas would take."""


class MemoryOptions(Protocol):
    """What a model's configuration says about memory.

    Attributes
    ----------
    memory_gb
        Memory for fMRI, shared by all processes. None: most of what is free now, and `STREAM_GB`
        a process if it does not fit into that.
    data_dtype
        What fMRI is kept in.
    batch_size
        Trials that are asked for together.
    n_processes
        How many processes of this machine hold the same trials.
    """

    memory_gb: float | None
    data_dtype: DataDtype
    batch_size: int
    n_processes: int


def stream_bytes(n_values: int, options: MemoryOptions) -> float | None:
    """Memory to stream values in that do not fit into memory, None if they do fit."""
    n_bytes = n_values * (4 if options.data_dtype == "float32" else 2)
    given = None if options.memory_gb is None else options.memory_gb * 1e9 / options.n_processes
    room = FREE_SHARE * available_bytes() / options.n_processes if given is None else given
    if n_bytes <= room:
        return None
    return STREAM_GB * 1e9 if given is None else given


def hold_betas(
    trials: pd.DataFrame,
    read_session: ReadSession,
    image_ids: Integers,
    embeddings: Floats,
    options: MemoryOptions,
    *,
    n_vertices: int = N_VERTICES,
) -> "TrialData | StreamedTrials":
    """Put betas and targets of trials together, within the memory there is.

    Parameters
    ----------
    trials, read_session, image_ids, embeddings
        As for `assemble_trials`.
    options
        See `MemoryOptions`.
    n_vertices
        Vertices that are read: all of fsaverage5's, or a region's.

    Raises
    ------
    NotEnoughDataError
        If there are no trials, or the memory is too little to shuffle them in.
    """
    dtype = options.data_dtype
    budget = stream_bytes(len(trials) * n_vertices, options)
    if budget is None:
        return assemble_trials(trials, n_vertices, read_session, image_ids, embeddings, dtype=dtype)
    from nsd_pipeline.decoding.stream import stream_trials, window_of
    from nsd_pipeline.surface import CHUNK_TRIALS

    window = window_of(budget, n_vertices, CHUNK_TRIALS, options.batch_size, dtype)
    return stream_trials(
        trials,
        n_vertices,
        read_session,
        image_ids,
        embeddings,
        chunk_trials=CHUNK_TRIALS,
        window=window,
        dtype=dtype,
    )


def hold_windows(
    windows: Windows,
    read_series: ReadSeries,
    image_ids: Integers,
    embeddings: Floats,
    options: MemoryOptions,
) -> "WindowData | StreamedTrials":
    """Put windows and targets of trials together, within the memory there is.

    Parameters
    ----------
    windows
        Trials, and where their windows lie.
    read_series, image_ids, embeddings
        As for `assemble_windows`.
    options
        See `MemoryOptions`.

    Raises
    ------
    NotEnoughDataError
        If there are no trials, or the memory is too little to shuffle them in.
    """
    trials, n_times, dtype = windows.trials, windows.n_times, options.data_dtype
    budget = stream_bytes(count_samples(trials, n_times) * N_VERTICES, options)
    if budget is None:
        return assemble_windows(
            trials, n_times, N_VERTICES, read_series, image_ids, embeddings, dtype=dtype
        )
    from nsd_pipeline.decoding.stream import stream_trials, window_of

    return stream_trials(
        trials,
        N_VERTICES,
        read_windows(trials, n_times, N_VERTICES, read_series),
        image_ids,
        embeddings,
        chunk_trials=CHUNK_WINDOWS,
        window=window_of(budget, n_times * N_VERTICES, CHUNK_WINDOWS, options.batch_size, dtype),
        dtype=dtype,
        n_times=n_times,
    )
