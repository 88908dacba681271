"""Models that run, give finite numbers, and are not what an encoder takes them for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from nsd_pipeline.embeddings import ImageEncoder, ModelError
from nsd_pipeline.embeddings.backbone import Backbone, load_backbone
from nsd_pipeline.embeddings.backbone_check import check_backbone
from nsd_pipeline_tests.embeddings.conftest import SIZES, TINY_DINOV2, save

SAM = {
    **SIZES, "output_channels": 16, "global_attn_indexes": [1], "window_size": 2, "mlp_dim": 48,
}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50,
        "intermediate_size": 16}  # fmt: skip


def naflex() -> Any:
    vision = {**{name: size for name, size in SIZES.items() if name != "image_size"},
              "num_patches": 9}  # fmt: skip
    config = transformers.Siglip2Config(text_config=TEXT, vision_config=vision)
    return transformers.Siglip2Model(config)


def segformer() -> Any:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 2]
    )
    return transformers.SegformerModel(config)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            # Of 144 patches, so that the same are not hidden twice by chance.
            lambda: transformers.ViTMAEModel(
                transformers.ViTMAEConfig(**{**SIZES, "patch_size": 4})
            ),
            r"\(vit_mae\) is random",
        ),
        (
            lambda: transformers.SamVisionModel(transformers.SamVisionConfig(**SAM)),
            r"shape \(1, 3, 3, 32\): it keeps its features on axis 3, where axis 1",
        ),
        (
            # The patches of all photos of a batch in one sequence.
            lambda: transformers.PixtralVisionModel(
                transformers.PixtralVisionConfig(**SIZES, head_dim=16)
            ),
            r"shape \(1, 9, 32\) for one photo, which is not that .* on two \(\(1, 18, 32\)\)",
        ),
        (naflex, "takes more than the pixels .* pixel_attention_mask, spatial_shapes"),
        (segformer, "4 blocks and gives 4 hidden states"),
    ],
)
def test_is_refused_with_the_reason(make: Callable[[], Any], says: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", make())
    with pytest.raises(ModelError, match=says + r"(.|\n)*\nNext step: name a"):
        ImageEncoder(folder, image_size=60, device="cpu")


def test_a_model_of_one_size_takes_no_other(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "model", transformers.SamVisionModel(transformers.SamVisionConfig(**SAM))
    )
    with pytest.raises(ModelError, match=r"run on a photo of 64 x 64 pixels: .*\n.*`image_size`"):
        ImageEncoder(folder, image_size=64, processor="normalize", device="cpu")


@pytest.mark.parametrize("architecture", ["swin", "convnext"])
def test_a_patch_is_not_taken_for_a_class_token(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(ModelError, match="has no class token"):
        ImageEncoder(request.getfixturevalue(architecture), 0.5, "cls", 60)


def test_a_model_that_takes_one_size_only_is_checked_all_the_same(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    """Its axes cannot be told from another size of photo, and its width grows with the depth."""
    torch.manual_seed(6)
    config = transformers.HieraConfig(
        image_size=[32, 32], embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 4], num_query_pool=1
    )
    folder = save(tmp_path / "model", transformers.HieraModel(config))
    encoder = ImageEncoder(folder, 0.7, image_size=32, processor="normalize")
    assert encoder.encode(images).shape == (5, 16)
    assert encoder._backbone.shapes.grown is not None


def test_statistics_of_batch_norm_must_be_there(tmp_path: Path) -> None:
    """transformers takes 0 and 1 for what a file does not hold."""
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    folder = save(tmp_path / "model", transformers.ResNetModel(config))
    ImageEncoder(folder, 1.0, image_size=60)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.endswith("running_var")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"not finite.*running_var"):
        ImageEncoder(folder, 1.0, image_size=60)


@pytest.fixture
def tiny() -> Backbone:
    return load_backbone(
        TINY_DINOV2,
        layers=0.5,
        dtype=torch.float32,
        device=torch.device("cpu"),
        input_size=(28, 28),
    )


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (lambda state: state + 1e-6 * torch.rand(()), "is random"),
        (lambda state: state[..., :24], r"shape \(1, 5, 24\)"),
        (lambda state: state.mT, r"shape \(1, 48, 5\)"),
        (lambda state: state[:, 0], r"shape \(1, 48\)"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_states_that_are_not_the_models_own(
    forge: Callable[[torch.Tensor], torch.Tensor], says: str, *, known: bool, tiny: Backbone
) -> None:
    """With and without known shapes, which a model may not have: then its configuration decides."""
    width = tiny.shapes.hidden_size
    shapes = tiny.shapes if known else dataclasses.replace(tiny.shapes, shapes=None, grown=None)
    whole = dataclasses.replace(tiny, shapes=shapes)

    class Forged(Backbone):
        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            return forge(super().__call__(pixels))

    fields = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    pixels = torch.rand(1, 3, 28, 28)
    with torch.inference_mode():
        state = check_backbone(TINY_DINOV2, whole, pixels, class_token=True)
        assert state.shape == (1, 5, width)
        with pytest.raises(ModelError, match=says):
            check_backbone(TINY_DINOV2, Forged(**fields), pixels, class_token=False)


def test_a_state_of_another_width_than_the_configuration_says(tiny: Backbone) -> None:
    shapes = dataclasses.replace(tiny.shapes, hidden_size=64)
    other = dataclasses.replace(tiny, shapes=shapes)
    with torch.inference_mode(), pytest.raises(ModelError, match=r"48 wide, .* says 64"):
        check_backbone(TINY_DINOV2, other, torch.rand(1, 3, 28, 28), class_token=False)
