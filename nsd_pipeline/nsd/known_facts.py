"""What is known of the real data, to hold a bucket or a mirror against before it is trusted.

Numbers are those of Allen et al. (2022), of the authors' data manual, and of public notebooks that
show what they read from the real files. A generated dataset has others.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, NsdError, SourceError, parsing
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.design import (
    ExperimentDesign,
    copy_design,
    find_design,
    read_experiment_design,
    responses_file,
)
from nsd_pipeline.nsd.fsaverage_betas import inspect_betas
from nsd_pipeline.nsd.layout import (
    EXPDESIGN_KEY,
    HEMISPHERES,
    N_IMAGES,
    N_SESSIONS,
    STIM_INFO_KEY,
    STIMULI_KEY,
    SUBJECTS,
    Hemisphere,
    betas_folder,
    betas_keys,
)
from nsd_pipeline.nsd.mapping import check_mapping, read_responses, read_stimulus_info
from nsd_pipeline.nsd.small_files import find_labels
from nsd_pipeline.nsd.stimuli import StimulusFile
from nsd_pipeline.storage.source import Source, read_whole

N_TRIALS: Final = 750
"""Trials of a session: 12 runs, of 63 and 62 trials in turn."""
IMAGES_SEEN: Final = dict(
    zip(SUBJECTS, (10_000, 10_000, 9_411, 9_209, 10_000, 9_411, 10_000, 9_209), strict=True)
)
"""Images that each subject saw at least once, in the sessions that were scanned."""
SHARED_SEEN_BY_ALL: Final = (907, 766, 515)
"""Shared images that all eight subjects saw at least once, twice, three times."""
IMAGES_SEEN_BY_ANYBODY: Final = 70_566
MEDIAN_NCSNR: Final = dict(
    zip(SUBJECTS, (0.490, 0.510, 0.431, 0.392, 0.542, 0.439, 0.371, 0.323), strict=True)
)
"""Median noise ceiling signal-to-noise ratio on fsaverage, over both hemispheres' nsdgeneral."""
NSDGENERAL_VERTICES: Final = 37_984
_ABSENT: Final = "not on the source"
_ROUNDED: Final = 0.001
"""How far a median may be from one that was printed with three digits."""


@dataclass(frozen=True)
class Fact:
    """Something that is known of the real data, and what a source has.

    `holds` is None where the source has not got what it is about.
    """

    name: str
    expected: str
    found: str
    holds: bool | None


def check_facts(source: Source, subjects: Sequence[str] = SUBJECTS) -> Iterator[Fact]:
    """Compare a source with what is known of the real data, one fact after the other.

    Little is read: the design, headers of betas, noise ceilings, the stimulus file's index. A
    TermsNotAcceptedError if NSD's terms have not been accepted.
    """
    yield from _design_facts(source, subjects)
    for subject in subjects:
        yield _betas_fact(source, subject)
    yield from _ncsnr_facts(source, subjects)
    yield _stimuli_fact(source)


def _design_facts(source: Source, subjects: Sequence[str]) -> Iterator[Fact]:
    if not {EXPDESIGN_KEY, STIM_INFO_KEY} <= {
        *source.list(EXPDESIGN_KEY),
        *source.list(STIM_INFO_KEY),
    }:
        yield Fact("experiment design", "there", _ABSENT, None)
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            found = find_design(source)
            copy_design(source, found, folder)
            names = {file: f"{source.url}/{info.key}" for file, info in found.items()}
            design_file, info_file = Path(EXPDESIGN_KEY).name, Path(STIM_INFO_KEY).name
            design = read_experiment_design(folder / design_file, names[design_file])
            info = read_stimulus_info(folder / info_file, names[info_file])
        except NsdError as error:
            yield Fact("experiment design", "can be read", error.problem, holds=False)
            return
        counts = {design.n_trials(session) for session in range(1, 41)}
        yield _equal("trials of each session", {N_TRIALS}, counts)
        yield from _image_facts(design, subjects)
        for subject in subjects:
            what = f"{subject}: three sources name the same image for each trial"
            n_sessions = N_SESSIONS[subject]
            if responses_file(subject) not in found:
                yield Fact(what, f"{n_sessions} sessions", "its responses are not there", None)
                continue
            try:
                file = responses_file(subject)
                responses = read_responses(folder / file, names[file])
                for session in range(1, n_sessions + 1):
                    trials = design.trials(subject, session)
                    check_mapping(trials, design, info, responses, subject, session)
            except NsdError as error:
                yield Fact(what, f"{n_sessions} sessions", error.problem, holds=False)
            else:
                yield _equal(what, f"{n_sessions} sessions", f"{n_sessions} sessions")


def _image_facts(design: ExperimentDesign, subjects: Sequence[str]) -> Iterator[Fact]:
    times = {subject: _times_seen(design, subject) for subject in SUBJECTS}
    for subject in subjects:
        seen = int((times[subject] > 0).sum())
        yield _equal(f"{subject}: images seen", IMAGES_SEEN[subject], seen)
    everybody = np.stack(list(times.values()))
    anybody = int((everybody > 0).any(axis=0).sum())
    yield _equal("images seen by anybody", IMAGES_SEEN_BY_ANYBODY, anybody)
    least = everybody[:, design.sharedix - 1].min(axis=0)
    by_all = tuple(int((least >= n).sum()) for n in (1, 2, 3))
    yield _equal("shared images all saw once, twice, three times", SHARED_SEEN_BY_ALL, by_all)


def _times_seen(design: ExperimentDesign, subject: str) -> NDArray[np.int64]:
    """How often a subject saw each of the 73,000 images."""
    ids = [
        design.trials(subject, session)["image_id"].to_numpy()
        for session in range(1, N_SESSIONS[subject] + 1)
    ]
    return np.bincount(np.concatenate(ids), minlength=N_IMAGES)


def _betas_fact(source: Source, subject: str) -> Fact:
    expected = f"files of 163,842 vertices and {N_TRIALS} trials, 491,526,284 bytes and a footer"
    there = set(source.list(f"{betas_folder(subject, 'fsaverage')}/"))
    sessions = [
        session
        for session in range(1, N_SESSIONS[subject] + 1)
        if there.issuperset(betas_keys(subject, session, "fsaverage"))
    ]
    what = f"{subject}: betas on fsaverage"
    if not sessions:
        return Fact(what, expected, _ABSENT, None)

    def problem_of(session: int) -> str:
        try:
            inspect_betas(source, subject, session, n_trials=N_TRIALS)
        except NsdError as error:
            return error.problem
        return ""

    with ThreadPoolExecutor(max_workers=16) as threads:
        problems = [each for each in threads.map(problem_of, sessions) if each]
    if problems:
        return Fact(what, expected, f"{len(problems)} sessions not: {problems[0]}", holds=False)
    found = f"{len(sessions)} of {N_SESSIONS[subject]} sessions, as they should be"
    return Fact(what, expected, found, holds=True)


def _ncsnr_facts(source: Source, subjects: Sequence[str]) -> Iterator[Fact]:
    name, expected = "vertices of nsdgeneral", f"{NSDGENERAL_VERTICES:,}"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            paths = find_labels(lambda: source, "nsdgeneral").copy(folder)
            inside = {side: _values(path) > 0 for side, path in paths.items()}
        except NsdError as error:
            absent = isinstance(error, SourceError)
            yield Fact(name, expected, error.problem, None if absent else False)
            return
        yield _equal(name, NSDGENERAL_VERTICES, sum(int(each.sum()) for each in inside.values()))
        for subject in subjects:
            yield _ncsnr_fact(source, subject, inside, folder)


def _ncsnr_fact(
    source: Source, subject: str, inside: Mapping[Hemisphere, NDArray[np.bool_]], folder: Path
) -> Fact:
    name, expected = f"{subject}: median ncsnr in nsdgeneral", MEDIAN_NCSNR[subject]
    values = []
    for side in HEMISPHERES:
        key = f"{betas_folder(subject, 'fsaverage')}/{side}.ncsnr.mgh"
        if key not in source.list(key):
            return Fact(name, f"{expected:.3f}", _ABSENT, None)
        path = folder / Path(key).name
        try:
            path.write_bytes(read_whole(source, source.describe(key)))
            values.append(_values(path)[inside[side]])
        except NsdError as error:
            return Fact(name, f"{expected:.3f}", error.problem, holds=False)
    median = float(np.nanmedian(np.concatenate(values)))
    return Fact(name, f"{expected:.3f}", f"{median:.3f}", abs(median - expected) <= _ROUNDED)


def _values(path: Path) -> NDArray[np.floating]:
    """Values (V,) of a surface file."""

    def refuse(problem: str) -> NsdError:
        what = f"{path.name} is no readable MGH file: {problem}."
        return InvalidFileError(what, next_step="fetch it again from NSD's bucket.")

    with parsing(refuse):
        return np.asarray(mgh.read_any(path), float).ravel()


def _stimuli_fact(source: Source) -> Fact:
    what, expected = "images in the stimulus file", f"{N_IMAGES:,}"
    if STIMULI_KEY not in source.list(STIMULI_KEY):
        return Fact(what, expected, _ABSENT, None)
    try:
        with source.open(STIMULI_KEY) as raw, StimulusFile(raw) as file:
            single = "one by one" if file.contiguous_offset is not None else "by chunks"
            return Fact(
                what, expected, f"{file.n_images:,}, read {single}", file.n_images == N_IMAGES
            )
    except NsdError as error:
        return Fact(what, expected, error.problem, holds=False)


def _equal(name: str, expected: object, found: object) -> Fact:
    return Fact(name, _text(expected), _text(found), expected == found)


def _text(value: object) -> str:
    if isinstance(value, set | tuple):
        return ", ".join(
            _text(each) for each in (sorted(value) if isinstance(value, set) else value)
        )
    return f"{value:,}" if isinstance(value, int) else str(value)
