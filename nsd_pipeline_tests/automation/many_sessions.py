"""Many sessions that cost little: 12 trials each, or 750, and files that are mostly holes."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nsd_pipeline.demo.experiment import DemoSettings, make_responses, write_design, write_responses
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import N_SHARED_IMAGES, ExperimentDesign, read_experiment_design
from nsd_pipeline_tests.nsd.mgh_files import write_sparse_betas

SUBJECT = "subj01"
N_SESSIONS = 10
N_TRIALS = 12
FULL_SIZE = 750


def write_many_sessions(
    folder: Path,
    model: Path,
    n_sessions: Mapping[str, int] | None = None,
    *,
    n_trials: int = N_TRIALS,
) -> None:
    """Give subjects some sessions; another dataset lends what does not depend on their number.

    Parameters
    ----------
    n_sessions
        How many of each subject; 10 of subj01 by default.
    n_trials
        Of each session, `N_TRIALS` or `FULL_SIZE`. Sessions of full size are one file under many
        names, or they would take 61 MB each.
    """
    n_sessions = n_sessions or {SUBJECT: N_SESSIONS}
    most = max(n_sessions.values())
    rng = np.random.default_rng(0)
    lent = read_experiment_design(model / layout.EXPDESIGN_KEY)
    pattern = np.zeros_like(lent.stimpattern)
    per_run = n_trials / pattern.shape[1]
    pattern[:most, 0::2, 10 : 10 + math.ceil(per_run)] = True
    pattern[:most, 1::2, 10 : 10 + math.floor(per_run)] = True
    # Every image three times, as NSD has it, and some of them shared.
    n_images = most * n_trials // 3
    images = np.arange(n_images) + min(N_SHARED_IMAGES - 20, lent.subjectim.shape[1] - n_images + 1)
    design = ExperimentDesign(
        rng.permutation(np.repeat(images, 3)), lent.subjectim, lent.sharedix, pattern
    )
    responses_keys = map(layout.responses_key, n_sessions)
    for key in (layout.EXPDESIGN_KEY, layout.STIM_INFO_KEY, *responses_keys):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
    write_design(design, folder / layout.EXPDESIGN_KEY)
    info = pd.read_csv(model / layout.STIM_INFO_KEY, index_col=0)
    for subject, number in n_sessions.items():
        _enter_trials(info, design, layout.subject_number(subject))
        # Each subject of a demo has one session less than the one before.
        before = layout.subject_number(subject) - 1
        settings = DemoSettings.model_construct(
            subjects=before + 1, sessions=number + before, trials_per_run=1
        )
        responses = make_responses(design, settings, subject)
        write_responses(responses, folder / layout.responses_key(subject))
        for session in range(1, number + 1):
            for key in layout.betas_keys(subject, session, "fsaverage"):
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                if n_trials == N_TRIALS:
                    write_sparse_betas(folder / key, rng, N_TRIALS)
                    continue
                first = folder / f"{n_trials}_trials.mgh"
                if not first.exists():
                    write_sparse_betas(first, rng, n_trials)
                (folder / key).hardlink_to(first)
    info.to_csv(folder / layout.STIM_INFO_KEY)


def _enter_trials(table: pd.DataFrame, design: ExperimentDesign, number: int) -> None:
    """Write into the stimulus table which trials of a subject show which image."""
    columns = [f"subject{number}_rep{repetition}" for repetition in range(3)]
    table[[f"subject{number}", *columns]] = 0
    shown = pd.Series(design.subjectim[number - 1, design.masterordering - 1] - 1)
    for repetition, column in enumerate(columns):
        at = shown[shown.groupby(shown).cumcount() == repetition]
        table.loc[at.to_numpy(), column] = at.index.to_numpy() + 1
    table.loc[shown.unique(), f"subject{number}"] = 1
