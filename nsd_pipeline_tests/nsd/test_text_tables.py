"""Text files that went through other editors, spreadsheets, disks and clones."""

from pathlib import Path

import numpy as np
import pytest

from nsd_pipeline.errors import InvalidFileError, NsdError
from nsd_pipeline.nsd.bids import event_onsets

TEXT = (
    "onset\tduration\t73k_id\ttrial_type\n"
    "4.0\t3\t11\tgr\u00fcn\n"
    "8.0\t3\tn/a\tblank\n"
    "12.1\t3\t33\tx\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.tsv"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("latin-1"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\n\n").encode(),
        TEXT.replace("\t", " \t ").encode(),
        TEXT.replace("\n", "\t\t\n").encode(),
        TEXT.replace("onset", '"onset"').encode(),
        TEXT.replace("n/a", "").encode(),
        TEXT.replace("n/a", "NaN").encode(),
        TEXT.replace("8.0", "n/a").encode(),
    ],
)
def test_what_changes_nothing_is_read(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    onsets = event_onsets(path)
    np.testing.assert_array_equal(onsets.seconds, [4.0, 12.1])
    np.testing.assert_array_equal(onsets.numbers, [11, 33])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("9,5\t3\t22\ty", "the column onset must hold numbers or n/a, but has '9,5'"),
        ("inf\t3\t22\ty", "the column onset must hold numbers or n/a, but has 'inf'"),
        ("n/a\t3\t22\ty", "the column onset must hold a time for every image"),
        ("9\t3\t22.5\ty", "whole numbers up to 73000 or n/a, but has '22.5'"),
        ("9\t3\t1_000\ty", "the column 73k_id must hold numbers or n/a, but has '1_000'"),
        ("9\t3\t73001\ty", "whole numbers up to 73000 or n/a, but has '73001'"),
        ("9\t3\t22\ty\tz", "5 cells for 4 columns"),
        ('9\t3\t22\t"y', "unexpected end of data"),
    ],
)
def test_a_bad_cell_is_named_by_its_line(path: Path, row: str, says: str) -> None:
    lines = TEXT.split("\n")
    # Blank lines count: the line is that of an editor.
    path.write_text("\n".join([*lines[:2], "", row, *lines[2:]]))
    with pytest.raises(NsdError) as error:
        event_onsets(path)
    assert f"{path}, line 4: " in str(error.value)
    assert says in str(error.value)


def test_a_trial_that_is_listed_twice_is_named_by_its_lines(path: Path) -> None:
    path.write_text(TEXT + "4.0\t3\t11\tagain\n")
    with pytest.raises(InvalidFileError, match="lines 2 and 5 both have image 11 at 4 s"):
        event_onsets(path)


def test_names_without_content_are_told_from_damage(path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"There is no .*events\.tsv"):
        event_onsets(path)
    path.symlink_to(".git/annex/objects/aa/bb/x.tsv")
    with pytest.raises(InvalidFileError, match=r"is a link to content .*\n.*datalad get"):
        event_onsets(path)
    path.unlink()
    for pointer in (
        "/annex/objects/MD5E-s1--x.tsv\n",
        "version https://git-lfs.github.com/spec/v1\n",
    ):
        path.write_text(pointer)
        with pytest.raises(InvalidFileError, match="is a pointer to content that is not on"):
            event_onsets(path)
