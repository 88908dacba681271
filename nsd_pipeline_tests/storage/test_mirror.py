"""Mirrors as labs have them: links, clones of which a part was fetched, folders of other people."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nsd_pipeline.errors import SourceError
from nsd_pipeline.storage.source import LocalMirror

FOLDER = "nsddata_betas/subj01/betas"
KEYS = [f"{FOLDER}/lh.session01", f"{FOLDER}/lh.session02"]
_NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    # Not pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for key in KEYS:
            path = Path(name, "mirror", key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(key.encode())
        yield Path(name, "mirror")


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Be somebody whom permissions hold for."""
    if os.geteuid():
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _move_away(root: Path, part: str) -> Path:
    """Put a folder elsewhere, with a link in its place."""
    elsewhere = root.parent / "elsewhere"
    (root / part).rename(elsewhere)
    (root / part).symlink_to(elsewhere)
    return elsewhere


@pytest.mark.parametrize("part", [FOLDER, "nsddata_betas/subj01", KEYS[0], "."])
def test_what_lies_behind_a_link_is_listed_and_read(root: Path, part: str) -> None:
    if part == ".":
        link = root.parent / "link"
        link.symlink_to(root)
        mirror = LocalMirror(link)
    else:
        _move_away(root, part)
        mirror = LocalMirror(root)
    for prefix in ("", "nsddata_betas/su", FOLDER, f"{FOLDER}/", f"{FOLDER}/lh"):
        assert mirror.list(prefix) == KEYS
    info = mirror.describe(KEYS[0])
    assert mirror.read(KEYS[0], 0, info.n_bytes, etag=info.etag) == KEYS[0].encode()


def test_a_link_back_is_followed_nowhere(root: Path) -> None:
    (root / FOLDER / "up").symlink_to(root / "nsddata_betas")
    (root / "nsddata_betas/again").symlink_to(".")
    (root / "nsddata_betas/circle").symlink_to("circle")
    # One folder under two names is no loop.
    (root / "nsddata_betas/subj02").symlink_to("subj01")
    mirror = LocalMirror(root)
    both = KEYS + [key.replace("subj01", "subj02") for key in KEYS]
    assert mirror.list("") == both
    assert mirror.list(f"{FOLDER}/") == KEYS
    assert mirror.list(f"{FOLDER}/up/") == []


def test_a_link_that_leads_nowhere_is_a_file_that_is_not_there(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = root / KEYS[0]
    lost.unlink()
    lost.symlink_to("../.git/annex/objects/x.mgh")
    mirror = LocalMirror(root)
    for _ in range(2):
        assert mirror.list(f"{FOLDER}/") == KEYS[1:]
    assert [record.getMessage() for record in caplog.records if str(lost.parent) in record.message]
    assert len(caplog.records) == 1
    for attempt in (
        lambda: mirror.describe(KEYS[0]),
        lambda: mirror.read(KEYS[0], 0, 1, etag="any"),
        lambda: mirror.open(KEYS[0]),
    ):
        with pytest.raises(SourceError, match=r"annex/objects/x\.mgh, which is not there") as told:
            attempt()
        assert str(lost) in told.value.problem
        assert "datalad get" in told.value.next_step


def test_a_disk_that_is_away_is_not_empty(root: Path) -> None:
    mirror = LocalMirror(root)
    _move_away(root, FOLDER).rename(root.parent / "unmounted")
    for prefix in (f"{FOLDER}/", f"{FOLDER}/lh"):
        with pytest.raises(SourceError, match=f"{FOLDER} is a link to .*elsewhere"):
            mirror.list(prefix)
    assert mirror.list("nsddata_betas/subj09/") == []


@pytest.mark.parametrize("behind_a_link", [False, True])
def test_a_folder_that_may_not_be_entered_is_not_empty(root: Path, behind_a_link: bool) -> None:
    closed = _move_away(root, FOLDER) if behind_a_link else root / FOLDER
    closed.chmod(0)
    mirror = LocalMirror(root)
    try:
        with _as_nobody():
            for prefix in ("", f"{FOLDER}/", "nsddata_betas/subj01/b"):
                with pytest.raises(SourceError, match=f"{FOLDER} may not be read"):
                    mirror.list(prefix)
            with pytest.raises(SourceError, match=f"{KEYS[0]} may not be read"):
                mirror.describe(KEYS[0])
            # It is no part of what is asked for.
            assert mirror.list("nsddata_betas/subj01/other") == []
    finally:
        closed.chmod(0o755)


def test_what_is_no_file_of_the_dataset_is_not_listed(root: Path) -> None:
    folder = root / FOLDER
    for name in ("._lh.session01", ".DS_Store", ".git/lh.session09"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    os.mkfifo(folder / "lh.session03")
    mirror = LocalMirror(root)
    assert mirror.list(f"{FOLDER}/") == KEYS
    for key in (f"{FOLDER}/lh.session03", FOLDER):
        with pytest.raises(SourceError, match=f"{key} cannot be read"):
            mirror.describe(key)
