"""What downloads share: the start of an ``.npy`` file, and what several transfers cost together."""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

from nsd_pipeline.storage.transfer import TransferReport


def npy_header(shape: tuple[int, ...], dtype: DTypeLike) -> bytes:
    """Start of an ``.npy`` file in C order, for `fetch` to write before the values that it gets."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def total(reports: Iterable[TransferReport]) -> TransferReport:
    """What transfers that ran one after the other have cost; nothing if there were none."""
    reports = list(reports)
    return TransferReport(
        n_bytes=sum(report.n_bytes for report in reports),
        n_requests=sum(report.n_requests for report in reports),
        seconds=sum((report.seconds for report in reports), 0.0),
        resumed_bytes=sum(report.resumed_bytes for report in reports),
    )
