import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nsd_pipeline.embeddings import ModelError, model_identity
from nsd_pipeline.embeddings.model_files import fetch_model, weight_files
from nsd_pipeline_tests.embeddings.conftest import TINY_DINOV2

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as downloading takes.

    `lab/tiny`, `lab/pickled` with pickled weights only, `lab/nested` as transformers 5 saves it.
    """

    requests: list[str]

    def files(self, model: str) -> dict[str, bytes]:
        files = {path.name: path.read_bytes() for path in TINY_DINOV2.iterdir()}
        if model == "lab/pickled":
            del files["model.safetensors"]
        if model == "lab/nested":
            inner = json.loads(files.pop("preprocessor_config.json"))
            files["processor_config.json"] = json.dumps({"image_processor": inner}).encode()
        return files | {"pytorch_model.bin": b"pickled", "README.md": b"read me"}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.requests.append(self.path)
        headers, body, status = {}, b"{}", 404
        if match := re.match(r"/api/models/(lab/tiny|lab/pickled|lab/nested)(/\w+)?", self.path):
            files = self.files(match[1])
            status = 200
            if match[2] == "/tree":
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": f"{index:040x}"}
                    for index, (name, content) in enumerate(files.items())
                ]
                body = json.dumps(entries).encode()
            else:
                siblings = [{"rfilename": name} for name in files]
                body = json.dumps({"id": match[1], "sha": COMMIT, "siblings": siblings}).encode()
        elif match := re.match(r"/(lab/\w+)/resolve/\w+/(.+)", self.path):
            body, status = self.files(match[1])[match[2]], 200
            headers = {"ETag": f'"{match[2]}"', "X-Repo-Commit": COMMIT}
        elif self.path.startswith("/api/models/lab/"):
            headers = {"X-Error-Code": "RepoNotFound"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (Hub,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.requests
    server.shutdown()
    thread.join()
    server.server_close()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a line of Python against a hub, in a process of its own: its address is read once."""

    def run(line: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        code = f"from nsd_pipeline.embeddings.model_files import *\n{line}"
        own = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        return subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | own | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_model_is_downloaded_once_without_its_pickle(
    hub: tuple[str, list[str]], run: Run
) -> None:
    url, requests = hub
    identity = run("print(model_identity('lab/tiny'))", HF_ENDPOINT=url)
    assert identity.stdout.strip() == f"commit:{COMMIT}", identity.stderr
    assert not any("safetensors" in path for path in requests)

    fetched = run("print(fetch_model('lab/tiny'))", HF_ENDPOINT=url)
    folder = Path(fetched.stdout.strip())
    assert folder.name == COMMIT, fetched.stderr
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    assert weight_files(folder)[0].read_bytes() == weight_files(TINY_DINOV2)[0].read_bytes()

    n_requests = len(requests)
    again = run("print(fetch_model('lab/tiny'), model_identity('lab/tiny'))", HF_ENDPOINT=url)
    assert again.stdout.split() == [str(folder), f"commit:{COMMIT}"]
    assert len(requests) == n_requests


def test_a_nested_processor_is_downloaded_and_enough(hub: tuple[str, list[str]], run: Run) -> None:
    url, requests = hub
    fetched = run("print(fetch_model('lab/nested'))", HF_ENDPOINT=url)
    folder = Path(fetched.stdout.strip())
    assert (folder / "processor_config.json").is_file(), fetched.stderr
    n_requests = len(requests)
    again = run("print(fetch_model('lab/nested'))", HF_ENDPOINT=url)
    assert again.stdout.strip() == str(folder), again.stderr
    assert len(requests) == n_requests


@pytest.mark.parametrize("lacking", ["preprocessor_config.json", "model.safetensors"])
def test_what_another_tool_left_in_the_cache_is_completed(
    lacking: str, hub: tuple[str, list[str]], run: Run, tmp_path: Path
) -> None:
    """Older caches have no list of the model's files, so theirs looks whole to the library."""
    fetched = run("print(fetch_model('lab/tiny'))", HF_ENDPOINT=hub[0])
    folder = Path(fetched.stdout.strip())
    (folder / lacking).unlink()
    for listing in tmp_path.rglob("trees"):
        shutil.rmtree(listing)
    again = run("print(fetch_model('lab/tiny'))", HF_ENDPOINT=hub[0])
    assert again.stdout.strip() == str(folder), again.stderr
    assert (folder / lacking).is_file()


@pytest.mark.parametrize(
    ("line", "offline", "says"),
    [
        ("fetch_model('lab/pickled')", "0", ["no safetensors weights", "save_pretrained"]),
        ("model_identity('lab/nothing')", "0", ["lab/nothing", "NSD_ENCODER", "`model`"]),
        ("model_identity('lab/tiny', 'v9')", "1", ["lab/tiny (revision v9)", "NSD_ENCODER"]),
        ("model_identity('./no such folder')", "0", ["./no such folder", "NSD_ENCODER"]),
    ],
)
def test_what_cannot_be_had_says_what_to_do(
    line: str, offline: str, says: list[str], hub: tuple[str, list[str]], run: Run
) -> None:
    result = run(line, HF_ENDPOINT=hub[0], HF_HUB_OFFLINE=offline)
    assert result.returncode == 1
    last_error = result.stderr[result.stderr.rindex("ModelError: ") :]
    assert all(words in last_error for words in says), last_error


def test_a_hub_that_does_not_answer_says_what_to_do(run: Run) -> None:
    result = run("model_identity('lab/tiny')", HF_ENDPOINT="http://127.0.0.1:9")
    assert "ModelError: The model lab/tiny" in result.stderr
    assert "NSD_ENCODER" in result.stderr


def test_a_folder_with_pickled_weights_only(tmp_path: Path) -> None:
    shutil.copy(TINY_DINOV2 / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin"):
        fetch_model(tmp_path)


def test_a_shard_is_missing(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / names[0]).touch()
    with pytest.raises(ModelError, match=f"lacks {names[1]}"):
        weight_files(tmp_path)
    (tmp_path / names[1]).touch()
    assert [path.name for path in weight_files(tmp_path)] == names


@pytest.mark.parametrize("names", [["../model.safetensors"], ["/etc/hostname"], [1], [], None])
def test_an_index_that_names_no_files_of_the_folder(names: list | None, tmp_path: Path) -> None:
    weight_map = None if names is None else {str(name): name for name in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match="does not name files of this folder"):
        weight_files(tmp_path)


def test_a_replaced_weight_file_is_another_model(tmp_path: Path) -> None:
    """The digest is remembered per file, and must not outlive it."""
    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    before = model_identity(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert model_identity(folder) != before


def test_importing_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; import nsd_pipeline.embeddings as e\n"
        f"e.encoder_identity({str(TINY_DINOV2)!r})\n"
        "heavy = {'torch', 'transformers', 'torchvision', 'nilearn', 'nibabel', 'pyarrow', 'PIL'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
