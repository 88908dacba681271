"""Pictures of a user's own: how they are read, what is kept, and which encoder is theirs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsd_pipeline.embeddings import ModelError, own_pictures
from nsd_pipeline.embeddings.own_pictures import embed_pictures, encoder_arguments, read_picture
from nsd_pipeline.errors import InvalidFileError

SETTINGS = {
    "model": "lab/model",
    "weights": "sha256:1",
    "layers": 0.5,
    "token_aggregation": "mean",
    "image_size": 32,
    "processor": "model",
    "dtype": "float32",
}


class BrightnessEncoder:
    """Embeds a picture as its mean colour."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images.mean(axis=(1, 2)).astype(np.float32)


def test_a_picture_is_upright_and_square(tmp_path: Path) -> None:
    lying = np.zeros((100, 300, 3), np.uint8)
    lying[:, 100:200] = (0, 200, 0)
    lying[:, 150:200, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise: what is on the right comes below
    Image.fromarray(lying).save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == (425, 425, 3)
    assert picture[20, 212].tolist() == [0, 200, 0]
    assert picture[-20, 212].tolist() == [255, 200, 0]


def test_what_was_embedded_before_a_damaged_picture_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(own_pictures, "_AT_ONCE", 1)
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path, color in zip(paths, ((10, 20, 30), (40, 50, 60)), strict=True):
        Image.new("RGB", (8, 8), color).save(path)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:45])
    with pytest.raises(InvalidFileError, match=r"b\.png cannot be read"):
        embed_pictures(paths, SETTINGS, BrightnessEncoder)
    paths[1].write_bytes(whole)
    made = embed_pictures(paths[:1], SETTINGS, lambda: pytest.fail("it was kept"))
    np.testing.assert_array_equal(made, [[10, 20, 30]])
    both = embed_pictures(paths, SETTINGS, BrightnessEncoder)
    np.testing.assert_array_equal(both, [[10, 20, 30], [40, 50, 60]])
    with pytest.raises(ZeroDivisionError):  # another encoder's embeddings are others
        embed_pictures(paths, {**SETTINGS, "layers": 1.0}, lambda: 1 // 0)
    for kept in (tmp_path / "cache").rglob("*.npy"):
        kept.write_bytes(b"")
    with pytest.raises(InvalidFileError, match="delete that file"):
        embed_pictures(paths, SETTINGS, BrightnessEncoder)


def test_an_encoder_that_cannot_be_had_is_told() -> None:
    with pytest.raises(ModelError, match="there are no such weights in lab/model"):
        encoder_arguments(SETTINGS, ["lab/model"])
    with pytest.raises(
        ModelError, match=r"cannot be had here\. The model lab/model .*\n.*huggingface"
    ):
        encoder_arguments({**SETTINGS, "weights": f"commit:{'0' * 40}"}, [])
