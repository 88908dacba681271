import json
import shutil
from pathlib import Path

import pytest

from nsd_pipeline.embeddings import ImageEncoder, describe_encoder, encoder_identity
from nsd_pipeline.embeddings.model_files import model_name
from nsd_pipeline_tests.embeddings.conftest import TINY_DINOV2

GIANT = {
    "model": "facebook/dinov2-giant",
    "weights": "commit:611a9d42f2335e0f921f1e313ad3c1b7178d206d",
    "layers": 0.6667,
    "token_aggregation": "mean",
    "image_size": 518,
    "processor": "model",
    "dtype": "float32",
    "hidden_state": 26,
    "n_blocks": 40,
    "network_size": [224, 224],
}


def test_settings_of_the_default_encoder() -> None:
    assert describe_encoder(GIANT) == (
        "facebook/dinov2-giant (commit:611a9d42…), hidden state 26 of 41 (layers 0.6667), "
        "mean over tokens, 518 px (the network sees 224 x 224), float32"
    )


def test_settings_of_a_folder_and_its_identity_alone() -> None:
    encoder = ImageEncoder(TINY_DINOV2, 0.5, "cls", 224, processor="normalize")
    digest = encoder.settings["weights"][:15]
    assert describe_encoder(json.loads(json.dumps(encoder.settings))) == (
        f"tiny_dinov2 ({digest}…), hidden state 3 of 7 (layers 0.5), class token, 224 px, float32"
    )
    identity = encoder_identity(TINY_DINOV2, 0.5, "cls", 224, processor="normalize")
    assert describe_encoder(identity) == (
        f"{digest}…, layers 0.5, class token, 224 px (normalised only), float32"
    )


def test_what_is_not_known_is_left_out() -> None:
    assert describe_encoder({}) == "an encoder that is not named"
    assert describe_encoder({"model": "tiny", "layers": 0.5}) == "tiny, layers 0.5"


@pytest.mark.parametrize(
    ("place", "written", "name"),
    [
        ("lab/tiny", "lab/tiny", "tiny"),
        ("lab/tiny", "~/lab/tiny/", "tiny"),
        ("lab/tiny", "lab/tiny/../tiny/.", "tiny"),
        (f"models--lab--tiny/snapshots/{'0' * 40}", f"models--lab--tiny/snapshots/{'0' * 40}",
         "lab/tiny"),
    ],
)  # fmt: skip
def test_a_folder_is_called_by_its_name_however_it_is_written(
    place: str, written: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TINY_DINOV2, tmp_path / place)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert model_name(written) == name
    assert ImageEncoder(written).settings["model"] == name
    assert encoder_identity(written) == encoder_identity(TINY_DINOV2)


def test_other_names_are_the_hubs() -> None:
    assert model_name("facebook/dinov2-giant") == "facebook/dinov2-giant"
    assert model_name("~nobody-of-this-name/tiny") == "~nobody-of-this-name/tiny"


def test_the_identity_of_settings_made_before_stays_what_it_was() -> None:
    """What is compared with artifacts that exist: another key, or another value, remakes them."""
    assert encoder_identity(TINY_DINOV2) == {
        "weights": "sha256:7963d69004308a614c021b02dcffa6034a7e7b7dedd2d3ddeecd46920b67f90c",
        "layers": 0.6667,
        "token_aggregation": "mean",
        "image_size": 518,
        "processor": "model",
        "dtype": "float32",
    }
