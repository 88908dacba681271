"""Image embeddings as a Parquet file that pandas and DuckDB read without us.

Two columns: ``image_id`` (int32, NSD's 0-based 73k row; ascending, unique) and ``embedding``
(fixed-size list of float32). The encoder's settings are JSON in the schema's metadata, under
``settings``. The numbers are stored plainly: compression gains nothing on them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage.replacing import replacing

if TYPE_CHECKING:
    import pyarrow as pa

_SETTINGS: Final = b"settings"


def write_embeddings(
    path: str | Path,
    image_ids: NDArray[np.integer],
    embeddings: NDArray[np.float32],
    settings: dict[str, Any],
) -> None:
    """Write embeddings; the file appears whole or not at all.

    Parameters
    ----------
    path
        File to write, or to replace.
    image_ids
        (N,) NSD's 0-based 73k rows, each once, in any order: rows are sorted by them.
    embeddings
        (N, D) float32, finite.
    settings
        What made the embeddings, ready for JSON: `ImageEncoder.settings`.

    Raises
    ------
    ValueError
        If the shapes do not fit, an id is there twice, or a value is not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = np.asarray(image_ids)
    if embeddings.ndim != 2 or ids.shape != (len(embeddings),):
        raise ValueError(
            f"image_ids {ids.shape} and embeddings {embeddings.shape} must be (N,) and (N, D)."
        )
    if len(np.unique(ids)) != len(ids):
        raise ValueError("an image_id is there twice.")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings hold a value that is not finite.")
    order = np.argsort(ids)
    values = np.ascontiguousarray(embeddings[order], dtype=np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    table = pa.table(
        {"image_id": pa.array(ids[order].astype(np.int32)), "embedding": embedding}
    ).replace_schema_metadata({_SETTINGS: json.dumps(settings)})

    with replacing(Path(path)) as partial:
        # One row group, so that the column comes back as one array.
        pq.write_table(
            table,
            partial,
            row_group_size=max(len(ids), 1),
            compression="none",
            use_dictionary=False,
        )


def read_embeddings(
    path: str | Path,
) -> tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Any]]:
    """Read what `write_embeddings` wrote.

    Parameters
    ----------
    path
        The Parquet file.

    Returns
    -------
    image_ids : NDArray[np.int32]
        (N,) ascending.
    embeddings : NDArray[np.float32]
        (N, D), a read-only view of the column as it was read.
    settings : dict
        What made them.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, or does not hold image embeddings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise _artifact_error(path, "is missing") from error
    except (pa.ArrowException, OSError) as error:
        raise _artifact_error(path, f"cannot be read ({str(error).splitlines()[0]})") from error
    _check_schema(path, table)
    image_ids = table["image_id"].combine_chunks().to_numpy()
    column = table["embedding"].combine_chunks()
    embeddings = column.flatten().to_numpy(zero_copy_only=True)
    if (np.diff(image_ids) <= 0).any():
        raise _artifact_error(path, "has image ids that are not ascending and unique")
    try:
        settings = json.loads(table.schema.metadata[_SETTINGS])
    except ValueError as error:
        raise _artifact_error(path, f"has damaged settings ({error})") from error
    return image_ids, embeddings.reshape(len(image_ids), column.type.list_size), settings


def _check_schema(path: Path, table: "pa.Table") -> None:
    import pyarrow as pa

    schema = table.schema
    types = {name: schema.field(name).type for name in schema.names}
    if (
        types.keys() != {"image_id", "embedding"}
        or types["image_id"] != pa.int32()
        or not pa.types.is_fixed_size_list(types["embedding"])
        or types["embedding"].value_type != pa.float32()
        or _SETTINGS not in (schema.metadata or {})
    ):
        found = ", ".join(f"{name}: {kind}" for name, kind in types.items())
        raise _artifact_error(path, f"does not hold image embeddings with settings ({found})")
    if any(table[name].null_count or table[name].combine_chunks().null_count for name in types):
        raise _artifact_error(path, "has empty rows")


def _artifact_error(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(
        f"The image embeddings {path} {problem}.",
        next_step="delete the file and materialize `stimulus_embeddings` again.",
    )
