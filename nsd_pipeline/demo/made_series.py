"""The demo's sessions as recordings: a raw BIDS tree with events, and derivatives on fsaverage5.

The same responses that betas are made of come one after the other here, each as a haemodynamic
response to its image, on a baseline that drifts. Runs are as long as their trials need.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.demo.brain import WHITE_NOISE, Brain
from nsd_pipeline.nsd.bids_names import TASK
from nsd_pipeline.nsd.layout import subject_number

RAW: Final = "nsddata_rawdata"
DERIVATIVES: Final = "derivatives"
"""Folders of a dataset that hold the raw BIDS tree (as on the bucket) and what was made of it."""
TR: Final = 1.6
"""Repetition time of NSD's raw data in seconds."""

_SLOT: Final = 4.0
_AFTER_LAST: Final = 16.0
"""Seconds that a run goes on after its last image."""
_LATE: Final = 0.25
"""Seconds by which an image may come later than its slot: raw events have measured onsets."""
_BASELINE: Final = 1000.0
_DRIFT: Final = 10.0


def haemodynamic_response(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Response to a short event: a peak of 1 about 5 s after it, and an undershoot after that."""
    from scipy.stats import gamma

    response = gamma.pdf(seconds, 6) - gamma.pdf(seconds, 16) / 6
    return np.asarray(response / 0.1755)


def write_events(folder: Path, trials: pd.DataFrame, seed: int) -> None:
    """Write the raw BIDS tree's ``events.tsv`` for the runs of a session, and the sidecar.

    Parameters
    ----------
    folder
        Root of the dataset.
    trials
        The session's trials: ``subject``, ``session``, ``run``, ``slot``, ``image_id``.
    seed
        Seed of the dataset.
    """
    raw = folder / RAW
    sidecar = raw / f"task-{TASK}_bold.json"
    for run, onsets in session_onsets(trials, seed).items():
        images = trials.loc[trials["run"] == run, "image_id"].to_numpy() + 1
        path = raw / f"{_stem(trials, run)}_events.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"onset": onsets.round(3), "duration": 3.0, "73k_id": images})
        table.to_csv(path, sep="\t", index=False)
    sidecar.write_text(json.dumps({"RepetitionTime": TR, "TaskName": TASK}) + "\n")


def session_onsets(trials: pd.DataFrame, seed: int) -> dict[int, NDArray[np.float64]]:
    """Seconds at which each image of a session came on, by run."""
    subject, session = trials["subject"].iloc[0], int(trials["session"].iloc[0])
    rng = np.random.default_rng([seed, 4, subject_number(subject), session])
    return {
        int(str(run)): _SLOT * slots.to_numpy() + rng.uniform(0, _LATE, len(slots))
        for run, slots in trials.groupby("run")["slot"]
    }


def write_surface_runs(
    folder: Path,
    brain: Brain,
    trials: pd.DataFrame,
    responses: NDArray[np.float32],
) -> None:
    """Write one hemisphere of a session's runs on fsaverage5, as fMRIPrep names them.

    Parameters
    ----------
    folder
        Root of the dataset.
    brain
        The hemisphere.
    trials
        The session's trials, as for :func:`write_events`.
    responses
        (T, 10242) what :meth:`Brain.responses` gives for them, in percent.
    """
    import nibabel

    session = int(trials["session"].iloc[0])
    rng = brain.rng(session, 4)
    side = {"lh": "L", "rh": "R"}[brain.hemisphere]
    for run, onsets in session_onsets(trials, brain.seed).items():
        n_samples = int((onsets[-1] + _AFTER_LAST) / TR)
        seconds = TR * np.arange(n_samples)
        course = haemodynamic_response(seconds[:, np.newaxis] - onsets).astype(np.float32)
        series = course @ responses[trials["run"].to_numpy() == run]
        series += np.float32(WHITE_NOISE / 2) * rng.standard_normal(series.shape, np.float32)
        series += np.float32(_DRIFT / 100) * np.linspace(-1, 1, n_samples, dtype="f4")[:, None]
        series = _BASELINE * (1 + series / 100)
        path = folder / DERIVATIVES / f"{_stem(trials, run)}_hemi-{side}_space-fsaverage5_bold"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: list[Any] = [
            nibabel.gifti.GiftiDataArray(sample.round(1), intent="NIFTI_INTENT_TIME_SERIES")
            for sample in series.astype(np.float32)
        ]
        nibabel.save(nibabel.GiftiImage(darrays=arrays), f"{path}.func.gii")


def _stem(trials: pd.DataFrame, run: int) -> str:
    """Path of a run's files without their endings, relative to a BIDS tree."""
    subject = f"sub-{subject_number(trials['subject'].iloc[0]):02d}"
    session = f"ses-nsd{int(trials['session'].iloc[0]):02d}"
    return f"{subject}/{session}/func/{subject}_{session}_task-{TASK}_run-{run:02d}"
