"""The artifacts in Python, for notebooks and scripts.

>>> import nsd_pipeline as nsd
>>> store = nsd.open("artifacts")
>>> betas = store.betas("subj01", sessions="1-2")
>>> betas.dims
('trial', 'vertex')
>>> decoder = store.decoder("subj01")
>>> test = betas[betas.shared]
>>> table = decoder.retrieve(decoder.ensemble(test), n_top=5)

Everything here reads; nothing is made or changed. A store may be read while runs write to it: what
has been opened stays one version, or an error says that it was replaced.
"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from xarray.core.indexing import LazilyIndexedArray

from nsd_pipeline import folders
from nsd_pipeline.decoding.cohort import read_sessions, sessions_with
from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.processes import TRIALS_FILE, read_vertices, seed_folder
from nsd_pipeline.decoding.trained_decoder import OF_A_TRIAL, TrainedDecoder, read_images
from nsd_pipeline.embeddings.encoder_settings import EncoderSettings
from nsd_pipeline.errors import ArtifactError, NotEnoughDataError, Remake
from nsd_pipeline.experiments import DEFAULT, chosen_file, read_experiments
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.session_lists import choose_sessions
from nsd_pipeline.nsd.stimuli import open_images
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.opening import DEFAULT_STORE, open_source, open_store
from nsd_pipeline.storage.source import DEFAULT_URL
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface.lazy_betas import SessionsRows

if TYPE_CHECKING:
    from nilearn.surface import SurfaceImage

__all__ = ["Artifacts", "TrainedDecoder", "open", "to_surface_image"]


def open(place: str | Path = DEFAULT_STORE) -> "Artifacts":  # noqa: A001 - nsd.open reads well
    """Open a store of artifacts, to read them.

    Parameters
    ----------
    place
        A folder, or ``s3://bucket/prefix`` with credentials and endpoint as boto3 takes them from
        its environment variables and files.

    Raises
    ------
    NsdError
        If it is no such place.

    Examples
    --------
    >>> import nsd_pipeline as nsd
    >>> store = nsd.open("artifacts")
    """
    return Artifacts(open_store(place))


class Artifacts:
    """What the pipeline made, as arrays and tables; :func:`open` opens one.

    Parameters
    ----------
    store
        Where artifacts lie.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"nsd.open({self._store.url!r})"

    def betas(
        self,
        subject: str,
        sessions: str = "all",
        *,
        zscore: bool = True,
        space: str = layout.DEFAULT_SPACE,
    ) -> xr.DataArray:
        """Single-trial betas on fsaverage5, one row a trial; read when their values are asked for.

        Parameters
        ----------
        subject
            ``subj01`` to ``subj08``.
        sessions
            ``1-10,15``, ``first 5``, or ``all`` that are in the store.
        zscore
            Z-score each vertex over all finite trials of its session, as models are trained on
            them: 0 where a value is missing, and for vertices without a z-score. Otherwise percent
            signal change as NSD published it, with NaN where a value is missing.
        space
            Space that they come from: fsaverage, or one that an experiment names.

        Returns
        -------
        DataArray of shape (trial, vertex), float32
            Sessions one after the other, trials of the event tables in order. Coordinates:
            ``session`` (1-based), ``trial`` (0-based, within its session), ``image_id`` (NSD's
            0-based 73k row) and ``shared`` (one of the 1,000 test images) along trials;
            ``vertex`` (0 to 20,483, left hemisphere first) and ``hemisphere`` along vertices.
            Choosing trials and vertices reads nothing; arithmetic does, and so does ``.load()``,
            which keeps what it read.

        Raises
        ------
        NotEnoughDataError
            If the store lacks a session that was asked for.
        ArtifactError
            If an artifact is damaged, or was replaced since.

        Examples
        --------
        >>> betas = store.betas("subj01", sessions="1-2")
        >>> betas.sizes
        Frozen({'trial': 60, 'vertex': 20484})
        >>> shared = betas[betas.shared, betas.hemisphere == "lh"]
        >>> bool(abs(shared.mean()) < 1)
        True
        """
        folder = folders.betas_folder(space)
        keys = self._sessions(folder, subject, sessions)
        events = read_sessions(
            self._store, [folders.artifact_key(folders.FSAVERAGE_EVENTS, key) for key in keys]
        )
        images = events[events["type"] == "Image"]
        place = {name: images[name].to_numpy(np.int64) for name in OF_A_TRIAL}
        session_key = partial(layout.session_key, subject)
        rows = SessionsRows(
            lambda each: self._store.zarr(folders.artifact_key(folder, session_key(each))),
            place["session"],
            place["trial"],
            zscore=zscore,
        )
        return xr.DataArray(
            xr.Variable(("trial", "vertex"), LazilyIndexedArray(rows)),
            coords={
                **{name: ("trial", values) for name, values in place.items()},
                "shared": ("trial", images["shared"].to_numpy(bool)),
                "vertex": np.arange(layout.N_VERTICES),
                "hemisphere": ("vertex", np.repeat(layout.HEMISPHERES, layout.FSAVERAGE5_VERTICES)),
            },
            name="betas",
            attrs={
                "subject": subject,
                "units": "standard deviations" if zscore else "percent signal change",
                "zscore": zscore,
            },
        )

    def events(
        self,
        subject: str,
        sessions: str = "all",
        *,
        asset: Literal["fsaverage_events", "events", "bold_events"] = folders.FSAVERAGE_EVENTS,
    ) -> pd.DataFrame:
        """Tables of events of some sessions, one after the other.

        Parameters
        ----------
        subject, sessions
            As for :meth:`betas`.
        asset
            Which tables: filtered for betas, all events, or filtered for time series.

        Returns
        -------
        DataFrame
            A row an event; columns as the asset's documentation describes them.

        Raises
        ------
        NotEnoughDataError
            If the store lacks a session that was asked for.
        ArtifactError
            If a table is damaged.

        Examples
        --------
        >>> events = store.events("subj01", sessions="1")
        >>> images = events[events.type == "Image"]
        >>> len(images), images.image_id.nunique() <= len(images)
        (30, True)
        """
        keys = self._sessions(asset, subject, sessions)
        return read_sessions(self._store, [folders.artifact_key(asset, key) for key in keys])

    def embeddings(self, *stimulus_sets: str, asset: str = folders.EMBEDDINGS) -> xr.DataArray:
        """Embeddings of images, as the vision model gave them.

        Parameters
        ----------
        stimulus_sets
            ``shared``, or a subject for the images that only they saw; all that are there if none
            is named.
        asset
            Asset of another encoder's embeddings, where experiments have some.

        Returns
        -------
        DataArray of shape (image_id, dimension), float32
            Its attributes are the encoder's settings.

        Raises
        ------
        ArtifactError
            If they have not been made, are damaged, or are of two encoders.

        Examples
        --------
        >>> images = store.embeddings("shared")
        >>> seen = images.sel(image_id=store.betas("subj01").image_id[:0])
        >>> seen.sizes["dimension"] == images.sizes["dimension"]
        True
        """
        keys = [folders.artifact_key(asset, name) for name in stimulus_sets] or self._store.keys(
            f"{asset}/"
        )
        if not keys:
            raise ArtifactError(
                f"{self._store.url} has no {asset}.",
                next_step=f"make {asset} of a stimulus set.",
                remake=Remake(asset, folders.SHARED),
            )
        return read_images(self._store, keys)

    def images(
        self, image_ids: ArrayLike, *, source: str | Path | None = None
    ) -> NDArray[np.uint8]:
        """Images that were shown, as they are in NSD.

        NSD's terms forbid passing them on.

        Parameters
        ----------
        image_ids
            NSD's 0-based 73k rows.
        source
            The mirror of NSD that they are read in, if the store was made from one; that of
            ``NSD_SOURCE`` if None.

        Returns
        -------
        array of shape (image, 425, 425, 3), uint8
            In RGB, in the order of the ids.

        Raises
        ------
        ArtifactError
            If the store lacks one of them, or the mirror is not there.

        Examples
        --------
        >>> seen = store.images(store.betas("subj01").image_id[:2], source="nsd")
        >>> seen.shape
        (2, 425, 425, 3)
        """
        ids = np.asarray(image_ids, np.int64)
        images = np.empty((len(ids), *layout.IMAGE_SHAPE), np.uint8)
        lacking = np.ones(len(ids), bool)
        mirror = source or os.environ.get("NSD_SOURCE", DEFAULT_URL)
        for stimulus_set in (folders.SHARED, *layout.SUBJECTS):
            index = self._store.find(f"{folders.STIMULI}/{stimulus_set}/index")
            if index is not None:
                read = open_images(
                    self._store, index, lambda: open_source(mirror).local_path(layout.STIMULI_KEY)
                )
                here = lacking & np.isin(ids, read.image_ids)
                images[here] = read(ids[here])
                lacking &= ~here
        if lacking.any():
            raise ArtifactError(
                f"{self._store.url} has no picture of the image {ids[lacking][0]}.",
                next_step=f"make {folders.STIMULI} of the subject that saw it, or of"
                f" {folders.SHARED}.",
            )
        return images

    def decoder(self, subject: str, experiment: str = DEFAULT) -> "TrainedDecoder":
        """Models of an experiment, one for each seed, ready to predict on the CPU.

        Parameters
        ----------
        subject
            ``subj01`` to ``subj08``, or ``all`` for the joint model.
        experiment
            Name in the file of experiments; ``default`` is the asset ``fmri_mlp``. A decoder class
            of your own has to be named by your file (``NSD_EXPERIMENTS``) too.

        Raises
        ------
        ArtifactError
            If they have not been trained, or are damaged.

        Examples
        --------
        >>> decoder = store.decoder("subj01")
        >>> decoder.seeds
        [0, 1]
        """
        from nsd_pipeline.decoding import load_model

        made = find_models(self._store, subject, experiment)
        folder, config = self._store.folder(made.key), TrainingConfig.of_model(made.config)
        # A class of a user's own is imported by the name in their file, not by one in the store.
        own = read_experiments(chosen_file()).get(experiment)
        trusted, named = (own.training, own.encoder) if own else (None, None)
        # Names of embeddings differ by encoder: what the models learned from says which are theirs.
        images = [name for name in made.inputs if name.startswith(folders.EMBEDDINGS)]
        return TrainedDecoder(
            subject=subject,
            experiment=experiment,
            config=config,
            models={
                seed: load_model(seed_folder(folder, config, seed), trusted=trusted)
                for seed in config.seeds
            },
            vertices=read_vertices(folder),
            encoder=made.metadata["encoder"],
            trials=pd.read_parquet(folder / TRIALS_FILE),
            _encoder_named=named or EncoderSettings(),
            _store=self._store,
            _image_keys=images,
        )

    def _sessions(self, folder: str, subject: str, sessions: str) -> list[str]:
        at_hand = sessions_with(self._store, folder, [subject])
        if not at_hand:
            raise NotEnoughDataError(
                f"{self._store.url} has no {folder} of {subject!r}.",
                next_step="make them, or name another subject or store: subjects are subj01 to"
                " subj08.",
            )
        return choose_sessions(sessions, at_hand)


def find_models(store: Store, subject: str, experiment: str) -> Manifest:
    """Manifest of an experiment's models of a subject; an ArtifactError if there is none."""
    made = store.find(folders.artifact_key(folders.model_folder(experiment), subject))
    if made is None:
        raise ArtifactError(
            f"The experiment {experiment} has no models of {subject} in {store.url}.",
            next_step="train them, or name another experiment or store (NSD_STORAGE).",
        )
    return made


def to_surface_image(values: xr.DataArray | ArrayLike) -> "SurfaceImage":
    """Values of vertices as nilearn takes them, on the inflated fsaverage5.

    Parameters
    ----------
    values : DataArray or array of shape (vertex,) or (trial, vertex)
        All 20,484 vertices, left hemisphere first; or a DataArray with the coordinate ``vertex``,
        of any of them. The others become NaN.

    Raises
    ------
    ValueError
        If an array is of another number of vertices.

    Examples
    --------
    >>> image = nsd.to_surface_image(store.betas("subj01", sessions="1").mean("trial"))
    >>> {part: data.shape for part, data in image.data.parts.items()}
    {'left': (10242,), 'right': (10242,)}
    """
    from nilearn.datasets import load_fsaverage
    from nilearn.surface import SurfaceImage

    if isinstance(values, xr.DataArray) and "vertex" in values.coords:
        values = values.transpose(..., "vertex").reindex(vertex=np.arange(layout.N_VERTICES))
    array = np.asarray(values, np.float32)
    if array.shape[-1] != layout.N_VERTICES:
        raise ValueError(
            f"An array of {array.shape[-1]} vertices: fsaverage5 has {layout.N_VERTICES}. A"
            " DataArray with the coordinate `vertex` may have some of them."
        )
    left, right = np.split(array.T, 2)
    return SurfaceImage(load_fsaverage("fsaverage5")["inflated"], {"left": left, "right": right})
