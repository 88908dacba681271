"""What makes a benchmark's numbers trustworthy: sides kept apart, results compared, bars judged."""

import itertools
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import all_rows, main
from benchmarks.harness import (
    BenchmarkError,
    Inputs,
    Row,
    RowResult,
    Side,
    compare,
    fact,
    faster,
    fewer,
    less_memory,
    measure,
    run_row,
)
from benchmarks.report import to_json, to_markdown
from benchmarks.worker import Outcome

MEGABYTE = 2**20


def fill(settings):
    """A side: so many megabytes filled in, as it says, so many seconds."""
    calls = []

    def repeat():
        calls.append(None)
        value = settings.get("value", 1)
        block = np.full(settings["megabytes"] * MEGABYTE, value, np.uint8)
        return Outcome(
            {"sum": block[:: MEGABYTE // 4].sum() // settings["megabytes"]},
            {"bytes": block.nbytes, "calls": len(calls)},
            settings["seconds"],
        )

    return repeat


def vary(_settings):
    """A side that takes longer each time."""
    calls = itertools.count(1)

    def repeat():
        call = next(calls)
        return Outcome({}, {"calls": call}, call / 10)

    return repeat


def pause(_settings):
    """A side that leaves it to the harness to take the time."""

    def repeat():
        time.sleep(0.05)
        return Outcome()

    return repeat


def fail(_settings):
    raise ValueError("no such file")


def die(_settings):
    os._exit(1)


def make_row(*sides, bars=(), **options):
    return Row("name", "Title", lambda folder, quick: None, sides, bars, **options)


SMALL = Side("ours", fill, {"seconds": 0.01, "megabytes": 1})
LARGE = Side("theirs", fill, {"seconds": 0.2, "megabytes": 200})


def test_sides_are_measured_apart_and_bars_judged() -> None:
    row = make_row(
        SMALL,
        LARGE,
        bars=(
            faster("ours", "theirs", 5),
            faster("ours", "theirs", 1000),
            less_memory("ours", "theirs", 0.5),
            fewer("bytes", "ours", "theirs", 1 / 150),
            fact("calls", "ours", 3),
        ),
    )
    result = measure(row, Inputs({}), repetitions=3)
    ours, theirs = result.sides.values()
    assert (ours.seconds, theirs.seconds) == (0.01, 0.2)
    assert theirs.peak_bytes - ours.peak_bytes > 150 * MEGABYTE
    assert [sample.facts["calls"] for sample in ours.samples] == [2, 3, 4], "the first warms up"
    assert [met for _, _, met in result.bars()] == [True, False, True, True, True]
    assert result.difference == 0


def test_the_clock_runs_from_call_to_return() -> None:
    result = measure(make_row(Side("pause", pause)), Inputs({}), repetitions=2)
    assert all(sample.seconds >= 0.05 for sample in result.sides["pause"].samples)


def test_what_was_shown_is_what_was_measured() -> None:
    result = measure(
        make_row(SMALL, warm_up=False, bars=(fact("calls", "ours", 2),)),
        Inputs({}, work="1 MB"),
        repetitions=1,
    )
    content = json.loads(json.dumps(to_json([result], {"processor": "x"}, quick=False)))
    (row,) = content["rows"]
    assert row["sides"]["ours"]["facts"] == {"bytes": MEGABYTE, "calls": 1}
    assert row["bars"] == [
        {
            "what": "calls",
            "value": 1,
            "range": [1, 1],
            "target": 2,
            "at_most": False,
            "met": False,
        }
    ]
    page = to_markdown([result], {"processor": "x"}, quick=False)
    assert "| Title | calls | 1 | >= 2 | no |" in page
    assert "Title (1 MB) | ours | 0.0" in page


def test_a_ratio_that_varies_is_told_by_its_ends_the_low_one_first() -> None:
    row = make_row(Side("ours", vary), bars=(fact("calls", "ours", 2),))
    result = measure(row, Inputs({}, n_touched=MEGABYTE), repetitions=3)
    page = to_markdown([result], {}, quick=False)
    assert "| Title | calls | 2 to 4; 3 | >= 2 | yes |" in page
    assert "| Title | ours | 0.3 s (0.2 to 0.4) |" in page
    assert "varies more" not in page
    result = measure(make_row(Side("ours", vary), warm_up=False), Inputs({}), repetitions=4)
    assert "## What varies more than its median\n\nOf" in to_markdown([result], {}, quick=False)


def test_different_results_are_refused() -> None:
    other = Side("theirs", fill, {"seconds": 0, "megabytes": 1, "value": 2})
    with pytest.raises(BenchmarkError, match="sum of theirs and of ours differ"):
        measure(make_row(SMALL, other), Inputs({}), repetitions=1)
    values = {"ours": {"x": np.array([0.0, 10])}, "theirs": {"x": np.array([0.0, 10.01])}}
    assert compare(values, tolerance=0.0011) == pytest.approx(0.001)
    with pytest.raises(BenchmarkError, match=r"x of theirs and of ours differ by 0\.001"):
        compare(values, tolerance=0.0009)


@pytest.mark.parametrize(
    "found", [{"x": np.array([1.0, 2])}, {"x": np.array([np.nan])}, {"y": np.array([1.0])}, {}]
)
def test_no_tolerance_covers_other_shapes_names_or_nan(found) -> None:
    expected = {"x": np.array([1.0])}
    with pytest.raises(BenchmarkError):
        compare({"ours": expected, "theirs": found}, tolerance=0.5)


@pytest.mark.parametrize(("prepare", "reason"), [(fail, "no such file"), (die, "theirs died")])
def test_a_row_that_fails_says_why_and_gives_no_numbers(prepare, reason, tmp_path) -> None:
    sides = (SMALL, Side("theirs", prepare))
    row = Row("name", "Title", lambda folder, quick: nullcontext(Inputs({})), sides)
    result = run_row(row, tmp_path, quick=True)
    assert isinstance(result, RowResult)
    assert reason in result.error
    assert not result.sides


def test_a_quick_row_from_the_command_line(tmp_path) -> None:
    arguments = ["--quick", "--row", "surface-betas", "--folder", str(tmp_path)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "benchmarks.json").read_text())["rows"]
    assert row["error"] == ""
    ours, theirs = row["sides"].values()
    assert ours["peak_bytes"] < theirs["peak_bytes"]
    assert "A quick run" in (tmp_path / "benchmarks.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks.json", "benchmarks.md"]


def test_a_folder_by_a_relative_path_is_one_to_commands_elsewhere_too(
    tmp_path, monkeypatch
) -> None:
    seen = []

    def look(row: Row, inputs: Path, *, quick: bool) -> RowResult:
        seen.append(inputs)
        return run_row(row, inputs, quick=quick)

    row = Row("name", "Title", lambda folder, quick: nullcontext(Inputs({})), (SMALL,))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.__main__.run_row", look)
    monkeypatch.setattr("benchmarks.__main__.all_rows", lambda: {"name": row})
    done = CliRunner().invoke(main, ["--quick", "--folder", "build/bench"])
    assert done.exit_code == 0, done.output
    assert seen[0].parent == tmp_path / "build/bench"


def test_names_of_rows_are_told_apart_and_checked() -> None:
    assert len(all_rows()) > 10
    refused = CliRunner().invoke(main, ["--row", "surface-beta"])
    assert refused.exit_code == 2
    assert "surface-betas" in refused.output
