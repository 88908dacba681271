"""The two tasks that a model can be trained on, and how their data are read from the store.

A preset is which data there are: one beta a trial, or a window of the time series that follows an
image. Split, target, model, loss, optimisation and metrics are the same code with the same defaults
for both. ``neuralbench`` with its defaults is the configuration that the reference publishes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd

from nsd_pipeline.assets import keys
from nsd_pipeline.assets.backlog import SESSION_ASSETS
from nsd_pipeline.assets.holding import N_VERTICES, MemoryOptions, hold_betas, hold_windows
from nsd_pipeline.decoding.data import Floats, Integers, LabelledTrials
from nsd_pipeline.decoding.windows import Windows, place_windows
from nsd_pipeline.nsd.errors import ArtifactError
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface import SessionBetas, SessionSeries, read_roi_vertices, series_layout

if TYPE_CHECKING:
    from nsd_pipeline.decoding.stream import StreamedTrials

PresetName = Literal["betas", "neuralbench"]


class DataOptions(MemoryOptions, Protocol):
    """What a model's configuration says about its data.

    Attributes
    ----------
    zscore
        Whether betas are z-scored within session.
    window_start, window_duration
        Seconds from an image's onset to the window, and its length.
    roi
        Whether only the vertices of the region that betas were written with are used.
    """

    zscore: bool
    roi: bool
    window_start: float
    window_duration: float


class Chosen(NamedTuple):
    """The trials that have fMRI, and facts about the choice."""

    trials: pd.DataFrame
    facts: dict[str, int]


@dataclass(frozen=True)
class Preset(ABC):
    """Which fMRI a model is trained on.

    Parameters
    ----------
    name
        The preset's.
    what
        What it is, in the plural, for messages.
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
    fmri_asset: str
    fmri_folder: str
    fmri_key: Callable[[str], str]
    events_asset: str
    events_key: Callable[[str], str]
    session_assets: tuple[str, ...]

    @abstractmethod
    def choose(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Chosen:
        """Leave out trials without fMRI."""

    @abstractmethod
    def read(
        self,
        store: Store,
        trials: pd.DataFrame,
        options: DataOptions,
        image_ids: Integers,
        embeddings: Floats,
    ) -> "LabelledTrials | StreamedTrials":
        """Put fMRI and targets of trials that were chosen together, each in memory at most once."""

    def vertices(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Integers:  # noqa: ARG002
        """Which fsaverage5 vertices (V,) the data have: all, if nothing restricts them."""
        return np.arange(N_VERTICES)


class _Betas(Preset):
    def choose(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Chosen:  # noqa: ARG002
        return Chosen(trials, {})

    def read(
        self,
        store: Store,
        trials: pd.DataFrame,
        options: DataOptions,
        image_ids: Integers,
        embeddings: Floats,
    ) -> "LabelledTrials | StreamedTrials":
        vertices = self.vertices(store, trials, options)
        chosen = vertices if options.roi else None
        opened: dict[str, SessionBetas] = {}

        def read_session(subject: str, session: int, numbers: Integers, out: Floats) -> None:
            key = self.fmri_key(session_key(subject, session))
            if key not in opened:
                opened[key] = SessionBetas(store.zarr(key), vertices=chosen, zscore=options.zscore)
            opened[key].read(numbers, out=out)

        return hold_betas(
            trials, read_session, image_ids, embeddings, options, n_vertices=len(vertices)
        )

    def vertices(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Integers:
        if not options.roi:
            return super().vertices(store, trials, options)
        pairs = trials[["subject", "session"]].drop_duplicates().itertuples(index=False)
        first, *others = (session_key(subject, int(session)) for subject, session in pairs)
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


class _Windows(Preset):
    def choose(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Chosen:
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
    ) -> "LabelledTrials | StreamedTrials":
        opened: dict[str, SessionSeries] = {}

        def read_session(subject: str, session: int, samples: Integers, out: Floats) -> None:
            key = self.fmri_key(session_key(subject, session))
            if key not in opened:
                opened[key] = SessionSeries(store.zarr(key))
            opened[key].read(samples, out=out)

        windows = self._place(store, trials, options)
        return hold_windows(windows, read_session, image_ids, embeddings, options)

    def _place(self, store: Store, trials: pd.DataFrame, options: DataOptions) -> Windows:
        sessions = trials[["subject", "session"]].drop_duplicates()
        layouts = {
            (subject, int(session)): series_layout(
                store.zarr(self.fmri_key(session_key(subject, session)))
            )
            for subject, session in sessions.itertuples(index=False)
        }
        return place_windows(
            trials, layouts, start=options.window_start, duration=options.window_duration
        )


PRESETS: Final[dict[str, Preset]] = {
    "betas": _Betas(
        name="betas",
        what="betas",
        fmri_asset="fsaverage5_betas",
        fmri_folder="fsaverage5_betas.zarr",
        fmri_key=keys.fsaverage5_betas,
        events_asset="fsaverage_events",
        events_key=keys.fsaverage_events,
        session_assets=SESSION_ASSETS,
    ),
    "neuralbench": _Windows(
        name="neuralbench",
        what="time series",
        fmri_asset="fsaverage5_series",
        fmri_folder="fsaverage5_series.zarr",
        fmri_key=keys.fsaverage5_series,
        events_asset="bold_events",
        events_key=keys.bold_events,
        session_assets=("events", "fsaverage_events", "bold", "bold_events", "fsaverage5_series"),
    ),
}
