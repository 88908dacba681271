from pathlib import Path

import pytest

from nsd_pipeline.errors import NsdError
from nsd_pipeline.steps.images import EncoderConfig
from nsd_pipeline.steps.series_files import BoldConfig
from nsd_pipeline.storage.names import parse_place
from nsd_pipeline.storage.opening import open_source, open_store
from nsd_pipeline.storage.s3 import S3Source
from nsd_pipeline.storage.s3_store import S3Store

REFUSED = [
    *("gs://my-lab/nsd", "s3:/my-lab/nsd", "s3:my-lab/nsd", "s3a://my-lab/nsd", "S3:/x", "gs:x"),
    *("http://server/nsd", "https://my-lab.s3.amazonaws.com/nsd", "az://x/y", "hf://x/y"),
    *("file://server/nsd", "file:nsd", "file:///nsd?x=1", "lab:/nsd", "C:\\data\\nsd", "D:/nsd"),
    *("", "  ", "~nobody-of-that-name/nsd", "a\0b"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_places_that_are_understood(home: Path) -> None:
    for text, place in {
        "s3://my-lab/nsd": "s3://my-lab/nsd",
        "S3://my-lab/NSD": "s3://my-lab/NSD",
        " s3://my-lab\n": "s3://my-lab",
        "file:///data/my%20nsd": Path("/data/my nsd"),
        "FILE:///data/a#b": Path("/data/a#b"),
        "file://localhost/data": Path("/data"),
        "file:/data": Path("/data"),
        "~/nsd": home / "nsd",
        "./artifacts": Path("artifacts"),
        "/data/2023:nsd": Path("/data/2023:nsd"),
        "2023-11-07T12:30": Path("2023-11-07T12:30"),
        "./gs:": Path("gs:"),
        "./lab:/nsd": Path("lab:/nsd"),
    }.items():
        assert parse_place(text, what="it") == place, text


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_understood_is_refused_and_no_folder_is_made(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, attempt in {
        "NSD_STORAGE": lambda: open_store(text),
        "NSD_SOURCE": lambda: open_source(text),
        "NSD_BIDS_DERIVATIVES": lambda: BoldConfig(derivatives=text, raw="x").folders(),
        "NSD_BIDS_RAW": lambda: BoldConfig(derivatives="x", raw=text).folders(),
    }.items():
        with pytest.raises(NsdError, match="neither a folder nor") as told:
            attempt()
        assert name in told.value.problem
    assert list(tmp_path.iterdir()) == []


def test_all_settings_understand_the_same(home: Path) -> None:
    (home / "nsd").mkdir()
    for text in ("~/nsd", f"file://{home}/nsd", f"{home}/nsd"):
        assert open_store(text).url == open_source(text).url == str(home / "nsd")
        assert BoldConfig(derivatives=text, raw=text).folders() == (home / "nsd", home / "nsd")
        assert EncoderConfig(model=text).settings()["model"] == str(home / "nsd")
    store, source = open_store("S3://lab/x"), open_source("S3://lab/x")
    assert isinstance(store, S3Store)
    assert isinstance(source, S3Source)
    assert store.url == source.url == "s3://lab/x"
    with pytest.raises(NsdError, match="has to be a folder of this machine"):
        BoldConfig(derivatives="s3://lab/deepprep", raw="x").folders()


def test_a_model_is_a_name_on_the_hub_or_a_folder() -> None:
    for name in ("facebook/dinov2-giant", "gpt2", "./tiny", "models/tiny"):
        assert EncoderConfig(model=name).settings()["model"] == name
    for name in (
        "s3://lab/model",
        "gs://lab/model",
        "https://huggingface.co/facebook/dinov2-giant",
    ):
        with pytest.raises(NsdError, match="NSD_ENCODER"):
            EncoderConfig(model=name).settings()
