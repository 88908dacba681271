"""Thirty sessions that cost next to nothing: 12 trials each, and files that are mostly holes."""

from pathlib import Path

import numpy as np
import pandas as pd

from nsd_pipeline.demo.demo_settings import DemoSettings
from nsd_pipeline.demo.experiment import make_responses, write_design, write_responses
from nsd_pipeline.nsd import layout, mgh
from nsd_pipeline.nsd.design import N_SHARED_IMAGES, ExperimentDesign, read_experiment_design

SUBJECT = "subj01"
N_SESSIONS = 30
N_TRIALS = 12


def write_many_sessions(folder: Path, model: Path) -> None:
    """Give a subject 30 sessions; another dataset lends what does not depend on their number."""
    rng = np.random.default_rng(0)
    lent = read_experiment_design(model / layout.EXPDESIGN_KEY)
    pattern = np.zeros_like(lent.stimpattern)
    pattern[:N_SESSIONS, :, 10] = True
    # Every image three times, as NSD has it, and some of them shared.
    images = np.arange(N_SESSIONS * N_TRIALS // 3) + N_SHARED_IMAGES - 20
    design = ExperimentDesign(
        rng.permutation(np.repeat(images, 3)), lent.subjectim, lent.sharedix, pattern
    )
    for key in (layout.EXPDESIGN_KEY, layout.STIM_INFO_KEY, layout.responses_key(SUBJECT)):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
    write_design(design, folder / layout.EXPDESIGN_KEY)
    _write_stimulus_info(design, model / layout.STIM_INFO_KEY, folder / layout.STIM_INFO_KEY)
    settings = DemoSettings.model_construct(subjects=1, sessions=N_SESSIONS, trials_per_run=1)
    responses = make_responses(design, settings, SUBJECT)
    write_responses(responses, folder / layout.responses_key(SUBJECT))
    for session in range(1, N_SESSIONS + 1):
        for key in layout.betas_keys(SUBJECT, session, "fsaverage"):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            write_sparse_betas(folder / key, rng)


def write_sparse_betas(path: Path, rng: np.random.Generator) -> None:
    """Write noise to fsaverage5's vertices, and leave the others a hole in the file."""
    header = mgh.header_bytes(layout.FSAVERAGE_VERTICES, N_TRIALS)
    with path.open("wb") as file:
        file.write(header)
        for frame in range(N_TRIALS):
            file.seek(len(header) + frame * layout.FSAVERAGE_VERTICES * 4)
            file.write(rng.normal(size=layout.FSAVERAGE5_VERTICES).astype(">f4").tobytes())
        file.truncate(len(header) + N_TRIALS * layout.FSAVERAGE_VERTICES * 4)


def _write_stimulus_info(design: ExperimentDesign, lent: Path, path: Path) -> None:
    table = pd.read_csv(lent, index_col=0)
    columns = [f"subject1_rep{repetition}" for repetition in range(3)]
    table[["subject1", *columns]] = 0
    shown = pd.Series(design.subjectim[0, design.masterordering - 1] - 1)
    for repetition, column in enumerate(columns):
        at = shown[shown.groupby(shown).cumcount() == repetition]
        table.loc[at.to_numpy(), column] = at.index.to_numpy() + 1
    table.loc[shown.unique(), "subject1"] = 1
    table.to_csv(path)
