"""A file appears whole, or the one that was there stays."""

import os
from pathlib import Path

import pytest

from nsd_pipeline.storage.disk import replacing


def test_a_file_appears_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.read_text()))
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    # First its bytes, under no name yet; then the folder, which has the name.
    assert (seen, path.read_text()) == (["old", "new"], "new")
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
