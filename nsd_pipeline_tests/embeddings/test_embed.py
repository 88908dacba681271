import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nsd_pipeline.embeddings import embed_images


class ShowsIds:
    """An encoder whose embedding is the id that the image was made of."""

    def __init__(self) -> None:
        self.threads = {"prepare": set(), "encode": set()}

    def prepare(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.threads["prepare"].add(threading.get_ident())
        return images

    def encode_prepared(self, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.threads["encode"].add(threading.get_ident())
        return photos[:, 0, :1, 0].astype(np.float32)


def image_of_id(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.broadcast_to(ids[:, None, None, None].astype(np.uint8), (len(ids), 2, 2, 3))


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 12))
def test_rows_are_in_the_order_of_the_ids(ids: list[int], batch_size: int) -> None:
    embeddings = embed_images(
        ShowsIds(), image_of_id, np.array(ids), batch_size=batch_size, progress=False
    )
    assert embeddings[:, 0].tolist() == ids
    assert embeddings.dtype == np.float32


def test_reads_and_prepares_in_another_thread() -> None:
    encoder = ShowsIds()
    embed_images(encoder, image_of_id, np.arange(20), batch_size=4, progress=False)
    assert encoder.threads["encode"] == {threading.get_ident()}
    assert len(encoder.threads["prepare"]) == 1
    assert encoder.threads["prepare"].isdisjoint(encoder.threads["encode"])


def test_reads_ahead_while_the_encoder_runs_but_only_a_few_batches() -> None:
    """The encoder waits in its first call until the next batches have been read."""
    read: list[int] = []
    ahead_was_read = threading.Event()

    def read_images(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        read.append(int(ids[0]))
        if len(read) == 3:
            ahead_was_read.set()
        return image_of_id(ids)

    class WaitsForTheNextBatches(ShowsIds):
        n_calls = 0

        def encode_prepared(self, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
            assert ahead_was_read.wait(timeout=10)
            assert len(read) <= self.n_calls + 4
            self.n_calls += 1
            return super().encode_prepared(photos)

    embed_images(WaitsForTheNextBatches(), read_images, np.arange(50), batch_size=2, progress=False)
    assert read == list(range(0, 50, 2))


def test_what_reading_raises_is_raised_here() -> None:
    def fails_later(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        if 6 in ids:
            raise OSError("the disk is gone")
        return image_of_id(ids)

    with pytest.raises(OSError, match="the disk is gone"):
        embed_images(ShowsIds(), fails_later, np.arange(40), batch_size=2, progress=False)
    assert not reading_threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_goes_on_after_the_encoder_stops(error: type[BaseException]) -> None:
    read: list[int] = []

    def read_images(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        read.append(len(ids))
        return image_of_id(ids)

    class Stops(ShowsIds):
        def encode_prepared(self, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise error

    with pytest.raises(error):
        embed_images(Stops(), read_images, np.arange(100), batch_size=2, progress=False)
    assert not reading_threads()
    assert len(read) <= 3


def test_too_few_images_are_noticed() -> None:
    with pytest.raises(ValueError, match="1 images for 2 ids"):
        embed_images(
            ShowsIds(), lambda ids: image_of_id(ids[:1]), np.arange(4), batch_size=2, progress=False
        )


def test_no_ids() -> None:
    with pytest.raises(ValueError, match="nothing to embed"):
        embed_images(ShowsIds(), image_of_id, np.array([], dtype=int))
