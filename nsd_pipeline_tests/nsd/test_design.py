import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from nsd_pipeline.errors import InvalidFileError, MappingError, NsdError
from nsd_pipeline.nsd.design import read_experiment_design
from nsd_pipeline.nsd.layout import N_SESSIONS

SESSIONS = st.sampled_from([(s, n) for s, last in N_SESSIONS.items() for n in (1, 2, 17, last)])


@given(SESSIONS, st.integers(0, 749))
def test_a_trial_follows_the_published_formula(arrays, design, where, trial):
    subject, session = where
    row = design.trials(subject, session).iloc[trial]
    t = (session - 1) * 750 + trial
    order = arrays["masterordering"][0].astype(int)
    id73k = arrays["subjectim"][int(subject[-1]) - 1, order[t] - 1]
    assert (row["subject"], row["session"], row["trial"]) == (subject, session, trial)
    assert row["image_id"] == id73k - 1
    assert row["image_id_10k"] == order[t] - 1
    assert row["shared"] == (order[t] <= 1000) == (id73k in arrays["sharedix"])
    assert row["repetition"] == np.count_nonzero(order[:t] == order[t])
    pattern = arrays["stimpattern"][session - 1]
    assert pattern[row["run"] - 1, row["slot"]] == 1
    assert pattern.ravel()[: (row["run"] - 1) * 75 + row["slot"]].sum() == trial


def test_trials_of_a_session_with_its_own_number_of_trials(tmp_path, arrays):
    """Sessions need not have 750 trials: the generated small dataset has far fewer."""
    pattern = np.zeros((40, 12, 75), np.uint8)
    pattern[0, 0, [3, 4, 9]] = pattern[1, 11, [0, 74]] = 1
    order = np.array([[5.0, 1001, 5, 5, 2]])
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {**arrays, "stimpattern": pattern, "masterordering": order})
    design = read_experiment_design(path)
    assert [design.n_trials(session) for session in (1, 2, 3, 40)] == [3, 2, 0, 0]
    trials = design.trials("subj08", 2)
    assert trials["image_id_10k"].tolist() == [4, 1]
    assert trials["repetition"].tolist() == [2, 0]
    assert trials["run"].tolist() == [12, 12]
    assert trials["slot"].tolist() == [0, 74]
    assert trials["trial"].tolist() == [0, 1]
    assert design.trials("subj08", 3).empty


def test_shared_trials_of_a_subject_are_those_of_sharedix(arrays, design):
    trials = pd.concat([design.trials("subj02", session) for session in range(1, 41)])
    in_sharedix = np.isin(trials["image_id"] + 1, arrays["sharedix"])
    np.testing.assert_array_equal(trials["shared"], in_sharedix)
    assert trials["shared"].sum() == 3000


def test_all_213000_trials_take_little_time(design):
    start = time.process_time()  # other work on the machine does not count
    tables = [design.trials(s, n + 1) for s, last in N_SESSIONS.items() for n in range(last)]
    assert time.process_time() - start < 2
    assert sum(map(len, tables)) == 213_000


@pytest.mark.parametrize(("subject", "session"), [("subj03", 33), ("subj01", 0), ("subj09", 1)])
def test_sessions_that_never_were_are_refused(design, subject, session):
    with pytest.raises(NsdError, match=f"no session '{subject}_ses"):
        design.trials(subject, session)


def _set(field, index, value):
    def change(arrays):
        arrays[field] = arrays[field].astype(float)
        arrays[field][index] = value

    return change


def _replace(field, value):
    return lambda arrays: arrays.update({field: value(arrays[field])})


def _swap_shared_and_own(arrays):
    images = arrays["subjectim"][4]
    images[0], images[5000] = images[5000], images[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: a.pop("sharedix"), "lacks the field sharedix"),
        (lambda a: (a.pop("subjectim"), a.pop("stimpattern")), "field subjectim, stimpattern"),
        (_set("subjectim", (7, 2), 73_001), r"subjectim .* first is 73001.0 at \(8, 3\)"),
        (_set("subjectim", (0, 0), 0), r"subjectim .* 1 of 80000 entries .* first is 0.0 at"),
        (_set("sharedix", (0, 9), 12.5), "sharedix .* 12.5"),
        (_set("masterordering", (0, 1), np.nan), "masterordering .* nan"),
        (_set("masterordering", (0, 1), 10_001), "masterordering .* 1 to 10000"),
        (_set("stimpattern", (0, 0, 0), 2), "stimpattern .* 0 to 1"),
        (_replace("masterordering", lambda v: v[:, 1:]), "masterordering .*one entry for each"),
        (_replace("subjectim", lambda v: v.T), r"subjectim has shape \(10000, 8\)"),
        (_replace("sharedix", lambda v: v[:, :999]), r"sharedix has shape \(1, 999\)"),
        (_replace("stimpattern", lambda v: v[0]), r"stimpattern has shape \(12, 75\)"),
        (_replace("sharedix", lambda v: np.full(v.shape, "a")), "sharedix holds no .* numbers"),
        (_swap_shared_and_own, "sharedix is not the first 1000 columns .* for subject 5"),
        (_set("sharedix", (0, slice(None)), np.arange(1, 1001)), "for subject 1, 2, 3, 4, 5, 6"),
    ],
)
def test_a_wrong_design_is_named(tmp_path, arrays, change, problem):
    arrays = {name: values.copy() for name, values in arrays.items()}
    change(arrays)
    path = tmp_path / "nsd_expdesign.mat"
    scipy.io.savemat(path, arrays)
    with pytest.raises(NsdError, match=problem) as caught:
        read_experiment_design(path)
    assert str(path) in caught.value.problem


def test_two_subjects_with_an_own_image_in_common_are_named(tmp_path, arrays):
    subjectim = arrays["subjectim"].copy()
    subjectim[1, 5000] = subjectim[6, 7000]
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {**arrays, "subjectim": subjectim})
    with pytest.raises(MappingError, match=f"1 images .* first is {subjectim[6, 7000]}"):
        read_experiment_design(path)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.999))
def test_a_truncated_design_is_reported(tmp_path_factory, design_path, share):
    raw = design_path.read_bytes()
    path = tmp_path_factory.mktemp("truncated") / "nsd_expdesign.mat"
    path.write_bytes(raw[: int(share * (len(raw) - 40 * 3 * 8 - 200))])  # basiccnt is not needed
    with pytest.raises((InvalidFileError, MappingError), match=r"nsd_expdesign\.mat"):
        read_experiment_design(path)


def test_a_file_of_another_format_is_reported(tmp_path):
    path = tmp_path / "nsd_expdesign.mat"
    path.write_bytes(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>" * 9)
    with pytest.raises(InvalidFileError, match="not a readable MATLAB file"):
        read_experiment_design(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.mat"):
        read_experiment_design(tmp_path / "nothing.mat")


def test_a_field_that_unpacks_to_more_than_there_is_use_for_is_refused(tmp_path, arrays):
    path = tmp_path / "x.mat"
    many = np.zeros((1, 10**7))  # 80 MB
    scipy.io.savemat(path, {**arrays, "masterordering": many}, do_compression=True)
    assert path.stat().st_size < 2_000_000
    tracemalloc.start()
    with pytest.raises(InvalidFileError, match="a field of more than 67 MB"):
        read_experiment_design(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
