"""Trained models of one subject in a notebook: betas in, estimates and retrieved images out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.rows import Floats, Integers
from nsd_pipeline.embeddings import (
    ImageEncoder,
    describe_encoder,
    read_embeddings,
    same_encoder,
)
from nsd_pipeline.embeddings.encoder_settings import EncoderSettings
from nsd_pipeline.embeddings.image_set import EMBEDDINGS_FILE
from nsd_pipeline.embeddings.own_pictures import embed_pictures, encoder_arguments, find_pictures
from nsd_pipeline.errors import ArtifactError, NotEnoughDataError, NsdError
from nsd_pipeline.evaluation import ensemble
from nsd_pipeline.evaluation.ranks import best_first
from nsd_pipeline.evaluation.retrieval import cosine_to_candidates
from nsd_pipeline.experiments.entry import DEFAULT
from nsd_pipeline.folders import SHARED
from nsd_pipeline.nsd.layout import DEFAULT_SPACE, N_VERTICES
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface.session_files import CHUNK_ROWS

if TYPE_CHECKING:
    from nsd_pipeline.decoding import Decoder

OF_A_TRIAL: Final = ("session", "trial", "image_id")
"""Coordinates that say which trial it is, and what it showed."""
_TRIALS_AT_ONCE: Final = 2 * CHUNK_ROWS
"""Trials that a model is given together: whole chunks, so that none is read twice."""
_SAME_PICTURE: Final = 1e-2
"""Distance of two embeddings of one picture, as a share of their length: a GPU rounds in another
order than a CPU, bfloat16 to 8 bits. The nearest two of 30 pictures of the demo are 0.39 apart."""


@dataclass(frozen=True, kw_only=True)
class TrainedDecoder:
    """Models of one subject that differ in their seeds; :meth:`Artifacts.decoder` gives one.

    Attributes
    ----------
    subject, experiment
        Whose they are.
    config
        How they were trained.
    models
        A torch module for each seed.
    vertices : array of shape (V,) or None
        fsaverage5 vertices that they take, ascending; None for all.
    encoder
        Settings of the vision model whose embeddings they estimate.
    trials
        What they were trained and tested on: ``subject``, ``session``, ``image_id``, ``split``
        (``train``, ``val`` or ``test``, among others).
    """

    subject: str
    experiment: str
    config: TrainingConfig = field(repr=False)
    models: "Mapping[int, Decoder]" = field(repr=False)
    vertices: Integers | None = field(repr=False)
    encoder: Mapping[str, Any] = field(repr=False)
    trials: pd.DataFrame = field(repr=False)
    _encoder_named: EncoderSettings = field(repr=False)
    _store: Store = field(repr=False)
    _image_keys: Sequence[str] = field(repr=False)

    @property
    def space(self) -> str:
        """Space of the betas that they learned from, as :meth:`Artifacts.betas` takes it."""
        # The default's betas have one place, whichever space a run made them from.
        asked = None if self.experiment == DEFAULT else self.config.space
        return asked or DEFAULT_SPACE

    @property
    def seeds(self) -> list[int]:
        """Seeds of the models, the first one first."""
        return list(self.models)

    def predict(self, betas: xr.DataArray | ArrayLike, *, seed: int | None = None) -> xr.DataArray:
        """Estimate the embedding of the image that each trial showed.

        Parameters
        ----------
        betas : DataArray or array of shape (trial, vertex)
            Of all 20,484 vertices or of the model's region, z-scored if the model learned from
            z-scores. Values that are not finite count as 0, as in training. A model of windows
            takes (trial, vertex, time).
        seed
            Which model; the first one if None.

        Returns
        -------
        DataArray of shape (trial, dimension), float32
            With the coordinates that the betas have along trials.

        Raises
        ------
        NsdError
            If the betas are z-scored and the model's were not, or the other way round, or there is
            no model of that seed.
        ValueError
            If the betas have another number of vertices or time points.

        Examples
        --------
        >>> estimates = decoder.predict(store.betas("subj01", sessions="1"), seed=1)
        >>> estimates.dims
        ('trial', 'dimension')
        """
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.models:
            raise NsdError(
                f"The experiment {self.experiment} has no model of seed {seed}.",
                next_step=f"choose one of {self.seeds}.",
            )
        estimates, coords = self._estimate(betas, [seed])
        return xr.DataArray(estimates[0], coords, ("trial", "dimension"))

    def ensemble(self, betas: xr.DataArray | ArrayLike) -> xr.DataArray:
        """Mean of all seeds' estimates, each scaled to unit length; one seed's stay as they are.

        Parameters, returns and errors are those of :meth:`predict`. Betas are read once.

        Examples
        --------
        >>> together = decoder.ensemble(store.betas("subj01", sessions="1"))
        >>> together.sizes["trial"]
        30
        """
        estimates, coords = self._estimate(betas, self.seeds)
        return xr.DataArray(ensemble(estimates), coords, ("trial", "dimension"))

    def retrieve(
        self,
        estimates: xr.DataArray | ArrayLike,
        *,
        among: ArrayLike | None = None,
        n_top: int = 10,
    ) -> pd.DataFrame:
        """List the images whose embeddings fit each estimate best.

        The score is the one of the metrics: the dot product of the estimate and the image's
        embedding scaled to unit length.

        Parameters
        ----------
        estimates : array of shape (trial, dimension)
            What :meth:`predict` or :meth:`ensemble` returned.
        among
            Ids of the images to choose from, or what :meth:`embed` returned; all shared images that
            are embedded, if None.
        n_top
            Images for each trial; all of them if there are fewer.

        Returns
        -------
        DataFrame
            ``row`` (of the estimates), ``session``, ``trial`` and ``image_id`` (that was shown) if
            the estimates have them, ``place`` (from 1), ``retrieved_image_id`` or
            ``retrieved_picture``, ``score``, and ``seen``: whether it is the image that was shown
            (a picture, if its embedding is that image's), if the estimates know which was.

        Raises
        ------
        ArtifactError
            If an image has no embedding, or images have been embedded by another encoder since.
        NsdError
            If a score is not finite.

        Examples
        --------
        >>> table = decoder.retrieve(together[:3], n_top=2)
        >>> list(table.columns)
        ['row', 'session', 'trial', 'image_id', 'place', 'retrieved_image_id', 'score', 'seen']
        >>> len(table)
        6
        """
        candidates = self._candidates(among)
        scores = cosine_to_candidates(np.asarray(estimates, np.float32), candidates.to_numpy())
        row, place, best = best_first(scores, n_top)
        shown = estimates.coords if isinstance(estimates, xr.DataArray) else {}
        kind = str(candidates.dims[0])
        table = pd.DataFrame(
            {
                "row": row,
                **{name: shown[name].to_numpy()[row] for name in OF_A_TRIAL if name in shown},
                "place": place,
                f"retrieved_{kind}": candidates[kind].to_numpy()[best],
                "score": scores[row, best],
            }
        )
        if "image_id" in shown:
            same = self._shows(shown["image_id"].to_numpy(), candidates)
            table["seen"] = same[row, best]
        return table

    def embed(self, folder: str | Path, *, device: str | None = None) -> xr.DataArray:
        """Embed the pictures of a folder by the encoder that the models learned from.

        They are turned upright, cropped to the square at their centre and scaled to NSD's 425
        pixels. Embeddings are kept below ``XDG_CACHE_HOME`` (``~/.cache``), so that a picture is
        embedded once.

        Parameters
        ----------
        folder
            Its files whose names end as those of pictures do (``.jpg``, ``.png``, ...).
        device
            Of the encoder, as torch names it; a GPU if there is one, if None.

        Returns
        -------
        DataArray of shape (picture, dimension), float32
            ``picture`` is the file's name. :meth:`retrieve` takes it as ``among``.

        Raises
        ------
        NotEnoughDataError
            If the folder has no picture.
        InvalidFileError
            If a picture is damaged.
        ModelError
            If the encoder cannot be had: a local one is looked for where the experiment or
            ``NSD_ENCODER`` names it.

        Examples
        --------
        >>> pictures = decoder.embed("my_pictures")
        >>> table = decoder.retrieve(together[:1], among=pictures, n_top=2)
        >>> sorted(table.retrieved_picture)
        ['navy.png', 'red.png']
        """
        paths = find_pictures(Path(folder))

        def make_encoder() -> ImageEncoder:
            named = (self._encoder_named.settings()["model"], self.encoder["model"])
            return ImageEncoder(**encoder_arguments(self.encoder, named), device=device)

        values = embed_pictures(paths, self.encoder, make_encoder)
        names = {"picture": [path.name for path in paths]}
        return xr.DataArray(values, names, ("picture", "dimension"), attrs=dict(self.encoder))

    def _shows(self, image_ids: Integers, candidates: xr.DataArray) -> NDArray[np.bool_]:
        """Whether candidates are the images that trials showed: (trial, candidate)."""
        from scipy.spatial.distance import cdist

        if "image_id" in candidates.coords:
            same: NDArray[np.bool_] = image_ids[:, None] == candidates.image_id.to_numpy()
            return same
        # An image without an embedding becomes NaN, which is near nothing.
        own = self._images.reindex(image_id=image_ids).to_numpy()
        near = _SAME_PICTURE * np.linalg.norm(own, axis=1, keepdims=True)
        return np.asarray(cdist(own, candidates.to_numpy()) <= near)

    def _estimate(
        self, betas: xr.DataArray | ArrayLike, seeds: Sequence[int]
    ) -> tuple[Floats, dict[str, Any]]:
        """Estimates (S, N, D) of some seeds' models, a few trials at a time."""
        import torch

        array = betas if isinstance(betas, xr.DataArray) else np.asarray(betas)
        coords: dict[str, Any] = {}
        if isinstance(array, xr.DataArray):
            if array.attrs.get("zscore", self.config.zscore) != self.config.zscore:
                raise NsdError(
                    f"These models learned from betas with zscore={self.config.zscore}, and are"
                    " given others.",
                    next_step=f"read them with store.betas(..., zscore={self.config.zscore}).",
                )
            array = array.transpose("trial", "vertex", ...)
            coords = {
                str(name): each for name, each in array.coords.items() if each.dims == ("trial",)
            }
        if self.vertices is not None and array.shape[1] == N_VERTICES:
            array = array[:, self.vertices]
        parts = []
        for start in range(0, len(array), _TRIALS_AT_ONCE):
            values = np.array(array[start : start + _TRIALS_AT_ONCE], np.float32)
            values[~np.isfinite(values)] = 0
            x = torch.from_numpy(values if values.ndim == 3 else values[..., None])
            with torch.inference_mode():
                parts.append(np.stack([self.models[seed](x).numpy() for seed in seeds]))
        if not parts:
            raise NotEnoughDataError("There are no trials.", next_step="choose some.")
        return np.concatenate(parts, axis=1), coords

    def _candidates(self, among: ArrayLike | None) -> xr.DataArray:
        if among is None:
            shared = [key for key in self._image_keys if key.endswith(f"/{SHARED}")]
            return self._check_encoder(read_images(self._store, shared))
        if isinstance(among, xr.DataArray) and "dimension" in among.dims:
            return among
        ids = np.asarray(among, np.int64)
        lacking = np.setdiff1d(ids, self._images.image_id)
        if len(lacking):
            raise ArtifactError(
                f"{len(lacking)} of the images to choose from have no embedding, such as"
                f" {lacking[0]}.",
                next_step="choose among images that this subject's sessions showed, or make"
                " stimulus_embeddings of their stimulus set.",
            )
        return self._images.sel(image_id=ids)

    @cached_property
    def _images(self) -> xr.DataArray:
        return self._check_encoder(read_images(self._store, self._image_keys))

    def _check_encoder(self, images: xr.DataArray) -> xr.DataArray:
        if not same_encoder(images.attrs, self.encoder):
            raise ArtifactError(
                f"The models of {self.subject} estimate embeddings of"
                f" {describe_encoder(self.encoder)}, but those in the store are now of"
                f" {describe_encoder(images.attrs)}.",
                next_step="train the models again, on the new ones.",
            )
        return images


def read_images(store: Store, keys: Sequence[str]) -> xr.DataArray:
    """Embeddings (image_id, dimension) of some stimulus sets, by their keys in the store.

    An ArtifactError if they are missing, damaged, or of two encoders.
    """
    sets: list[xr.DataArray] = []
    for key in keys:
        ids, values, settings = read_embeddings(store.folder(key) / EMBEDDINGS_FILE)
        if sets and not same_encoder(sets[0].attrs, settings):
            raise ArtifactError(
                f"{keys[0]} and {key} were embedded by different encoders:"
                f" {describe_encoder(sets[0].attrs)} and {describe_encoder(settings)}.",
                next_step="make both with one encoder, or read them one by one.",
            )
        coords = {"image_id": ids.astype(np.int64)}
        sets.append(xr.DataArray(values, coords, ("image_id", "dimension"), attrs=settings))
    return xr.concat(sets, "image_id", combine_attrs="override")
