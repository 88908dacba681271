import numpy as np
import pandas as pd
import pytest

FILES = {
    "fsaverage": ["fsaverage/lh.betas_session02.mgh", "fsaverage/rh.betas_session02.mgh"],
    "func1mm": ["func1mm/betas_session02.nii.gz"],
}


@pytest.fixture
def trials() -> pd.DataFrame:
    """Five trials of session 2: three in run 1 (with a blank), two in run 2."""
    return pd.DataFrame(
        {
            "subject": "subj01",
            "session": 2,
            "run": [1, 1, 1, 2, 2],
            "trial": [0, 1, 2, 3, 4],
            "slot": [3, 4, 6, 3, 5],
            "image_id": [46002, 61882, 828, 46002, 72999],
            "image_id_10k": [501, 1200, 3, 501, 9999],
            "repetition": [0, 0, 2, 1, 0],
            "shared": [True, False, True, True, False],
        }
    )


@pytest.fixture
def responses(trials: pd.DataFrame) -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "SUBJECT": 1,
            "SESSION": 2,
            "RUN": trials["run"],
            "TRIAL": [1, 2, 3, 1, 2],
            "73KID": trials["image_id"] + 1,
            "10KID": trials["image_id_10k"] + 1,
            "TIME": np.linspace(0.5, 0.6, 5),
            "ISOLD": [0, 0, 1, 1, 0],
            "ISCORRECT": [1, 0, 1, np.nan, 1],
            "RT": [812.5, 900.0, 1234.5, np.nan, 700.0],
            "CHANGEMIND": [0, 1, 0, np.nan, 0],
            "MEMORYRECENT": [np.nan, np.nan, 40, 2, np.nan],
            "MEMORYFIRST": [np.nan, np.nan, 90, 2, np.nan],
            "ISOLDCURRENT": [0, 0, 0, 1, 0],
            "ISCORRECTCURRENT": [1, 0, 0, np.nan, 1],
            "TOTAL1": [1, 1, 0, 0, 1],
            "TOTAL2": [0, 1, 1, 0, 0],
            "BUTTON": [1, 2, 2, np.nan, 1],
            "MISSINGDATA": [0, 0, 0, 1, 0],
        }
    )
    other_session = rows.assign(SESSION=1, **{"73KID": 7})
    return pd.concat([other_session, rows.iloc[::-1]], ignore_index=True)
