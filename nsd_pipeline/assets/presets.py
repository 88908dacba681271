"""The two tasks that a model can be trained on, and how their data are read from the store.

A preset is which data there are: one beta a trial, or a window of the time series that follows an
image. Split, target, model, loss, optimisation and metrics are the same code with the same defaults
for both. ``neuralbench`` with its defaults is the configuration that the reference publishes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd

from nsd_pipeline.assets import keys
from nsd_pipeline.assets.backlog import SESSION_ASSETS
from nsd_pipeline.decoding.rows import DataDtype, Floats, Integers, Memory
from nsd_pipeline.decoding.trials import (
    SessionKey,
    Trials,
    Windows,
    assemble_trials,
    by_session,
    place_windows,
)
from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, session_key
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface import SessionRows, read_roi_vertices, series_layout

PresetName = Literal["betas", "neuralbench"]

N_VERTICES: Final = 2 * FSAVERAGE5_VERTICES


class DataOptions(Protocol):
    """What a model's configuration says about its data.

    Attributes
    ----------
    zscore
        Whether betas are z-scored within session.
    window_start, window_duration
        Seconds from an image's onset to the window, and its length.
    roi
        Whether only the vertices of the region that betas were written with are used.
    memory_gb, data_dtype, batch_size
        As for `Memory`.
    """

    zscore: bool
    roi: bool
    window_start: float
    window_duration: float
    memory_gb: float | None
    data_dtype: DataDtype
    batch_size: int


class Chosen(NamedTuple):
    """The trials that have fMRI, and facts about the choice."""

    trials: pd.DataFrame
    facts: dict[str, int]


@dataclass(frozen=True)
class Preset:
    """Which fMRI a model is trained on.

    Parameters
    ----------
    name
        The preset's.
    what
        What it is, in the plural, for messages.
    windowed
        Whether a trial is a window of a time series, or one beta.
    fmri_asset, events_asset
        The assets, cut by session, that have it and its trials.
    fmri_folder
        Folder of the store that has the fMRI of all sessions.
    fmri_key, events_key
        From a session to the keys of the artifacts.
    session_assets
        All assets that prepare a session, in order.
    """

    name: PresetName
    what: str
    windowed: bool
    fmri_asset: str
    fmri_folder: str
    fmri_key: Callable[[str], str]
    events_asset: str
    events_key: Callable[[str], str]
    session_assets: tuple[str, ...]

    def choose(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Chosen:
        """Leave out trials without fMRI."""
        if not self.windowed:
            return Chosen(trials, {})
        windows = self._place(store, trials, options)
        facts = {
            "time points": windows.n_times,
            "trials dropped (window beyond the run)": windows.n_dropped,
        }
        return Chosen(windows.trials, facts)

    def read(
        self,
        store: Store,
        trials: pd.DataFrame,
        options: DataOptions,
        image_ids: Integers,
        embeddings: Floats,
    ) -> Trials:
        """Put fMRI and targets of trials that were chosen together, each in memory at most once."""
        n_times, first = 1, "trial"
        if self.windowed:
            placed = self._place(store, trials, options)
            trials, n_times, first = placed.trials, placed.n_times, "sample"
        return assemble_trials(
            trials,
            self._open(store, trials, options),
            image_ids,
            embeddings,
            n_times=n_times,
            first=first,
            memory=Memory(options.memory_gb, options.data_dtype, options.batch_size),
        )

    def vertices(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Integers:
        """Which fsaverage5 vertices (V,) the data have: all, if nothing restricts them."""
        if not options.roi or self.windowed:
            return np.arange(N_VERTICES)
        first, *others = (session_key(*each) for each in by_session(trials))
        vertices = read_roi_vertices(store.zarr(self.fmri_key(first)))
        for other in others:
            if not np.array_equal(vertices, read_roi_vertices(store.zarr(self.fmri_key(other)))):
                raise ArtifactError(
                    f"The betas of {first} and {other} were written with different regions of"
                    " interest.",
                    next_step="materialize fsaverage5_betas of both with the same roi, roi_above"
                    " and roi_up_to.",
                )
        return vertices

    def _open(
        self, store: Store, trials: pd.DataFrame, options: DataOptions
    ) -> dict[SessionKey, SessionRows]:
        """Readers of the sessions of trials."""
        vertices = self.vertices(store, trials, options)
        chosen = vertices if len(vertices) < N_VERTICES else None
        sessions = list(by_session(trials))

        def open_session(session: SessionKey) -> SessionRows:
            group = store.zarr(self.fmri_key(session_key(*session)))
            return SessionRows(group, vertices=chosen, zscore=options.zscore)

        # On S3 each takes some requests, and a cohort has up to 284 sessions.
        with ThreadPoolExecutor(max_workers=16) as threads:
            return dict(zip(sessions, threads.map(open_session, sessions), strict=True))

    def _place(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Windows:
        layouts = {
            session: series_layout(store.zarr(self.fmri_key(session_key(*session))))
            for session in by_session(trials)
        }
        return place_windows(
            trials, layouts, start=options.window_start, duration=options.window_duration
        )


PRESETS: Final[dict[str, Preset]] = {
    "betas": Preset(
        name="betas",
        what="betas",
        windowed=False,
        fmri_asset="fsaverage5_betas",
        fmri_folder="fsaverage5_betas.zarr",
        fmri_key=keys.fsaverage5_betas,
        events_asset="fsaverage_events",
        events_key=keys.fsaverage_events,
        session_assets=SESSION_ASSETS,
    ),
    "neuralbench": Preset(
        name="neuralbench",
        what="time series",
        windowed=True,
        fmri_asset="fsaverage5_series",
        fmri_folder="fsaverage5_series.zarr",
        fmri_key=keys.fsaverage5_series,
        events_asset="bold_events",
        events_key=keys.bold_events,
        session_assets=("events", "fsaverage_events", "bold", "bold_events", "fsaverage5_series"),
    ),
}
