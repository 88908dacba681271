"""Whatever a file from outside holds: it is understood, or refused in words."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from nsd_pipeline_tests.soak.effort import MINUTES, SEED
from nsd_pipeline_tests.soak.fuzzing import Findings, hunt, table
from nsd_pipeline_tests.soak.outside_files import READERS

_SLOW: Final = {"encoder": 5, "responses.tsv": 60, "stim_info.csv": 60}
"""Inputs in the suite for readers that take more than some milliseconds."""


def _told(findings: list[Findings], figures: Callable[..., None]) -> None:
    failures = [line for each in findings if each.failures for line in table([each])]
    for each in findings:
        figures(f"inputs of {each.reader}", each.cases, each.seconds, understood=each.accepted)
    assert not failures, "\n".join(failures)


def test_no_reader_trips_over_a_damaged_file(tmp_path: Path, figures: Callable[..., None]) -> None:
    cases = dict.fromkeys(READERS, 200) | _SLOW
    findings = hunt(cases, seconds=600, seed=SEED, keep=tmp_path)
    assert {each.reader: each.cases for each in findings} == cases
    _told(findings, figures)


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_no_reader_trips_over_many_damaged_files(name: str, figures: Callable[..., None]) -> None:
    keep = Path(os.environ.get("NSD_SOAK_KEEP", "build/soak"))
    seconds = MINUTES * 60 * 0.3 / len(READERS)
    _told(hunt({name: 100_000}, seconds=seconds, seed=SEED, keep=keep), figures)
