"""Rows of the download: a session's betas from a bucket."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import data
from benchmarks.harness import Inputs, Row, Side, faster, fewer, less_memory
from benchmarks.worker import Outcome, Repeat, Settings
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES
from nsd_pipeline_tests.storage import s3_server

BUCKET: Final = "natural-scenes-dataset"
LINK_BYTES_PER_SECOND: Final = 50e6
LINK_LATENCY: Final = 0.030
_CACHE: Final = Path("build") / "s3rver"

_OURS: Final = "ours"
_BOTO3: Final = "boto3 transfer manager, whole objects, sliced"


@contextmanager
def _served(folder: Path, quick: bool, *, slow: bool) -> Iterator[Inputs]:
    paths = data.session_files(folder, quick=quick)
    # Over the slow link one hemisphere will do: the other one would take as long again.
    paths = paths[:1] if slow else paths
    script = s3_server.install(_CACHE.absolute())
    with ExitStack() as stack:
        root = folder / f"bucket_{'slow' if slow else 'fast'}"
        server = stack.enter_context(s3_server.serve(script, root))
        for path in paths:
            server.add(BUCKET, path.name, path)
        url = server.url
        if slow:
            url = stack.enter_context(
                s3_server.slow_link(
                    url, bytes_per_second=LINK_BYTES_PER_SECOND, latency=LINK_LATENCY
                )
            )
        yield Inputs(
            {"url": url, "keys": [path.name for path in paths], "folder": str(folder)},
            work=f"{data.n_trials(quick)} trials, "
            + (
                f"one hemisphere, {LINK_BYTES_PER_SECOND / 1e6:.0f} MB/s and"
                f" {LINK_LATENCY * 1e3:.0f} ms"
                if slow
                else "both hemispheres, loopback"
            ),
        )


@contextmanager
def _fast(folder: Path, quick: bool) -> Iterator[Inputs]:
    with _served(folder, quick, slow=False) as inputs:
        yield inputs


@contextmanager
def _slow(folder: Path, quick: bool) -> Iterator[Inputs]:
    with _served(folder, quick, slow=True) as inputs:
        yield inputs


def fetch_ranges(settings: Settings) -> Repeat:
    """Fetch what fsaverage5 needs by ranges and read it, as the assets do."""
    import shutil

    os.environ["NSD_ACCEPT_TERMS"] = "1"  # generated data on this machine's own server
    from nsd_pipeline.nsd import mgh
    from nsd_pipeline.storage import fetch, open_source

    folder = Path(settings["folder"], "ours")
    source = open_source(f"s3://{BUCKET}", endpoint_url=settings["url"])

    def repeat() -> Outcome:
        shutil.rmtree(folder, ignore_errors=True)
        n_bytes, values = 0, {}
        for key in settings["keys"]:
            info = source.describe(key)
            raw = source.read(key, 0, mgh.HEADER_BYTES, etag=info.etag)
            header = mgh.parse_header(raw, name=key)
            report = fetch(
                source,
                info,
                mgh.frame_ranges(header, FSAVERAGE5_VERTICES),
                folder / key,
                prefix=mgh.header_bytes(FSAVERAGE5_VERTICES, header.n_frames),
            )
            n_bytes += report.n_bytes + len(raw)
            values[key] = mgh.read_vertices(folder / key, FSAVERAGE5_VERTICES)
        return Outcome(values, {"bytes": n_bytes})

    return repeat


def fetch_whole(settings: Settings) -> Repeat:
    """Download whole objects and slice them through a memory map."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    from nsd_pipeline.nsd import mgh

    client: Any = boto3.client(
        "s3",
        endpoint_url=settings["url"],
        region_name="us-east-2",
        config=Config(signature_version=UNSIGNED),
    )
    folder = Path(settings["folder"], "boto3")
    folder.mkdir(exist_ok=True)

    def sliced(path: Path) -> NDArray[np.float32]:
        header = mgh.parse_header(path.open("rb").read(mgh.HEADER_BYTES), name=path.name)
        shape = (header.n_frames, header.n_vertices)
        whole = np.memmap(path, ">f4", "r", mgh.HEADER_BYTES, shape)
        return whole[:, :FSAVERAGE5_VERTICES].astype(np.float32)

    def repeat() -> Outcome:
        n_bytes, values = 0, {}
        for key in settings["keys"]:
            path = folder / key
            client.download_file(BUCKET, key, str(path))
            n_bytes += path.stat().st_size
            values[key] = sliced(path)
            path.unlink()
        return Outcome(values, {"bytes": n_bytes})

    return repeat


_SIDES: Final = (Side(_OURS, fetch_ranges), Side(_BOTO3, fetch_whole))

ROWS: Final = (
    Row(
        "s3-betas",
        "Surface betas of a session from S3, no limit",
        _fast,
        _SIDES,
        (
            faster(_OURS, _BOTO3, 0.9),
            fewer("bytes", _OURS, _BOTO3, 1 / 15.9),
            less_memory(_OURS, _BOTO3, 1),
        ),
    ),
    Row(
        "s3-betas-slow-link",
        "Surface betas of a session from S3 over a slow link",
        _slow,
        _SIDES,
        (faster(_OURS, _BOTO3, 4), fewer("bytes", _OURS, _BOTO3, 1 / 15.9)),
        warm_up=False,
    ),
)
