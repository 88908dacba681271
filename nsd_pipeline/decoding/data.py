"""The trials a model learns from, held once.

A cohort's fMRI is one float32 array, allocated once and filled session by session in place; a trial
is one row of it (betas) or some that follow each other (a window of a time series), and a split is
some of the trials. Targets are one row an image, not one a trial. The whole dataset is 17 GB of
betas or 59 GB of time series on fsaverage5, so a second copy is the difference between fitting and
not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.decoding.dtypes import NUMPY_DTYPES, DataDtype, fill_rounded
from nsd_pipeline.nsd.errors import ArtifactError, MappingError, NotEnoughDataError
from nsd_pipeline.nsd.layout import session_key

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Gather(Protocol):
    """Batches of trials on a device, and in which order they are best asked for."""

    def __call__(self, trials: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        """From numbers of trials (B,) on the CPU to fMRI (B, V, T) and targets (B, D) on a device.

        The fMRI has the precision that it is kept in. What it returns holds until the next call,
        which may reuse the memory.
        """
        ...

    def shuffle(self, generator: "torch.Generator") -> "torch.Tensor":
        """Draw an order (N,) in which every trial comes once.

        Any order is as likely as any other one, unless trials come from a disk.
        """
        ...

    def expect(self, order: "torch.Tensor") -> None:
        """Say which trials will be asked for, in which order; others cost more but come as well."""
        ...


ReadSession = Callable[[str, int, Integers, Floats], object]
"""From a subject, a session, numbers of trials (n,) in ascending order, and an array (n, V) to fill
with the betas of these trials."""

_SPLIT_ADVICE: Final = {
    "train": "materialize a session that has trials outside the shared images.",
    "val": "materialize another session, so that validation gets runs of its own.",
    "test": "materialize a session that showed shared images.",
}


class Batches(Protocol):
    """What training and prediction need from data: how much there is, and any batch of it."""

    @property
    def n_trials(self) -> int:
        """Number of trials."""
        ...

    @property
    def n_vertices(self) -> int:
        """Vertices V of the fMRI."""
        ...

    @property
    def n_times(self) -> int:
        """Time points T of a trial."""
        ...

    @property
    def n_outputs(self) -> int:
        """Width D of the targets."""
        ...

    def gather(self, device: "torch.device", batch_size: int) -> Gather:
        """Prepare to put batches of at most ``batch_size`` trials on a device."""
        ...


@dataclass(frozen=True, kw_only=True)
class SeenTrials:
    """Trials and the images they showed, without a word on where their fMRI is.

    Attributes
    ----------
    targets
        Embeddings (n_images, D), float32 and contiguous; shared between splits.
    target_index
        Row (N,) of ``targets`` of each trial.
    trials
        One row a trial (N): at least ``subject``, ``image_id`` and, to be split, ``split``.
    """

    targets: Floats
    target_index: Integers
    trials: pd.DataFrame

    def __post_init__(self) -> None:
        _check_matrix("targets", self.targets, [np.float32])
        if len(self.target_index) != len(self.trials):
            raise ValueError("target_index and trials differ in length")

    @property
    def n_trials(self) -> int:
        """Number of trials."""
        return len(self.trials)

    @property
    def n_outputs(self) -> int:
        """Width D of the targets."""
        return int(self.targets.shape[1])

    def select(self, mask: NDArray[np.bool_]) -> Self:
        """Trials for which ``mask`` (N,) holds, over the same arrays."""
        return replace(
            self,
            target_index=self.target_index[mask],
            trials=self.trials[mask].reset_index(drop=True),
            **self._rows_of(mask),
        )

    def _rows_of(self, mask: NDArray[np.bool_]) -> dict[str, Any]:  # noqa: ARG002
        """The attributes that say where the trials for which ``mask`` holds lie."""
        return {}

    def split(self, name: str) -> Self:
        """Trials of the split ``"train"``, ``"val"`` or ``"test"``, over the same arrays.

        Raises
        ------
        NotEnoughDataError
            If no trial is in it.
        """
        mask = self.trials["split"].eq(name).to_numpy(dtype=bool, na_value=False)
        if not mask.any():
            sessions = self.trials[["subject", "session"]].drop_duplicates()
            keys = [session_key(*pair) for pair in sessions.itertuples(index=False)]
            raise NotEnoughDataError(
                f"None of the {self.n_trials} trials is in the split {name!r}; "
                f"the sessions are {', '.join(keys)}.",
                next_step=_SPLIT_ADVICE[name],
            )
        return self.select(mask)

    def y_true(self) -> Floats:
        """Target (N, D) of each trial."""
        return self.targets[self.target_index]


@dataclass(frozen=True, kw_only=True)
class LabelledTrials(SeenTrials):
    """Trials whose fMRI is in memory; how it lies there is up to the two kinds of trials."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_matrix("fMRI", self.values, list(NUMPY_DTYPES.values()))
        if len(self.first_rows) != len(self.trials):
            raise ValueError("rows of fMRI and trials differ in length")

    @property
    def values(self) -> Floats:
        """All fMRI (R, V), of which a trial is ``n_times`` rows; see ``dtypes`` for half of it."""
        raise NotImplementedError

    @property
    def first_rows(self) -> Integers:
        """Row (N,) of ``values`` at which each trial begins."""
        raise NotImplementedError

    @property
    def n_times(self) -> int:
        """Time points T of a trial."""
        raise NotImplementedError

    @property
    def n_vertices(self) -> int:
        """Vertices V of the fMRI."""
        return int(self.values.shape[1])

    def gather(self, device: "torch.device", batch_size: int) -> Gather:
        """Prepare to put batches of at most ``batch_size`` trials on a device."""
        from nsd_pipeline.decoding.gather import gather_trials

        return gather_trials(self, device, batch_size)


@dataclass(frozen=True, kw_only=True)
class TrialData(LabelledTrials):
    """Trials with one beta for each vertex.

    Attributes
    ----------
    betas
        Responses (R, V), float32 and contiguous, z-scored within session; shared between splits.
    rows
        Row (N,) of ``betas`` of each trial.
    """

    betas: Floats
    rows: Integers

    @property
    def values(self) -> Floats:
        """The betas (R, V)."""
        return self.betas

    @property
    def first_rows(self) -> Integers:
        """Row (N,) of each trial."""
        return self.rows

    @property
    def n_times(self) -> int:
        """Time points: a beta is one."""
        return 1

    def _rows_of(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        return {"rows": self.rows[mask]}


def assemble_trials(
    trials: pd.DataFrame,
    n_vertices: int,
    read_session: ReadSession,
    image_ids: Integers,
    embeddings: Floats,
    *,
    dtype: DataDtype = "float32",
) -> TrialData:
    """Put the sessions of a cohort and the embeddings of what was seen together.

    Parameters
    ----------
    trials
        The ``Image`` events wanted: ``subject``, ``session``, ``trial``, ``image_id`` and whatever
        else is wanted in the result. Sessions keep their order of appearance.
    n_vertices
        Vertices V of the betas.
    read_session
        Called once a session with its trials and its own slice of the betas array, which it fills.
    image_ids, embeddings
        Which images (n,) there are embeddings (n, D) of.
    dtype
        What betas are rounded to for keeping them.

    Raises
    ------
    NotEnoughDataError
        If there are no trials.
    MappingError
        If a session lists a trial twice.
    ArtifactError
        If an image has no embedding.
    """
    sessions = by_session(trials)
    ordered = pd.concat(sessions.values(), ignore_index=True)
    target_index = target_rows(ordered["image_id"].to_numpy(dtype=np.int64), image_ids)

    betas = np.empty((len(ordered), n_vertices), dtype=NUMPY_DTYPES[dtype])
    start = 0
    for (subject, session), group in sessions.items():
        numbers = group["trial"].to_numpy(dtype=np.int64)
        fill_rounded(
            betas[start : start + len(group)], partial(read_session, subject, session, numbers)
        )
        start += len(group)
    return TrialData(
        betas=betas,
        rows=np.arange(len(ordered)),
        targets=np.require(embeddings, np.float32, ["C", "W"]),
        target_index=target_index,
        trials=ordered,
    )


def _check_matrix(name: str, array: NDArray[Any], dtypes: list[Any]) -> None:
    if array.ndim != 2 or array.dtype not in dtypes or not array.flags.c_contiguous:
        raise ValueError(f"{name} is not a contiguous two-dimensional float32 array")


def by_session(trials: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """Trials of each subject and session, in order of appearance, and by number within a session.

    Raises
    ------
    NotEnoughDataError
        If there are no trials.
    MappingError
        If a session lists a trial twice.
    """
    if trials.empty:
        raise NotEnoughDataError(
            "There are no trials to learn from.", next_step="materialize a session of this cohort."
        )
    sessions = {
        cast("tuple[str, int]", key): group.sort_values("trial", kind="stable")
        for key, group in trials.groupby(["subject", "session"], sort=False)
    }
    for key, group in sessions.items():
        _check_trials(key, group["trial"].to_numpy(dtype=np.int64))
    return sessions


def _check_trials(session: tuple[str, int], numbers: Integers) -> None:
    """Two events for one trial would pair a beta with two images."""
    twice = numbers[1:][np.diff(numbers) == 0]
    if len(twice):
        raise MappingError(
            f"The events of {session_key(*session)} list trial {twice[0]} twice.",
            next_step="materialize events and fsaverage_events of the session again.",
        )


def target_rows(wanted: Integers, image_ids: Integers) -> Integers:
    """Place of each wanted image among ``image_ids``, which may be in any order.

    Raises
    ------
    ArtifactError
        If an image is not among them: it has no embedding.
    """
    order = np.argsort(image_ids, kind="stable")
    place = np.searchsorted(image_ids, wanted, sorter=order)
    rows: Integers = order[np.minimum(place, len(order) - 1)] if len(order) else place
    found = image_ids[rows] == wanted if len(order) else np.zeros(len(wanted), dtype=bool)
    if not found.all():
        missing = np.unique(wanted[~found])
        raise ArtifactError(
            f"{len(missing)} images have no embedding, among them "
            f"{', '.join(map(str, missing[:5]))}.",
            next_step="materialize stimulus_embeddings of the cohort's stimulus sets.",
        )
    return rows
