"""Embed a set of images that does not fit into memory, and keep the embeddings as Parquet.

Two columns: ``image_id`` (int32, NSD's 0-based 73k row; ascending, unique) and ``embedding``
((fixed-size list of float32). The encoder's settings are JSON in the schema's metadata, under
``settings``. The file is not compressed: these numbers do not become smaller.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import ArtifactError, parsing
from nsd_pipeline.storage.disk import replacing

if TYPE_CHECKING:
    import pyarrow as pa

    from nsd_pipeline.embeddings.encoder import ImageEncoder

EMBEDDINGS_FILE: Final = "embeddings.parquet"
"""Name of the file in an artifact."""
_SETTINGS: Final = b"settings"
_AHEAD: Final = 2

Photos = NDArray[np.uint8]


def embed_images(
    encoder: "ImageEncoder",
    read_images: Callable[[NDArray[np.int64]], Photos],
    image_ids: NDArray[np.integer],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Embed images (N,) batch by batch, in order: (N, D).

    The encoder prepares the next images in a thread that runs ahead, while it embeds others in this
    one. `read_images` reads some by their ids, (n,) -> (n, H, W, 3) uint8. It is called in one
    other thread, in order; what it raises is raised here. No more than four batches of images are
    in memory at a time, however many there are. A ValueError if there are no ids, or it returns
    another number of images than asked for.
    """
    from tqdm import tqdm

    ids = np.asarray(image_ids, dtype=np.int64)
    if len(ids) == 0:
        raise ValueError("image_ids is empty: there is nothing to embed.")

    def prepare(batch: NDArray[np.int64]) -> Photos:
        images = read_images(batch)
        if len(images) != len(batch):
            raise ValueError(f"read_images returned {len(images)} images for {len(batch)} ids.")
        return encoder.prepare(images)

    batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    embeddings = np.empty((0, 0), dtype=np.float32)
    done = 0
    bar = tqdm(
        total=len(ids),
        unit="image",
        desc="embedding",
        disable=not progress,
        leave=None,  # below the bar of `nsd run`, it goes when it is full
        mininterval=0.2 if sys.stderr.isatty() else 15,  # as of a download
    )
    with bar:
        for photos in _prepared_ahead(prepare, batches):
            encoded = encoder.encode_prepared(photos)
            if done == 0:
                # Only the first batch tells how wide an embedding is.
                embeddings = np.empty((len(ids), encoded.shape[1]), dtype=np.float32)
            embeddings[done : done + len(encoded)] = encoded
            done += len(encoded)
            bar.update(len(encoded))
    return embeddings


def _prepared_ahead(
    prepare: Callable[[NDArray[np.int64]], Photos], batches: Iterable[NDArray[np.int64]]
) -> Iterator[Photos]:
    """Like `map`, but a thread computes up to `_AHEAD` results before they are asked for.

    If the caller stops early, by an exception or Ctrl-C, calls that have not begun are cancelled,
    and the one that has is waited for: no thread goes on after the caller.
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    pending: deque[Future[Photos]] = deque()
    try:
        for batch in batches:
            pending.append(executor.submit(prepare, batch))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def write_embeddings(
    path: str | Path,
    image_ids: NDArray[np.integer],
    embeddings: NDArray[np.float32],
    settings: dict[str, Any],
) -> None:
    """Write embeddings (N, D) float32, finite; the file appears whole or not at all.

    The ids (N,) are NSD's 0-based 73k rows, each once, in any order: rows are sorted by them.
    Settings are what made the embeddings, ready for JSON: `ImageEncoder.settings`. A ValueError if
    the shapes do not fit, an id is there twice, or a value is not finite.
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
    columns = {"image_id": pa.array(ids[order].astype(np.int32)), "embedding": embedding}
    table = pa.table(columns, metadata={_SETTINGS: json.dumps(settings)})

    with replacing(Path(path)) as partial:
        # One row group, so that the column comes back as one array.
        n_rows = max(len(ids), 1)
        pq.write_table(
            table, partial, row_group_size=n_rows, compression="none", use_dictionary=False
        )


def read_embeddings(
    path: str | Path,
) -> tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Any]]:
    """Read what `write_embeddings` wrote.

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
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.exists():
        raise _artifact_error(path, "is missing")
    with parsing(
        lambda problem: _artifact_error(path, f"cannot be read ({problem.splitlines()[0]})")
    ):
        table = pq.read_table(path)
        _check_columns(path, table)
        image_ids = table["image_id"].combine_chunks().to_numpy()
        column = table["embedding"].combine_chunks()
        embeddings = column.flatten().to_numpy(zero_copy_only=True)
    with parsing(lambda problem: _artifact_error(path, f"has damaged settings ({problem})")):
        settings = json.loads(table.schema.metadata[_SETTINGS])
    if (np.diff(image_ids) <= 0).any():
        raise _artifact_error(path, "has image ids that are not ascending and unique")
    return image_ids, embeddings.reshape(len(image_ids), column.type.list_size), settings


def _check_columns(path: Path, table: "pa.Table") -> None:
    import pyarrow as pa

    types = {field.name: field.type for field in table.schema}
    if (
        types.keys() != {"image_id", "embedding"}
        or types["image_id"] != pa.int32()
        or not pa.types.is_fixed_size_list(types["embedding"])
        or types["embedding"].value_type != pa.float32()
        or _SETTINGS not in (table.schema.metadata or {})
    ):
        found = ", ".join(f"{name}: {kind}" for name, kind in types.items())
        raise _artifact_error(path, f"does not hold image embeddings with settings ({found})")
    if any(table[name].null_count or table[name].combine_chunks().null_count for name in types):
        raise _artifact_error(path, "has empty rows")


def _artifact_error(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(
        f"The image embeddings {path} {problem}.",
        next_step="delete the file and make stimulus_embeddings again.",
    )
