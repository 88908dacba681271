"""Many sessions that cost next to nothing: 12 trials each, and files that are mostly holes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nsd_pipeline.demo.experiment import DemoSettings, make_responses, write_design, write_responses
from nsd_pipeline.nsd import layout, mgh
from nsd_pipeline.nsd.design import N_SHARED_IMAGES, ExperimentDesign, read_experiment_design

SUBJECT = "subj01"
N_SESSIONS = 10
N_TRIALS = 12


def write_many_sessions(
    folder: Path, model: Path, n_sessions: Mapping[str, int] | None = None
) -> None:
    """Give subjects some sessions; another dataset lends what does not depend on their number.

    Parameters
    ----------
    n_sessions
        How many of each subject; 10 of subj01 by default.
    """
    n_sessions = n_sessions or {SUBJECT: N_SESSIONS}
    most = max(n_sessions.values())
    rng = np.random.default_rng(0)
    lent = read_experiment_design(model / layout.EXPDESIGN_KEY)
    pattern = np.zeros_like(lent.stimpattern)
    pattern[:most, :, 10] = True
    # Every image three times, as NSD has it, and some of them shared.
    images = np.arange(most * N_TRIALS // 3) + N_SHARED_IMAGES - 20
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
                write_sparse_betas(folder / key, rng)
    info.to_csv(folder / layout.STIM_INFO_KEY)


def write_sparse_betas(path: Path, rng: np.random.Generator) -> None:
    """Write noise to fsaverage5's vertices, and leave the others a hole in the file."""
    header = mgh.header_bytes(layout.FSAVERAGE_VERTICES, N_TRIALS)
    with path.open("wb") as file:
        file.write(header)
        for frame in range(N_TRIALS):
            file.seek(len(header) + frame * layout.FSAVERAGE_VERTICES * 4)
            file.write(rng.normal(size=layout.FSAVERAGE5_VERTICES).astype(">f4").tobytes())
        file.truncate(len(header) + N_TRIALS * layout.FSAVERAGE_VERTICES * 4)


def _enter_trials(table: pd.DataFrame, design: ExperimentDesign, number: int) -> None:
    """Write into the stimulus table which trials of a subject show which image."""
    columns = [f"subject{number}_rep{repetition}" for repetition in range(3)]
    table[[f"subject{number}", *columns]] = 0
    shown = pd.Series(design.subjectim[number - 1, design.masterordering - 1] - 1)
    for repetition, column in enumerate(columns):
        at = shown[shown.groupby(shown).cumcount() == repetition]
        table.loc[at.to_numpy(), column] = at.index.to_numpy() + 1
    table.loc[shown.unique(), f"subject{number}"] = 1
