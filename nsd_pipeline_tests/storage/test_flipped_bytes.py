"""A byte of a Zarr group that is not what was written is noticed, on both stores."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from nsd_pipeline.errors import DamagedArtifactError
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface import SeriesLayout, SessionRows, session_rows, summarise, write_series
from nsd_pipeline.surface.session_files import write_session
from nsd_pipeline_tests.storage.test_store import MADE_BY, Change, change, store

__all__ = ["change", "store"]

KEY = "fsaverage5_betas.zarr/subj01/ses01"
BETAS = np.random.default_rng(0).standard_normal((100, 40), np.float32)  # two chunks: 75 and 25


def flip(content: bytes) -> bytes:
    """Flip a bit in the last row that a chunk has, or the last byte of what is shorter."""
    place = 24 * 160 if len(content) > 24 * 160 else len(content) - 1
    return content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :]


@pytest.fixture
def where(store: Store) -> str:
    """Write a session's betas; where its files lie below the store's root."""
    with store.write(KEY, **MADE_BY) as draft:
        write_session(draft.folder, BETAS, summarise(BETAS), {})
    manifest = store.find(KEY)
    assert manifest is not None
    return manifest.location


def test_what_was_written_is_read(store: Store, where: str) -> None:
    betas = SessionRows(open_store(store.url).zarr(KEY), zscore=False)
    for _ in range(2):
        np.testing.assert_array_equal(betas.read(), BETAS)
        np.testing.assert_array_equal(betas.read(np.array([3, 80])), BETAS[[3, 80]])


@pytest.mark.parametrize("name", ["betas/c/0/0", "mean/c/0", "betas/zarr.json"])
@pytest.mark.parametrize("trials", [None, np.array([0, 76])], ids=["all trials", "two of them"])
def test_a_flipped_bit_is_an_error_that_names_the_file(
    store: Store,
    where: str,
    change: Callable[[str, Change], None],
    name: str,
    trials: np.ndarray | None,
) -> None:
    change(f"{where}/{name}", flip)
    for attempt in (1, 2):
        reader = open_store(store.url)
        with pytest.raises(DamagedArtifactError) as told:
            SessionRows(reader.zarr(KEY)).read(trials)
        assert name in told.value.problem, attempt
        assert KEY in told.value.problem
        assert told.value.remake is not None
    assert reader.manifest(KEY) is None, "it can be made again"
    assert reader.keys() == [KEY], "and is not left out"


def test_manifests_of_earlier_versions_have_sha256_only(
    store: Store, where: str, change: Callable[[str, Change], None]
) -> None:
    def older(content: bytes) -> bytes:
        manifest = json.loads(content)
        for record in manifest["files"].values():
            del record["crc32"]
        return json.dumps(manifest).encode()

    change(f"manifests/{KEY}.json", older)
    np.testing.assert_array_equal(SessionRows(store.zarr(KEY), zscore=False).read(), BETAS)
    change(f"{where}/betas/c/1/0", flip)
    with pytest.raises(DamagedArtifactError, match="betas/c/1/0"):
        SessionRows(open_store(store.url).zarr(KEY)).read(np.array([76]))


def test_zarr_itself_is_guarded_too(
    store: Store, where: str, change: Callable[[str, Change], None]
) -> None:
    change(f"{where}/betas/c/0/0", flip)
    group = open_store(store.url).zarr(KEY)
    with pytest.raises(DamagedArtifactError, match="betas/c/0/0 is not what was written"):
        group["betas"][:]


def test_what_was_right_once_is_read_in_part(
    store: Store, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reading of a chunk compares all of it, the next ones read what they need."""
    if isinstance(store, S3Store):
        pytest.skip("chunks of a bucket come whole")
    filled: list[int] = []
    fill = session_rows._fill
    monkeypatch.setattr(
        session_rows, "_fill", lambda file, view: (filled.append(len(view)), fill(file, view))
    )
    betas = SessionRows(store.zarr(KEY))
    betas.read(np.array([3]))
    assert sum(filled) == 75 * 160
    filled.clear()
    betas.read(np.array([3]))
    assert sum(filled) == session_rows._BLOCK_ROWS * 160


def test_a_chunk_that_nobody_wrote_is_no_data(
    store: Store, change: Callable[[str, Change], None]
) -> None:
    """A chunk of fill values has no file; one that lies there is from somewhere else."""
    with store.write(KEY, **MADE_BY) as draft:
        group = zarr.open_group(draft.folder, mode="w")
        group.create_array("empty", shape=(4,), chunks=(4,), dtype="f4", fill_value=0)
    manifest = store.find(KEY)
    assert manifest is not None
    assert not store.zarr(KEY)["empty"][:].any()
    change(f"{manifest.location}/empty/c/0", lambda _: bytes(16))
    with pytest.raises(DamagedArtifactError, match="empty/c/0 is none that was written"):
        open_store(store.url).zarr(KEY)["empty"][:]


def test_a_part_of_a_value_is_that_part(store: Store, where: str) -> None:
    guarded = open_store(store.url).zarr(KEY).store
    whole = BETAS[75:].tobytes()
    for part, expected in (
        (RangeByteRequest(8, 20), whole[8:20]),
        (OffsetByteRequest(16), None),
        (SuffixByteRequest(8), None),
    ):
        value = sync(guarded.get("betas/c/1/0", default_buffer_prototype(), part))
        assert value is not None
        assert expected is None or value.to_bytes() == expected
        (again,) = sync(
            guarded.get_partial_values(default_buffer_prototype(), [("betas/c/1/0", part)])
        )
        assert again.to_bytes() == value.to_bytes()


def test_time_series_are_guarded(store: Store, change: Callable[[str, Change], None]) -> None:
    key = "fsaverage5_series.zarr/subj01/ses01"
    with store.write(key, **MADE_BY) as draft:
        write_series(draft.folder, BETAS, SeriesLayout.of_runs(1.6, {1: 60, 2: 40}), {})
    manifest = store.find(key)
    assert manifest is not None
    change(f"{manifest.location}/series/c/1/0", flip)
    with pytest.raises(DamagedArtifactError, match="series/c/1/0"):
        SessionRows(open_store(store.url).zarr(key)).read(np.array([76]))
