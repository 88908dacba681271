"""The store, and a private copy of NSD, on servers that people run."""

import logging
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest

from nsd_pipeline.errors import SourceError
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline_tests.storage import real_servers
from nsd_pipeline_tests.storage.s3_server import ServerError
from nsd_pipeline_tests.storage.test_store import KEY, MADE_BY, put, write_zarr

CONTENT = bytes(range(256)) * 8


@pytest.fixture(params=["weed", "rclone"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    cache = request.config.cache
    assert cache is not None
    try:
        program = real_servers.install(request.param, cache.mkdir("real_servers"))
    except ServerError as error:
        pytest.skip(str(error))
    (tmp_path / "server").mkdir()
    with real_servers.serve(program, tmp_path / "server") as url:
        for name, value in real_servers.ACCOUNT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield request.param


def test_artifacts_live_there(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boto3.client("s3").create_bucket(Bucket="lab")
    store = S3Store("s3://lab/nsd", cache=tmp_path / "writer")
    reader = S3Store("s3://lab/nsd", cache=tmp_path / "reader")
    with caplog.at_level(logging.WARNING):
        for text in ("one", "two"):
            put(store, text=text)
            assert reader.keys() == [KEY]
            assert (reader.folder(KEY) / "events.txt").read_text() == text
    with store.write("large/x", **MADE_BY) as draft:  # in parts
        (draft.folder / "large").write_bytes(CONTENT * 5000)
    assert (reader.folder("large/x") / "large").read_bytes() == CONTENT * 5000
    write_zarr(store, np.ones((4, 3)))
    assert (reader.zarr("betas.zarr/subj01/ses01")["betas"][:] == 1).all()
    told = " ".join(each.getMessage() for each in caplog.records if each.name.startswith("nsd_"))
    assert ("knows no conditional writes (it ignores them)" in told) == (server == "rclone")


def test_a_copy_is_read_or_refused_with_the_reason(server: str, terms_accepted: None) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket="nsd")
    client.put_object(Bucket="nsd", Key="nsddata/x", Body=CONTENT)
    source = open_source("s3://nsd", signed=True)
    assert source.list("nsddata/") == ["nsddata/x"]
    if server == "rclone":  # answers 200 where a part was asked for
        with pytest.raises(SourceError, match="cannot be read in parts"):
            source.describe("nsddata/x")
        with pytest.raises(SourceError) as told:
            open_source("s3://nsd").describe("nsddata/x")
        assert "NSD_SOURCE_SIGNED=1" in told.value.next_step
        return
    info = source.describe("nsddata/x")
    assert source.read("nsddata/x", 100, 300, etag=info.etag) == CONTENT[100:400]
