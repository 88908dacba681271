"""Which samples of a recording belong to an event."""

from typing import overload

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import NsdError


@overload
def window(
    onset: float, tr: float, start: float = 2.0, duration: float = 7.0
) -> tuple[int, int]: ...
@overload
def window(
    onset: NDArray[np.float64], tr: float, start: float = 2.0, duration: float = 7.0
) -> tuple[NDArray[np.int64], int]: ...
def window(
    onset: float | NDArray[np.float64], tr: float, start: float = 2.0, duration: float = 7.0
) -> tuple[int | NDArray[np.int64], int]:
    """Find the samples of the window that follows an onset.

    Both numbers are rounded to the nearest sample and halves to the even one, as neuralset does
    (Python's and numpy's ``round``). Halves do occur: at a TR of 4/3 s every onset on NSD's 4 s
    grid puts the start of the default window midway between two samples, so that there the window
    begins 1.33 s after one onset and 2.67 s after the next.

    Parameters
    ----------
    onset
        Seconds from the recording's first sample to the event, one or an array of any shape.
    tr
        Repetition time in seconds.
    start
        Seconds from the onset to the window.
    duration
        Length of the window in seconds.

    Returns
    -------
    first
        0-based index of the first sample, of the shape of ``onset``.
    n
        Number of samples.

    Raises
    ------
    NsdError
        If ``tr`` is not positive or the window is shorter than a sample.
    """
    n = round(duration / tr) if tr > 0 else 0
    if n < 1:
        raise NsdError(
            f"A window of {duration} s holds no sample at a repetition time of {tr} s.",
            next_step="give both in seconds.",
        )
    first = np.rint((np.asarray(onset) + start) / tr).astype(np.int64)
    return (first if first.ndim else int(first)), n
