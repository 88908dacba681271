"""What a manifest or a list from elsewhere may not say, because it becomes a path."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsd_pipeline.decoding.cohort import sessions_with
from nsd_pipeline.errors import ArtifactError, DamagedArtifactError, NsdError
from nsd_pipeline.nsd.fsaverage_betas import locate_betas
from nsd_pipeline.nsd.series_runs import read_runs
from nsd_pipeline.nsd.space_betas import locate_files
from nsd_pipeline.nsd.stimuli import ImageReader
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.names import is_inner_path, split_s3_url
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline.storage.store import Store
from nsd_pipeline_tests.storage.test_store import KEY, MADE_BY, Change, change, put, store

__all__ = ["change", "store"]

RECORD = {"bytes": 3, "sha256": "a" * 64}
CONTENT: dict[str, Any] = {
    "key": KEY,
    **MADE_BY,
    "created": "2026-01-31T01:45:00Z",
    "files": {"betas/c/0/0": RECORD},
    "metadata": {},
    "version": "20260131T014500-1f9a03bc",
}
OUTSIDE = ["", "/etc/x", "../x", "a/../../x", "a//b", "./a", "a/", "a\\b", "a\0b", "C:/x", "a\nb"]


def _parse(**changes: Any) -> Manifest:
    content = json.dumps(CONTENT | changes).encode()
    return Manifest.parse(content, url="s3://lab", key=KEY, versioned=True)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        *[("files", {"files": {name: RECORD}}) for name in OUTSIDE],
        *[("version", {"version": name}) for name in [*OUTSIDE, "a/b", "..", "-rf"]],
        *[("partition", {"partition": name}) for name in ["a; rm -r ~", "../x", "$(x)"]],
        ("asset", {"asset": "betas --select *"}),
        ("key", {"key": "events/subj01/ses02"}),
        ("files", {"files": {"a": RECORD, "a/b": RECORD}}),
        ("files.a.sha256", {"files": {"a": RECORD | {"sha256": "none"}}}),
        ("files.a.bytes", {"files": {"a": RECORD | {"bytes": -1}}}),
    ],
)
def test_a_manifest_is_refused_by_artifact_and_field(field: str, changes: dict[str, Any]) -> None:
    assert _parse().files.keys() == {"betas/c/0/0"}
    with pytest.raises(DamagedArtifactError) as told:
        _parse(**changes)
    assert f"s3://lab/{KEY}" in told.value.problem
    assert f"field '{field}" in told.value.problem


@given(st.text(alphabet="ab./\\~=-\n\0:C é", max_size=10))
def test_accepted_names_stay_in_their_folder(name: str) -> None:
    if is_inner_path(name):
        path = Path("/root", name)
        assert path.is_relative_to("/root")
        assert path != Path("/root")
        assert ".." not in path.parts


@pytest.mark.parametrize("field", ["files", "version"])
def test_a_store_writes_and_deletes_nothing_outside_of_it(
    store: Store, field: str, tmp_path: Path, change: Callable[[str, Change], None]
) -> None:
    put(store)
    precious = tmp_path / "docs"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    on_s3 = isinstance(store, S3Store)

    def spoil(manifest: bytes) -> bytes:
        content = json.loads(manifest)
        if field == "version":
            content["version"] = "/".join([".."] * 12) + str(precious)
        else:
            content["files"] = {str(precious / "thesis.txt"): content["files"]["events.txt"]}
            # The object is there, so that nothing but the check keeps it from being written.
            if on_s3:
                change(f"{KEY}/{content['version']}/{precious}/thesis.txt", lambda _: b"one")
        return json.dumps(content).encode()

    change(f"manifests/{KEY}.json", spoil)
    other = S3Store(store.url, cache=tmp_path / "other") if on_s3 else open_store(store.url)
    for attempt in (other.folder, other.zarr, other.find):
        with pytest.raises(DamagedArtifactError, match=f"field '{field}"):
            attempt(KEY)
    assert other.manifest(KEY) is None
    put(other, text="two")
    assert (other.folder(KEY) / "events.txt").read_text() == "two"
    assert [(path.name, path.read_text()) for path in precious.iterdir()] == [
        ("thesis.txt", "years")
    ]


def test_names_that_a_listing_should_not_have_are_no_keys(
    store: Store, change: Callable[[str, Change], None]
) -> None:
    put(store)
    for name in (f"{KEY}.json.bak", "events/subj01/a b.json", "events/$(x)/ses01.json"):
        change(f"manifests/{name}", lambda _: b"{}")
    assert store.keys() == [KEY]


def test_what_lies_among_sessions_and_is_none_is_left_out(store: Store) -> None:
    for key in (KEY, "events/subj01/ses01.copy", "events/subj01/ses99", "events/subj01/ses02/more"):
        put(store, key)
    assert sessions_with(store, "events", ("subj01", "subj02")) == ["subj01_ses01"]


@pytest.mark.parametrize("url", ["s3://lab/../../x", "s3://lab/a//b", "s3://lab/./a", "s3://.."])
def test_a_prefix_that_would_leave_the_cache_is_refused(url: str) -> None:
    with pytest.raises(NsdError, match=r"is not a path|names no bucket"):
        split_s3_url(url)


def test_lists_in_artifacts_name_files_of_theirs_or_of_a_mirror(tmp_path: Path) -> None:
    mirror = f"{tmp_path}/mirror/../nsd/x"
    run = {"run": 1, "space": "x", "kind": "other", "onsets": "a.tsv", "onsets_kind": "events"}

    def read(reader: Callable[[Path], object], name: str) -> None:
        (tmp_path / "mirror.json").write_text(json.dumps({"lh": name, "rh": name}))
        (tmp_path / "files.json").write_text(
            json.dumps({"file_format": "hdf5", "betas": [name], "masks": []})
        )
        (tmp_path / "runs.json").write_text(json.dumps([run | {"files": [name]}]))
        reader(tmp_path)

    for reader in (locate_betas, locate_files, read_runs):
        read(reader, mirror)
        for name in ("../x", "a/../../x", "a\0b", "/a\0b"):
            with pytest.raises(ArtifactError) as told:
                read(reader, name)
            assert repr(name) in told.value.problem


@pytest.mark.parametrize("part", ["../index", "a/b", None, "..", 3])
def test_an_index_of_stimuli_names_parts_only(part: object) -> None:
    index = pd.DataFrame({"image_id": [1], "part": pd.Series([part], dtype=object), "row": [0]})
    with pytest.raises(DamagedArtifactError, match="as a part"):
        ImageReader(index, lambda _: pytest.fail("a folder was asked for"), None)
