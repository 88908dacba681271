import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nsd_pipeline.embeddings import ModelError
from nsd_pipeline.embeddings.preprocessing import Preprocessing, read_preprocessing

NORMALISATION = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}


def read(folder: Path, processor: str = "model", **config: Any) -> Preprocessing:
    (folder / "preprocessor_config.json").write_text(json.dumps(NORMALISATION | config))
    return read_preprocessing(folder, image_size=100, processor=processor)


@pytest.mark.parametrize(
    ("config", "resize", "crop", "network_size"),
    [
        ({"size": {"height": 40, "width": 30}}, (40, 30), None, (40, 30)),
        ({"size": {"shortest_edge": 40}}, (40, 40), None, (40, 40)),
        (
            {"size": 40, "do_center_crop": True, "crop_size": {"height": 30, "width": 20}},
            (40, 40),
            (30, 20),
            (30, 20),
        ),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 50}, None, (50, 50), (50, 50)),
        ({"do_resize": False}, None, None, (100, 100)),
    ],
)
def test_sizes(
    config: dict, resize: tuple | None, crop: tuple | None, network_size: tuple, tmp_path: Path
) -> None:
    steps = read(tmp_path, **config)
    assert (steps.resize, steps.crop, steps.network_size) == (resize, crop, network_size)


def test_normalize_skips_all_but_the_normalisation(tmp_path: Path) -> None:
    steps = read(tmp_path, processor="normalize", size=40, do_center_crop=True, crop_size=30)
    assert steps.network_size == (100, 100)
    assert steps.mean == (0.5, 0.4, 0.3)


def test_crops_the_centre_and_normalises_each_colour() -> None:
    import torch

    steps = Preprocessing(6, None, "bicubic", (2, 4), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    photo = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), dtype=np.uint8)
    pixels = steps.to_network(torch.from_numpy(photo)).numpy()
    expected = (photo[:, 2:4, 1:5] / 255 - steps.mean) / steps.std
    np.testing.assert_allclose(pixels, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_photos_are_resized_as_pil_does_it() -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, 9, 13, 3), dtype=np.uint8)
    steps = Preprocessing(7, None, "bicubic", None, (0.0,) * 3, (1.0,) * 3)
    expected = Image.fromarray(photos[1]).resize((7, 7), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(steps.resize_photos(photos)[1], np.asarray(expected))


@pytest.mark.parametrize(
    "config",
    [
        {"size": 40, "do_pad": True},
        {"size": 40, "crop_pct": 0.9},
        {"size": 40, "rescale_factor": 1.0},
        {"size": 40, "resample": 1},
        {"size": {"longest_edge": 40}},
        {"size": 20, "do_center_crop": True, "crop_size": 30},
        {"size": 40, "image_mean": None},
        {"size": 40, "image_std": [0.5]},
    ],
)
def test_steps_that_are_not_known_are_not_guessed(config: dict, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"preprocessor_config\.json cannot be followed"):
        read(tmp_path, **config)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_the_file_is_missing_or_damaged(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json is"):
        read_preprocessing(tmp_path, image_size=100, processor="model")
