"""The whole graph on shared S3 storage, by machines that share nothing else."""

import io
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pandas as pd
import pytest
from safetensors.numpy import load_file

from nsd_pipeline.storage.s3_store import S3Store
from nsd_pipeline_tests.pipeline import SESSION_ASSETS, Pipeline, SmallNsd
from nsd_pipeline_tests.storage.servers import S3rver

LAB, SOURCE = "lab", "natural-scenes-dataset"
STORAGE = f"s3://{LAB}/team/artifacts"
UNFINISHED = "/fsaverage5_betas.zarr/subj01/ses02/"
ACCOUNT = {"aws_access_key_id": "lab", "aws_secret_access_key": "secret"}


class LabStorage:
    """A moto server that keeps a record of its requests, and can keep a writer waiting forever.

    Parameters
    ----------
    hold
        Part of an object's name: the third request to put such an object gets no answer.
    """

    def __init__(self, hold: str | None) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        assert self._server._server is not None
        self._app, self._server._server.app = self._server._server.app, self._answer
        self.url = "http://{}:{}".format(*self._server.get_host_and_port())
        self.requests: Counter[str] = Counter()
        self.held = threading.Event()
        self._hold, self._seen, self._lock = hold, 0, threading.Lock()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, name = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            listing = method == "GET" and "list-type" in environ["QUERY_STRING"]
            self.requests["LIST" if listing else method] += 1
            self._seen += method == "PUT" and self._hold is not None and self._hold in name
            hold = self._seen == 3 and not self.held.is_set()
        if hold:
            self.held.set()
            threading.Event().wait()
        return self._app(environ, start_response)

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **ACCOUNT)

    def objects(self, within: str) -> list[str]:
        answer = self.client().list_objects_v2(Bucket=LAB)
        return [each["Key"] for each in answer["Contents"] if within in each["Key"]]

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[LabStorage]:
    storage = LabStorage(hold=getattr(request, "param", None))
    storage.client().create_bucket(Bucket=LAB)
    yield storage
    storage.stop()


@pytest.fixture
def source(small_nsd: SmallNsd, s3rver: S3rver) -> str:
    for path in small_nsd.folder.rglob("*"):
        if path.is_file():
            s3rver.add(SOURCE, str(path.relative_to(small_nsd.folder)), path)
    return s3rver.url


def start(machine: Path, lab: LabStorage, *arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start a machine whose home, cache and working folder are its own."""
    machine.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "nsd_pipeline_tests.steps.machine", *arguments],
        cwd=machine,
        env=kept
        | {name.upper(): value for name, value in ACCOUNT.items()}
        | {
            "HOME": str(machine),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "AWS_ENDPOINT_URL_S3": lab.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NSD_ACCEPT_TERMS": "1",
            "NSD_SOURCE": f"s3://{SOURCE}",
            "NSD_STORAGE": STORAGE,
        }
        | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sign_in(lab: LabStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", lab.url)


def versions(store: S3Store) -> dict[str, str]:
    manifests = [store.manifest(key) for key in store.keys()]  # noqa: SIM118 - it is no dict
    return {each.key: each.version for each in manifests if each}


@pytest.mark.parametrize("lab", [UNFINISHED], indirect=True)
def test_a_machine_goes_on_where_another_was_killed(
    lab: LabStorage,
    source: str,
    small_nsd: SmallNsd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"NSD_ENCODER": str(small_nsd.encoder), "NSD_SOURCE_ENDPOINT": source}
    parts = ["design", "subj01_ses01", "images:shared", "subj01_ses01...subj01_ses02"]
    with start(tmp_path / "a", lab, *parts, **settings) as first:
        while not (lab.held.wait(timeout=0.2) and lab.objects(UNFINISHED)):
            assert first.poll() is None, first.communicate()[1]
        first.kill()

    sign_in(lab, monkeypatch)
    store = S3Store(STORAGE, cache=tmp_path / "reader")
    assert lab.objects(UNFINISHED)
    assert store.keys("fsaverage5_betas.zarr/") == ["fsaverage5_betas.zarr/subj01/ses01"]
    before = versions(store)

    parts = ["subj01_ses01...subj01_ses02", "embed:shared", "embed:subj01", "train"]
    with start(tmp_path / "b", lab, *parts, **settings) as second:
        out, err = second.communicate(timeout=900)
    assert second.returncode == 0, err
    said = json.loads(out)
    # It has two sessions of 40, and learnt for two epochs.
    assert set(said["failed checks"]) <= {
        "retrieval_metrics:above_chance",
    }

    # What the first machine had finished was not made again; what it was at, was.
    after = versions(store)
    changed = {key for key in before if after[key] != before[key]}
    assert changed == {"stimuli/shared/index"}  # the second session's images are new
    model = store.manifest("fmri_mlp/subj01")
    assert model is not None
    assert model.metadata["sessions"] == ["subj01_ses01", "subj01_ses02"]

    # A third machine reads the results, and finds the figures where the UI says they are.
    weights = load_file(store.folder("fmri_mlp/subj01") / "model.safetensors")
    assert weights["lin0.weight"].shape == (8, 20_484)
    metrics = said["train"]["retrieval_metrics"]
    version = after["retrieval_metrics/subj01"]
    assert metrics["artifact"] == f"{STORAGE}/retrieval_metrics/subj01/{version}"
    assert metrics["ranks"].startswith("![ranks](data:image/png;base64,")
    table = pd.read_parquet(store.folder("retrieval_metrics/subj01") / "metrics.parquet")
    assert table["value"].notna().any()
    page = store.folder("decoding_report") / "report.html"
    assert "subj01" in page.read_text()
    # Without us: any S3 client, by the version that the manifest names.
    name = f"team/artifacts/{model.key}/{model.version}/history.parquet"
    history = lab.client().get_object(Bucket=LAB, Key=name)["Body"].read()
    assert len(pd.read_parquet(io.BytesIO(history))) == 3 * 2  # seeds, epochs
    assert not list((tmp_path / "b").rglob("scratch/*/*"))


def test_a_session_costs_the_requests_that_the_documentation_says(
    lab: LabStorage,
    small_nsd: SmallNsd,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_in(lab, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage: Any = f"s3://{LAB}/counted"
    graph = Pipeline(str(small_nsd.folder), storage, small_nsd.encoder, instance)
    graph.run("experiment_design")
    lab.requests.clear()
    graph.run(*SESSION_ASSETS, first="subj01_ses01")
    cost = dict(lab.requests)
    assert cost["PUT"] <= 20
    assert cost["LIST"] <= 40
    assert cost["GET"] <= 70
    lab.requests.clear()
    graph.run(*SESSION_ASSETS, first="subj01_ses01")
    assert set(lab.requests) == {"GET", "LIST"}, "what is up to date writes nothing"
    assert lab.requests.total() < sum(cost.values())
