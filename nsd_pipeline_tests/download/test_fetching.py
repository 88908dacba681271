"""What downloads share."""

import io

import numpy as np
import pytest

from nsd_pipeline.download.fetching import npy_header, total
from nsd_pipeline.storage import TransferReport


@pytest.mark.parametrize("dtype", [np.uint8, "<i2"])
def test_an_npy_file_starts_as_numpy_writes_it(dtype: str) -> None:
    saved = io.BytesIO()
    np.save(saved, np.zeros((3, 2), dtype))
    assert saved.getvalue() == npy_header((3, 2), dtype) + bytes(6 * np.dtype(dtype).itemsize)


def test_transfers_one_after_the_other_cost_their_sum() -> None:
    assert total([]) == TransferReport(0, 0, 0.0, 0)
    assert total([TransferReport(1, 2, 0.5, 4), TransferReport(10, 20, 0.25, 40)]) == (
        TransferReport(11, 22, 0.75, 44)
    )
