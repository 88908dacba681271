import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nsd_pipeline.embeddings import ImageEncoder, ModelError, encoder_identity
from nsd_pipeline.embeddings.backbone import _vision_model
from nsd_pipeline_tests.embeddings.conftest import GOLDEN, TINY_DINOV2


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray]:
    with np.load(GOLDEN / "image_embeddings.npz") as file:
        return dict(file)


def n_parameters(encoder: ImageEncoder) -> int:
    return sum(weight.numel() for weight in encoder._backbone.model.parameters())


def whole_hidden_states(folder: Path, encoder: ImageEncoder, images: NDArray) -> list:
    """All hidden states of the uncut model, for the input that the encoder prepares."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    model = getattr(model, "vision_model", model)
    pixels = encoder._preprocessing.to_network(torch.from_numpy(encoder.prepare(images)))
    with torch.inference_mode():
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    return [state.numpy() for state in states]


def test_reproduces_the_reference(golden: dict[str, NDArray]) -> None:
    encoder = ImageEncoder(TINY_DINOV2)
    embeddings = encoder.encode(golden["images"])
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, golden["embeddings"], rtol=0, atol=1e-6)
    assert encoder.settings["hidden_state"] == golden["layer_index"]
    assert "torchvision" not in sys.modules


def test_batch_size_does_not_change_the_result(golden: dict[str, NDArray]) -> None:
    encoder = ImageEncoder(TINY_DINOV2)
    one_by_one = encoder.encode(golden["images"], batch_size=1)
    np.testing.assert_allclose(
        encoder.encode(golden["images"], batch_size=4), one_by_one, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("layers", "hidden_state"), [(1 / 6 + 1e-9, 1), (0.6667, 4), (0.9999, 5), (1.0, 6)]
)
def test_layers_choose_the_hidden_state_of_the_whole_model(
    layers: float, hidden_state: int, golden: dict[str, NDArray]
) -> None:
    images = golden["images"][:2]
    encoder = ImageEncoder(TINY_DINOV2, layers=layers)
    assert encoder.settings["hidden_state"] == hidden_state
    expected = whole_hidden_states(TINY_DINOV2, encoder, images)[hidden_state].mean(axis=1)
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=0, atol=1e-5)


def test_blocks_beyond_the_hidden_state_are_not_loaded() -> None:
    whole, cut = (n_parameters(ImageEncoder(TINY_DINOV2, layers=x)) for x in (1.0, 0.5))
    embedding = n_parameters(ImageEncoder(TINY_DINOV2, layers=1 / 6 + 1e-9)) - (whole - cut) // 3
    assert cut - embedding == (whole - embedding) // 2


@pytest.mark.parametrize(("layers", "hidden_state"), [(0.7, 3), (0.2, 1)])
@pytest.mark.parametrize("architecture", ["vit", "clip"])
def test_other_architectures_are_cut_alike(
    architecture: str,
    layers: float,
    hidden_state: int,
    images: NDArray[np.uint8],
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(architecture)
    encoder = ImageEncoder(folder, layers, "cls", 60)
    expected = whole_hidden_states(folder, encoder, images)[hidden_state][:, 0]
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=0, atol=1e-5)
    assert encoder.settings["n_blocks"] == 5
    assert n_parameters(encoder) < 0.9 * n_parameters(ImageEncoder(folder, 1.0, image_size=60))


@pytest.mark.parametrize(
    ("architecture", "n_blocks", "axes"), [("swin", 2, 1), ("convnext", 2, (2, 3)), ("yolos", 5, 1)]
)
def test_models_that_are_built_otherwise(
    architecture: str,
    n_blocks: int,
    axes: int | tuple[int, int],
    images: NDArray[np.uint8],
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(architecture)
    encoder = ImageEncoder(folder, layers=0.5, image_size=60)
    hidden_state = n_blocks // 2
    expected = whole_hidden_states(folder, encoder, images)[hidden_state].mean(axis=axes)
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=0, atol=1e-5)
    assert encoder.settings["hidden_state"] == hidden_state
    assert encoder.settings["n_blocks"] == n_blocks


@pytest.mark.parametrize("architecture", ["vit", "clip"])
def test_normalize_feeds_the_image_size_itself(
    architecture: str, images: NDArray[np.uint8], request: pytest.FixtureRequest
) -> None:
    import torch
    from transformers import AutoModel

    folder = request.getfixturevalue(architecture)
    encoder = ImageEncoder(folder, 0.6, image_size=64, processor="normalize")
    assert encoder.settings["network_size"] == [64, 64]
    model = AutoModel.from_pretrained(folder).eval()
    pixels = torch.from_numpy(encoder.prepare(images)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        states = getattr(model, "vision_model", model)(
            pixel_values=pixels, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
    assert states[3].shape[1] == 1 + (64 // 16) ** 2
    np.testing.assert_allclose(encoder.encode(images), states[3].mean(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["vit", "clip", "swin", "convnext"])
def test_bfloat16_runs_every_architecture(
    architecture: str, images: NDArray[np.uint8], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(architecture)
    exact = ImageEncoder(folder, 0.6, image_size=60).encode(images)
    rounded = ImageEncoder(folder, 0.6, image_size=60, dtype="bfloat16").encode(images)
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def test_bfloat16_is_close_and_pooled_in_float32(golden: dict[str, NDArray]) -> None:
    embeddings = ImageEncoder(TINY_DINOV2, dtype="bfloat16").encode(golden["images"])
    assert embeddings.dtype == np.float32
    error = np.abs(embeddings - golden["embeddings"]).max()
    assert 0 < error < 0.02 * np.abs(golden["embeddings"]).max()


@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_convolutions_run_in_full_precision_and_the_setting_is_put_back(
    before: str, vit: Path, images: NDArray[np.uint8]
) -> None:
    import torch

    encoder = ImageEncoder(vit)
    convolution = torch.backends.cudnn.conv
    at_first, during = convolution.fp32_precision, []
    convolution.fp32_precision = before
    try:
        encoder._backbone.model.embeddings.register_forward_hook(
            lambda *_: during.append(convolution.fp32_precision)
        )
        encoder.encode(images)
        assert (during, convolution.fp32_precision) == (["ieee"], before)
    finally:
        convolution.fp32_precision = at_first


def test_says_nothing_about_what_it_leaves_out(capfd: pytest.CaptureFixture[str]) -> None:
    ImageEncoder(TINY_DINOV2)
    assert capfd.readouterr() == ("", "")


def test_settings_hold_the_identity_and_are_json(vit: Path) -> None:
    encoder = ImageEncoder(vit, 0.6, "cls", 60, processor="normalize", dtype="bfloat16")
    identity = encoder_identity(vit, 0.6, "cls", 60, processor="normalize", dtype="bfloat16")
    assert encoder.settings == json.loads(json.dumps(encoder.settings))
    assert identity.items() <= encoder.settings.items()


def test_every_setting_changes_the_identity_and_moving_does_not(tmp_path: Path) -> None:
    moved = shutil.copytree(TINY_DINOV2, tmp_path / "moved")
    plain = encoder_identity(TINY_DINOV2)
    assert encoder_identity(moved) == plain
    others = [
        encoder_identity(TINY_DINOV2, **{name: value})
        for name, value in {
            "layers": 0.5,
            "token_aggregation": "cls",
            "image_size": 224,
            "processor": "normalize",
            "dtype": "bfloat16",
        }.items()
    ]
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        changed = shutil.copytree(TINY_DINOV2, tmp_path / name)
        (changed / name).write_bytes((changed / name).read_bytes() + b" ")
        others.append(encoder_identity(changed))
    assert len({json.dumps(identity) for identity in [plain, *others]}) == 9


@pytest.mark.parametrize("layers", [0, -0.5, 1.01, 0.1])
def test_layers_out_of_range(layers: float) -> None:
    with pytest.raises(ModelError, match=r"layers=.*\nNext step: choose layers"):
        ImageEncoder(TINY_DINOV2, layers=layers)


@pytest.mark.parametrize(
    ("name", "value"),
    [("token_aggregation", "max"), ("processor", "none"), ("dtype", "float16"), ("image_size", 0)],
)
def test_values_that_do_not_exist(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        encoder_identity(TINY_DINOV2, **{name: value})


@pytest.mark.parametrize("shape", [(2, 3, 60, 60), (60, 60, 3), (0, 60, 60, 3)])
def test_images_of_another_shape(shape: tuple[int, ...], vit: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        ImageEncoder(vit).encode(np.zeros(shape, dtype=np.uint8))


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    shutil.copy(TINY_DINOV2 / "preprocessor_config.json", tmp_path)
    with pytest.raises(ModelError, match="not a model of images"):
        ImageEncoder(tmp_path)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "of_my_own",
        "auto_map": {"AutoModel": "code.MyModel", "AutoConfig": "code.MyConfig"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json describes no model"):
        ImageEncoder(folder)


@pytest.mark.parametrize(
    ("n_blocks", "says"), [(10**6, "more than 100 modules"), (2**31, "too large for any model")]
)
def test_a_configuration_that_asks_for_more_than_any_model_has_is_refused(
    n_blocks: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bound, building 2**31 blocks takes all memory, however small the weights are."""
    monkeypatch.setattr("nsd_pipeline.embeddings.model_shapes.MOST_MODULES", 100)
    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": n_blocks}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=says):
        ImageEncoder(folder)


def test_large_numbers_of_a_models_text_half_are_its_own_affair(tmp_path: Path) -> None:
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    vision |= {"intermediate_size": 8, "projection_dim": 8}
    text = {"max_position_embeddings": 10**7}
    config = {"model_type": "clip", "vision_config": vision, "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found, _ = _vision_model(tmp_path)
    assert found.hidden_size == 8


def test_a_truncated_weight_file_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        ImageEncoder(folder)


@pytest.mark.parametrize(
    ("lacking", "harmless"), [("encoder.layer.3.norm1", False), ("layernorm", True)]
)
def test_weights_that_are_needed_must_be_there(
    lacking: str, *, harmless: bool, tmp_path: Path, golden: dict[str, NDArray]
) -> None:
    """transformers fills in random numbers and says so in a warning only."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(TINY_DINOV2, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith(lacking)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    if harmless:
        encoder = ImageEncoder(folder)
        np.testing.assert_allclose(
            encoder.encode(golden["images"]), golden["embeddings"], rtol=0, atol=1e-6
        )
    else:
        with pytest.raises(ModelError, match=lacking):
            ImageEncoder(folder)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_auto_is_bfloat16_where_it_is_native_and_says_so(
    capabilities: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    encoder = ImageEncoder(TINY_DINOV2, dtype="auto", device="cpu")
    assert encoder.settings["dtype"] == dtype
    assert encoder_identity(TINY_DINOV2, dtype="auto", device="cpu")["dtype"] == dtype
