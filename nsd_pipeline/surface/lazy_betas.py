"""Betas of many sessions as xarray indexes them: nothing is read before it is asked for."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from nsd_pipeline.nsd.layout import N_VERTICES
from nsd_pipeline.surface.session_rows import SessionRows

if TYPE_CHECKING:
    import zarr

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class SessionsRows(BackendArray):
    """Betas of several sessions, of which xarray reads what is asked for.

    Rows come by :class:`SessionRows`, z-scored as in training, or as they were stored.
    `open_session` opens a session's Zarr group by its number, once for each; `session` and `trial`
    (N,) are the session of each row, and its index within the session.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        open_session: "Callable[[int], zarr.Group]",
        session: Integers,
        trial: Integers,
        *,
        zscore: bool,
    ) -> None:
        self._open = cache(open_session)
        self._session, self._trial, self._zscore = session, trial, zscore
        self.shape = (len(trial), N_VERTICES)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        outer = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, outer, self._read)

    def _read(self, key: tuple[Any, ...]) -> Floats:
        """Read rows and vertices; each is a number, a slice or an array of numbers."""
        chosen = [np.arange(n)[each] for n, each in zip(self.shape, key, strict=True)]
        rows, vertices = (np.atleast_1d(each) for each in chosen)
        out = np.empty((len(rows), len(vertices)), np.float32)
        for session in np.unique(self._session[rows]).tolist():
            here = np.flatnonzero(self._session[rows] == session)
            trials, place = np.unique(self._trial[rows[here]], return_inverse=True)
            out[here] = self._read_session(session, trials, vertices)[place]
        # An axis that is indexed by one number is gone.
        return out.reshape([len(each) for each in chosen if each.ndim])

    def _read_session(self, session: int, trials: Integers, vertices: Integers) -> Floats:
        group = self._open(session)
        whole = np.array_equal(vertices, np.arange(N_VERTICES))
        if self._zscore:
            return SessionRows(group, vertices=None if whole else vertices).read(trials)
        values: Floats = group["betas"].oindex[trials, slice(None) if whole else vertices]
        return values
