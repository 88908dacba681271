"""A made-up experiment in NSD's real dimensions, written down three times independently.

Trials are laid out by a plain loop over the published formula, so that the vectorised code under
test is compared with something else than itself.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from nsd_pipeline.nsd.design import ExperimentDesign, read_experiment_design
from nsd_pipeline.nsd.mapping import BEHAVIOUR_COLUMNS, read_responses, read_stimulus_info


def make_arrays(seed: int = 33) -> dict[str, np.ndarray]:
    """Arrays of an nsd_expdesign.mat, as MATLAB stores them: 1-based, mostly double."""
    rng = np.random.default_rng(seed)
    images = rng.permutation(73_000) + 1
    shared, own = images[:1000], images[1000:].reshape(8, 9000)
    stimpattern = np.zeros((40, 12, 75))
    for session in range(40):
        for run in range(12):
            n_trials = 63 if run % 2 == 0 else 62
            stimpattern[session, run, rng.permutation(75)[:n_trials]] = 1
    return {
        "masterordering": rng.permutation(np.repeat(np.arange(1.0, 10_001), 3))[None],
        "subjectim": np.hstack([np.tile(shared, (8, 1)), own]).astype(np.int32),
        "sharedix": np.sort(shared).astype(float)[None],
        "stimpattern": stimpattern,
        "basiccnt": np.zeros((3, 40)),
    }


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    return make_arrays()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nsd")


@pytest.fixture(scope="session")
def design_path(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = folder / "nsd_expdesign.mat"
    scipy.io.savemat(path, arrays, format="5")
    return path


@pytest.fixture(scope="session")
def stim_info_path(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    order = arrays["masterordering"][0].astype(int)
    table = pd.DataFrame({"cocoId": np.arange(73_000) + 9, "cocoSplit": "train2017"})
    table["cropBox"] = "(0, 0, 0.1, 0.2)"
    table["nsdId"] = np.arange(73_000)
    table["shared1000"] = np.isin(table["nsdId"] + 1, arrays["sharedix"])
    for subject in range(1, 9):
        shown = np.zeros((73_000, 3), int)
        times = dict.fromkeys(range(73_000), 0)
        for number, id10k in enumerate(order, start=1):
            row = arrays["subjectim"][subject - 1, id10k - 1] - 1
            shown[row, times[row]] = number
            times[row] += 1
        table[f"subject{subject}"] = (shown > 0).any(axis=1).astype(int)
        for repetition in range(3):
            table[f"subject{subject}_rep{repetition}"] = shown[:, repetition]
    path = folder / "nsd_stim_info_merged.csv"
    table.to_csv(path)  # with an unnamed index column, as the original has
    return path


@pytest.fixture(scope="session")
def responses_path(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Responses of subj03, who came to 32 of the 40 sessions; every fourth answer is missing."""
    rows, t = [], 0
    for session in range(1, 33):
        for run in range(1, 13):
            for trial in range(1, int(arrays["stimpattern"][session - 1, run - 1].sum()) + 1):
                id10k = int(arrays["masterordering"][0, t])
                id73k = int(arrays["subjectim"][2, id10k - 1])
                rows.append((3, session, run, trial, id73k, id10k))
                t += 1
    table = pd.DataFrame(rows, columns=["SUBJECT", "SESSION", "RUN", "TRIAL", "73KID", "10KID"])
    for column in BEHAVIOUR_COLUMNS:
        table[column] = np.where(np.arange(len(table)) % 4, 1.0, np.nan)
    path = folder / "responses.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="NaN")
    return path


@pytest.fixture(scope="session")
def design(design_path: Path) -> ExperimentDesign:
    return read_experiment_design(design_path)


@pytest.fixture(scope="session")
def stimulus_info(stim_info_path: Path) -> pd.DataFrame:
    return read_stimulus_info(stim_info_path)


@pytest.fixture(scope="session")
def responses(responses_path: Path) -> pd.DataFrame:
    return read_responses(responses_path)
