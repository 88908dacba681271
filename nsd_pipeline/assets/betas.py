"""Betas of a cohort's trials: in memory if they fit, and otherwise read as they are needed."""

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
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES

if TYPE_CHECKING:
    from nsd_pipeline.decoding.stream import StreamedTrials

N_VERTICES: Final = 2 * FSAVERAGE5_VERTICES

FREE_SHARE: Final = 0.8
"""Betas may take so much of the memory that is free."""
STREAM_GB: Final = 4.0
"""Memory for betas that do not fit, unless told otherwise. How trials are shuffled depends on it,
so it does not follow what else the machine is doing."""


class MemoryOptions(Protocol):
    """What a model's configuration says about memory.

    Attributes
    ----------
    memory_gb
        Memory for betas, shared by all processes. None: most of what is free now, and `STREAM_GB`
        a process if the betas do not fit into that.
    data_dtype
        What betas are kept in.
    batch_size
        Trials that are asked for together.
    n_processes
        How many processes of this machine hold the same trials.
    """

    memory_gb: float | None
    data_dtype: DataDtype
    batch_size: int
    n_processes: int


def hold_betas(
    trials: pd.DataFrame,
    read_session: ReadSession,
    image_ids: Integers,
    embeddings: Floats,
    options: MemoryOptions,
) -> "TrialData | StreamedTrials":
    """Put betas and targets of trials together, within the memory there is.

    Parameters
    ----------
    trials, read_session, image_ids, embeddings
        As for `assemble_trials`.
    options
        See `MemoryOptions`.

    Raises
    ------
    NotEnoughDataError
        If there are no trials, or the memory is too little to shuffle them in.
    """
    dtype = options.data_dtype
    n_bytes = len(trials) * N_VERTICES * (4 if dtype == "float32" else 2)
    given = None if options.memory_gb is None else options.memory_gb * 1e9 / options.n_processes
    room = FREE_SHARE * available_bytes() / options.n_processes if given is None else given
    if n_bytes <= room:
        return assemble_trials(trials, N_VERTICES, read_session, image_ids, embeddings, dtype=dtype)
    from nsd_pipeline.decoding.stream import stream_trials, window_of
    from nsd_pipeline.surface import CHUNK_TRIALS

    window = window_of(
        STREAM_GB * 1e9 if given is None else given,
        N_VERTICES,
        CHUNK_TRIALS,
        options.batch_size,
        dtype,
    )
    return stream_trials(
        trials,
        N_VERTICES,
        read_session,
        image_ids,
        embeddings,
        chunk_trials=CHUNK_TRIALS,
        window=window,
        dtype=dtype,
    )
