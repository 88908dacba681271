"""Embed a set of images that does not fit into memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")


class Encoder(Protocol):
    """The two halves of an encoder: one that may run ahead in a thread, one that computes."""

    def prepare(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, H, W, 3) photos to what `encode_prepared` takes."""
        ...

    def encode_prepared(self, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, ...) to (N, D)."""
        ...


def embed_images(
    encoder: Encoder,
    read_images: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    image_ids: NDArray[np.integer],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Embed images batch by batch; the next ones are read and resized while the encoder runs.

    No more than four batches of images are in memory at a time, however many there are.

    Parameters
    ----------
    encoder
        An `ImageEncoder`.
    read_images
        Reads images by their ids, (N,) -> (N, H, W, 3) uint8. Called in one other thread, in the
        order of ``image_ids``. What it raises is raised here.
    image_ids
        (N,) ids, at least one.
    batch_size
        Images at a time.
    progress
        Show a progress bar.

    Returns
    -------
    NDArray[np.float32]
        (N, D), rows in the order of ``image_ids``.

    Raises
    ------
    ValueError
        If there are no ids, or ``read_images`` returns another number of images than asked for.
    """
    from tqdm import tqdm

    ids = np.asarray(image_ids, dtype=np.int64)
    if len(ids) == 0:
        raise ValueError("image_ids is empty: there is nothing to embed.")

    def prepare(batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = read_images(batch)
        if len(images) != len(batch):
            raise ValueError(f"read_images returned {len(images)} images for {len(batch)} ids.")
        return encoder.prepare(images)

    batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    embeddings: NDArray[np.float32] | None = None
    done = 0
    with tqdm(total=len(ids), unit="image", desc="embedding", disable=not progress) as bar:
        for photos in _run_ahead(prepare, batches):
            encoded = encoder.encode_prepared(photos)
            if embeddings is None:
                embeddings = np.empty((len(ids), encoded.shape[1]), dtype=np.float32)
            embeddings[done : done + len(encoded)] = encoded
            done += len(encoded)
            bar.update(len(encoded))
    assert embeddings is not None  # noqa: S101, there is at least one batch
    return embeddings


def _run_ahead(function: Callable[[T], R], items: Iterable[T], *, ahead: int = 2) -> Iterator[R]:
    """Like `map`, but up to ``ahead`` results are computed in a thread before they are asked for.

    Leaving early, by an exception or Ctrl-C, cancels what has not begun and waits for the one call
    that has, so nothing goes on behind the caller's back.
    """
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
