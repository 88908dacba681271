"""The trials a model learns from: where their fMRI lies, and which image each of them showed.

A trial is some rows of fMRI that follow each other: one row of betas, or the samples of a window of
time series, which is known by its first one. Rows are in memory or stay in the store (see
``rows``); splits are some of the trials over the same rows. Targets are one row an image, not one a
trial.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.decoding.rows import (
    Floats,
    HeldRows,
    Integers,
    Memory,
    ReadsRows,
    StoredRows,
    hold_rows,
    samples_of,
)
from nsd_pipeline.errors import ArtifactError, MappingError, NotEnoughDataError, NsdError
from nsd_pipeline.evaluation import retrieval_metrics as retrieval_metrics  # public, torch-free
from nsd_pipeline.events import window
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.surface.session_files import SeriesLayout

if TYPE_CHECKING:
    import pandas as pd

SessionKey = tuple[str, int]
"""A subject and the number of one of its sessions."""

_SPLIT_ADVICE: Final = {
    "train": "prepare a session that has trials outside the shared images.",
    "val": "prepare another session, so that validation gets runs of its own.",
    "test": "prepare a session that showed shared images.",
}


@dataclass(frozen=True, kw_only=True)
class Trials:
    """N trials, their fMRI (N, V, T) and the images they showed.

    `rows` are all fMRI (R, V) that some trial needs. `first_row` (N,) is where each trial begins,
    and `n_times` are its rows T: 1 for betas, the samples of a window for time series. `targets`
    (n_images, D), float32 and contiguous, are embeddings, and `target_index` (N,) is the row of
    each trial's. Splits share rows and targets. `table` has one row a trial: at least ``subject``,
    ``session``, ``image_id`` and, to be split, ``split``.
    """

    rows: HeldRows | StoredRows
    first_row: Integers
    n_times: int
    targets: Floats
    target_index: Integers
    table: "pd.DataFrame"

    def __post_init__(self) -> None:
        targets = self.targets
        if targets.ndim != 2 or targets.dtype != np.float32 or not targets.flags.c_contiguous:
            raise ValueError("targets are not a contiguous two-dimensional float32 array")
        if not len(self.first_row) == len(self.target_index) == len(self.table):
            raise ValueError("first_row, target_index and table differ in length")
        if len(self.first_row) and not (
            self.first_row.min() >= 0 and self.first_row.max() + self.n_times <= self.rows.n_rows
        ):
            raise ValueError("a trial goes beyond the rows")

    @property
    def n_trials(self) -> int:
        """Number of trials."""
        return len(self.table)

    @property
    def n_vertices(self) -> int:
        """Vertices V of the fMRI."""
        return self.rows.n_vertices

    @property
    def n_outputs(self) -> int:
        """Width D of the targets."""
        return int(self.targets.shape[1])

    def places(self) -> Integers:
        """Rows (N, T) of every trial."""
        return samples_of(self.first_row, self.n_times)

    def y_true(self) -> Floats:
        """Target (N, D) of each trial."""
        return self.targets[self.target_index]

    def select(self, mask: NDArray[np.bool_]) -> Self:
        """Trials for which ``mask`` (N,) holds, over the same rows."""
        return replace(
            self,
            first_row=self.first_row[mask],
            target_index=self.target_index[mask],
            table=self.table[mask].reset_index(drop=True),
        )

    def split(self, name: str) -> Self:
        """Trials of the split ``"train"``, ``"val"`` or ``"test"``, over the same rows.

        A NotEnoughDataError if no trial is in it.
        """
        mask = self.table["split"].eq(name).to_numpy(dtype=bool, na_value=False)
        if not mask.any():
            sessions = self.table[["subject", "session"]].drop_duplicates()
            keys = [session_key(*pair) for pair in sessions.itertuples(index=False)]
            raise NotEnoughDataError(
                f"None of the {self.n_trials} trials is in the split {name!r}; "
                f"the sessions are {', '.join(keys)}.",
                next_step=_SPLIT_ADVICE[name],
            )
        return self.select(mask)


def assemble_trials(
    table: "pd.DataFrame",
    sessions: Mapping[SessionKey, ReadsRows],
    image_ids: Integers,
    embeddings: Floats,
    *,
    n_times: int = 1,
    first: str = "trial",
    memory: Memory | None = None,
) -> Trials:
    """Put the fMRI of a cohort's sessions and the embeddings of what was seen together.

    Parameters
    ----------
    table
        The ``Image`` events wanted: ``subject``, ``session``, ``trial``, ``image_id`` and whatever
        else is wanted in the result. Sessions keep their order of appearance.
    sessions
        Readers of the sessions' rows, such as `SessionRows`.
    image_ids, embeddings
        Which images (n,) there are embeddings (n, D) of.
    n_times
        Rows of a trial.
    first
        Column of ``table`` with the row of its session at which a trial begins: of betas, a trial's
        number is its row.
    memory
        How rows are kept, and in how much memory; in memory as float32 unless given.

    Raises
    ------
    NotEnoughDataError
        If there are no trials, or too little memory.
    MappingError
        If a session lists a trial twice.
    ArtifactError
        If an image has no embedding.
    """
    import pandas as pd

    groups = by_session(table)
    ordered = pd.concat(groups.values(), ignore_index=True)
    target_index = target_rows(ordered["image_id"].to_numpy(dtype=np.int64), image_ids)
    begins = {key: group[first].to_numpy(np.int64) for key, group in groups.items()}
    rows, first_rows = hold_rows(
        [(sessions[key], begin) for key, begin in begins.items()], n_times, memory or Memory()
    )
    return Trials(
        rows=rows,
        first_row=first_rows,
        n_times=n_times,
        targets=np.require(embeddings, np.float32, ["C", "W"]),
        target_index=target_index,
        table=ordered,
    )


def by_session(table: "pd.DataFrame") -> "dict[SessionKey, pd.DataFrame]":
    """Trials of each subject and session, in order of appearance, and by number within a session.

    A NotEnoughDataError if there are no trials; a MappingError if a session lists a trial twice.
    """
    if table.empty:
        raise NotEnoughDataError(
            "There are no trials to learn from.", next_step="prepare a session of this cohort."
        )
    sessions = {
        cast("SessionKey", key): group.sort_values("trial", kind="stable")
        for key, group in table.groupby(["subject", "session"], sort=False)
    }
    for key, group in sessions.items():
        numbers = group["trial"].to_numpy(dtype=np.int64)
        # Two events for one trial would pair its fMRI with two images.
        twice = numbers[1:][np.diff(numbers) == 0]
        if len(twice):
            raise MappingError(
                f"The events of {session_key(*key)} list trial {twice[0]} twice.",
                next_step="make events and fsaverage_events of the session again.",
            )
    return sessions


def target_rows(wanted: Integers, image_ids: Integers) -> Integers:
    """Place of each wanted image among ``image_ids``, which may be in any order.

    An ArtifactError if an image is not among them: it has no embedding.
    """
    import pandas as pd

    rows: Integers = pd.Index(image_ids).get_indexer(pd.Index(wanted))
    missing = np.unique(wanted[rows < 0])
    if len(missing):
        raise ArtifactError(
            f"{len(missing)} images have no embedding, among them "
            f"{', '.join(map(str, missing[:5]))}.",
            next_step="make stimulus_embeddings of the cohort's stimulus sets.",
        )
    return rows


class Windows(NamedTuple):
    """Where the windows of trials lie.

    The trials are those whose window of `n_times` samples is complete. Their column ``sample`` is
    its first sample, counted from the start of the session's time series. Windows of `n_dropped`
    others go beyond their run.
    """

    trials: "pd.DataFrame"
    n_times: int
    n_dropped: int


def place_windows(
    trials: "pd.DataFrame",
    layouts: Mapping[SessionKey, SeriesLayout],
    *,
    start: float,
    duration: float,
) -> Windows:
    """Find the samples that follow every image, and drop trials that their run is too short for.

    Trials are ``Image`` events with ``subject``, ``session``, ``run``, ``trial`` and ``start``, the
    onset in seconds after the run's first sample; layouts are those of each session's time series.
    `start` and `duration` are the seconds from the onset to the window, and its length:
    :func:`nsd_pipeline.events.window` says how they are rounded to samples.

    An NsdError if sessions differ in repetition time, so that their windows would differ in length;
    a MappingError if a trial is of a run that the session's time series lack; a NotEnoughDataError
    if no window is complete.
    """
    import pandas as pd

    _check_same_tr(layouts)
    kept, n_times = [], 0
    for key, group in by_session(trials).items():
        layout = layouts[key]
        runs = group["run"].to_numpy(np.int64)
        if missing := sorted(set(runs.tolist()) - set(layout.runs)):
            raise MappingError(
                f"The time series of {session_key(*key)} lack run {missing[0]}, in which the events"
                " list trials.",
                next_step="make fsaverage5_series of the session again.",
            )
        run_first, run_samples = np.array([layout.runs[run] for run in runs.tolist()]).T
        first, n_times = window(
            group["start"].to_numpy(np.float64), layout.tr, start=start, duration=duration
        )
        complete = (first >= 0) & (first + n_times <= run_samples)
        kept.append(group.assign(sample=run_first + first)[complete])
    complete_trials = pd.concat(kept, ignore_index=True)
    if complete_trials.empty:
        raise NotEnoughDataError(
            f"None of {len(trials)} trials has a window of {duration} s from {start} s after its"
            " onset within its run.",
            next_step="choose a shorter window, or check the onsets of the events.",
        )
    return Windows(complete_trials, n_times, len(trials) - len(complete_trials))


def _check_same_tr(layouts: Mapping[SessionKey, SeriesLayout]) -> None:
    by_tr: dict[float, SessionKey] = {}
    for key, layout in layouts.items():
        by_tr.setdefault(round(layout.tr, 4), key)
    if len(by_tr) > 1:
        examples = ", ".join(f"{session_key(*key)} has {tr} s" for tr, key in by_tr.items())
        raise NsdError(
            f"The sessions differ in repetition time, so their windows would differ in length: "
            f"{examples}.",
            next_step="make bold, bold_events and fsaverage5_series of all sessions from one"
            " source and space.",
        )
