from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsd_pipeline.embeddings import read_embeddings, write_embeddings
from nsd_pipeline.errors import ArtifactError

SETTINGS = {"model": "tiny", "layers": 0.6667, "network_size": [224, 224]}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    ids = rng.permutation(73_000)[:3000]
    embeddings = np.stack([ids, -ids, ids / 7], axis=1).astype(np.float32)
    write_embeddings(tmp_path / "e.parquet", ids, embeddings, SETTINGS)
    return tmp_path / "e.parquet"


@given(
    ids=st.lists(st.integers(0, 72_999), unique=True, max_size=20),
    n_features=st.integers(1, 5),
)
def test_round_trip(
    ids: list[int], n_features: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / "e.parquet"
    rng = np.random.default_rng(len(ids))
    embeddings = rng.standard_normal((len(ids), n_features)).astype(np.float32)
    write_embeddings(path, np.array(ids, dtype=np.int64), embeddings, SETTINGS)
    read_ids, read, settings = read_embeddings(path)
    assert read_ids.dtype == np.int32
    assert read_ids.tolist() == sorted(ids)
    np.testing.assert_array_equal(read, embeddings[np.argsort(ids)].reshape(-1, n_features))
    assert settings == SETTINGS
    assert [file.name for file in path.parent.iterdir()] == ["e.parquet"]


def test_the_array_is_a_view_of_the_column(written: Path) -> None:
    _, embeddings, _ = read_embeddings(written)
    assert pq.ParquetFile(written).num_row_groups == 1
    assert embeddings.flags.c_contiguous
    assert not embeddings.flags.owndata
    assert not embeddings.flags.writeable


def test_pandas_reads_it(written: Path) -> None:
    table = pd.read_parquet(written)
    assert table["image_id"].dtype == np.int32
    assert table["image_id"].is_monotonic_increasing
    np.testing.assert_array_equal(np.stack(table["embedding"])[:, 0], table["image_id"])


def test_duckdb_reads_it(written: Path) -> None:
    query = f"select count(*), sum((embedding[1] = image_id)::int) from '{written}'"
    assert duckdb.sql(query).fetchall() == [(3000, 3000)]


@pytest.mark.parametrize(
    ("ids", "embeddings", "problem"),
    [
        ([1, 1], np.zeros((2, 3)), "twice"),
        ([1, 2, 3], np.zeros((2, 3)), r"\(N,\) and \(N, D\)"),
        ([1, 2], np.zeros(2), r"\(N,\) and \(N, D\)"),
        ([1, 2], np.array([[0.0], [np.nan]]), "finite"),
    ],
)
def test_writing_what_makes_no_sense(
    ids: list[int], embeddings: np.ndarray, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=problem):
        write_embeddings(tmp_path / "e.parquet", np.array(ids), embeddings, {})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def half(table: pa.Table, where: Path, **_: object) -> None:
        where.write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(written, np.arange(2), np.zeros((2, 3), dtype=np.float32), {})
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"e\.parquet is missing"):
        read_embeddings(tmp_path / "e.parquet")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_cut_off(keep: float, written: Path) -> None:
    content = written.read_bytes()
    written.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_embeddings(written)


EMBEDDING = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4, dtype=np.float32)), 2)
IDS = pa.array([1, 2], type=pa.int32())
METADATA = {"settings": "{}"}


@pytest.mark.parametrize(
    ("columns", "metadata", "problem"),
    [
        ({"image_id": IDS}, METADATA, "does not hold"),
        ({"image_id": IDS.cast(pa.int64()), "embedding": EMBEDDING}, METADATA, "does not hold"),
        ({"image_id": IDS, "embedding": IDS}, METADATA, "does not hold"),
        (
            {"image_id": IDS, "embedding": EMBEDDING.cast(pa.list_(pa.float64(), 2))},
            METADATA,
            "does not hold",
        ),
        ({"image_id": IDS, "embedding": EMBEDDING}, None, "does not hold"),
        ({"image_id": IDS, "embedding": EMBEDDING}, {"settings": "{"}, "damaged settings"),
        (
            {"image_id": pa.array([2, 2], type=pa.int32()), "embedding": EMBEDDING},
            METADATA,
            "ascending",
        ),
        ({"image_id": pa.array([1, None], pa.int32()), "embedding": EMBEDDING}, METADATA, "empty"),
        (
            {"image_id": IDS, "embedding": pa.array([[1, 2], None], pa.list_(pa.float32(), 2))},
            METADATA,
            "empty",
        ),
    ],
)
def test_wrong_content(columns: dict, metadata: dict | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    with pytest.raises(ArtifactError, match=problem):
        read_embeddings(path)
