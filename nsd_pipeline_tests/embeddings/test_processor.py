"""Processors as they are saved: followed to the letter, or refused by the name of the field."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from nsd_pipeline.embeddings import ImageEncoder, ModelError, encoder_identity
from nsd_pipeline.embeddings.preprocessing import Preprocessing, read_preprocessing
from nsd_pipeline_tests.embeddings.conftest import TINY_DINOV2

NORMALISATION = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
FLAT, NESTED = "preprocessor_config.json", "processor_config.json"


def read(folder: Path, processor: str = "model", **config: Any) -> Preprocessing:
    (folder / FLAT).write_text(json.dumps(NORMALISATION | {"resample": 3} | config))
    return read_preprocessing(folder, image_size=100, processor=processor)


@pytest.mark.parametrize(
    ("config", "resize", "crop", "network_size"),
    [
        ({"size": {"height": 40, "width": 30}}, (40, 30), None, (40, 30)),
        ({"size": {"shortest_edge": 40}}, (40, 40), None, (40, 40)),
        ({"size": {"shortest_edge": 40, "longest_edge": 80}}, (40, 40), None, (40, 40)),
        (
            {"size": 40, "do_center_crop": True, "crop_size": {"height": 30, "width": 20}},
            (40, 40),
            (30, 20),
            (30, 20),
        ),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 50}, None, (50, 50), (50, 50)),
        ({"do_resize": False, "do_center_crop": None}, None, None, (100, 100)),
    ],
)
def test_sizes(
    config: dict, resize: tuple | None, crop: tuple | None, network_size: tuple, tmp_path: Path
) -> None:
    steps = read(tmp_path, **config)
    assert (steps.resize, steps.crop, steps.network_size) == (resize, crop, network_size)


def test_normalize_skips_all_but_the_normalisation(tmp_path: Path) -> None:
    steps = read(tmp_path, "normalize", size=40, do_pad=True, image_processor_type="MyProcessor")
    assert steps.network_size == (100, 100)
    assert (steps.mean, steps.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def test_one_number_is_that_of_every_colour(tmp_path: Path) -> None:
    steps = read(tmp_path, size=40, image_mean=0.5, image_std=0.25)
    assert (steps.mean, steps.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    "name", ["Beit", "Bit", "CLIP", "DeiT", "MobileNetV1", "Pvt", "Segformer", "Siglip", "ViT"]
)
def test_what_transformers_saves_is_followed(name: str, tmp_path: Path) -> None:
    processor = getattr(transformers, f"{name}ImageProcessorPil")()
    processor.save_pretrained(tmp_path)
    steps = read_preprocessing(tmp_path, image_size=518, processor="model")
    sizes = {"size": steps.resize, "crop_size": steps.crop if processor.do_center_crop else None}
    for field, found in sizes.items():
        said = found and set(dict(getattr(processor, field)).values()) - {None}
        assert found is None or set(found) == said
    assert steps.interpolation == {2: "bilinear", 3: "bicubic"}[processor.resample]
    assert (steps.crop is not None) == bool(processor.do_center_crop)
    np.testing.assert_allclose([steps.mean, steps.std], [processor.image_mean, processor.image_std])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Levit", "LevitImageProcessor may do more to a photo than its fields say"),
        ("ConvNext", "crop_pct is not known"),
        ("MobileViT", "do_flip_channel_order is not known"),
        ("EfficientNet", "include_top is not known"),
        ("Chameleon", r"rescale_factor is 0\.0078"),
        ("Vilt", "do_pad, size_divisor is not known"),
    ],
)
def test_what_transformers_does_otherwise_is_refused(name: str, says: str, tmp_path: Path) -> None:
    getattr(transformers, f"{name}ImageProcessorPil")().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=says):
        read_preprocessing(tmp_path, image_size=518, processor="model")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"do_pad": True}, "do_pad is"),
        ({"crop_pct": 0.9}, "crop_pct is"),
        ({"something_new": "on"}, "something_new is"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"do_rescale": False}, "do_rescale is off"),
        ({"do_resize": None}, "do_resize is null"),
        ({"do_resize": "no"}, "do_resize is 'no'"),
        ({"resample": 1}, "resample is 1"),
        ({"resample": None}, "resample is None"),
        ({"size": {"longest_edge": 40}}, "the size"),
        ({"size": {"shortest_edge": 40, "longest_edge": 20}}, "contradicts itself"),
        ({"size": float("inf")}, "inf is not a number"),
        ({"size": 10**400}, "too large"),
        ({"size": -40}, "a size of -40"),
        ({"do_center_crop": True, "crop_size": 50}, "larger than the image"),
        ({"crop_size": 30}, "do_center_crop is missing"),
        ({"image_processor_type": "CLIPImageProcessorFast"}, "do_center_crop is missing"),
        ({"feature_extractor_type": "MyFeatureExtractor"}, "MyFeatureExtractor may do more"),
        ({"data_format": "channels_last"}, "data_format is"),
        ({"image_mean": None}, "None is not a number"),
        ({"image_std": [0.5]}, "red, green and blue"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std is"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "nan is not a number"),
    ],
)
def test_steps_that_are_not_known_are_not_guessed(config: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{FLAT} cannot be followed: .*{says}"):
        read(tmp_path, **({"size": 40} | config))


@pytest.mark.parametrize("config", [{"do_rescale": False}, {"do_flip_channel_order": True}])
def test_colours_matter_to_the_normalisation_alone_too(config: dict, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=next(iter(config))):
        read(tmp_path, "normalize", **config)


@pytest.mark.parametrize("content", [None, "{", "[]", "[" * 100_000, b"\xff"])
def test_the_file_is_missing_or_damaged(content: str | bytes | None, tmp_path: Path) -> None:
    if content is not None:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / FLAT).write_bytes(data)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json is"):
        read_preprocessing(tmp_path, image_size=100, processor="model")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    for name in ("config.json", FLAT):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    settings = ImageEncoder(folder).settings
    assert settings["network_size"] == [224, 224]


def nest(folder: Path, **changes: Any) -> None:
    inner = json.loads((TINY_DINOV2 / FLAT).read_text()) | changes
    outer = {"processor_class": "CLIPProcessor", "image_processor": inner}
    (folder / NESTED).write_text(json.dumps(outer))


def test_a_processor_that_is_only_nested(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    (folder / FLAT).unlink()
    nest(folder)
    images = np.random.default_rng(0).integers(0, 256, (2, 50, 50, 3), dtype=np.uint8)
    encoder, plain = ImageEncoder(folder), ImageEncoder(TINY_DINOV2)
    np.testing.assert_array_equal(encoder.encode(images), plain.encode(images))
    before = encoder_identity(folder)
    nest(folder, resample=2)
    assert encoder_identity(folder) != before
    (folder / NESTED).write_text('{"image_processor": 1}')
    with pytest.raises(ModelError, match=r"image_processor in .* is not a JSON object"):
        ImageEncoder(folder)


def test_two_processors_must_say_the_same(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    nest(folder)
    assert encoder_identity(folder) == encoder_identity(TINY_DINOV2)
    assert ImageEncoder(folder).settings["network_size"] == [224, 224]
    nest(folder, resample=2)
    with pytest.raises(ModelError, match="ask for different steps"):
        ImageEncoder(folder)
    # Older files of this name are about text alone.
    (folder / NESTED).write_text('{"processor_class": "CLIPProcessor"}')
    assert ImageEncoder(folder).settings["network_size"] == [224, 224]
