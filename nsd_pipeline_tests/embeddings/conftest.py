import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent.parent / "golden"
TINY_DINOV2 = GOLDEN / "tiny_dinov2"
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "image_size": 48,
    "patch_size": 16,
}


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 60, 60, 3), dtype=np.uint8)


def save(folder: Path, model: Any) -> Path:
    """Save a model as a user would, with a processor that resizes to 48 x 48."""
    model.save_pretrained(folder)
    processor = {
        "do_resize": True,
        "size": {"height": 48, "width": 48},
        "resample": 2,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(1)
    return save(tmp_path_factory.mktemp("vit"), ViTModel(ViTConfig(**SIZES)))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both halves, image and text, as CLIP checkpoints are published."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(2)
    text = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
    config = CLIPConfig(text_config=text | {"intermediate_size": 16}, vision_config=SIZES)
    return save(tmp_path_factory.mktemp("clip"), CLIPModel(config))


@pytest.fixture(scope="session")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps maps of features, (N, D, height, width), and no tokens."""
    import torch
    from transformers import ConvNextConfig, ConvNextModel

    torch.manual_seed(4)
    config = ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2)
    return save(tmp_path_factory.mktemp("convnext"), ConvNextModel(config))


@pytest.fixture(scope="session")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds positions for each block in one weight, whose shape follows the number of blocks."""
    import torch
    from transformers import YolosConfig, YolosModel

    torch.manual_seed(5)
    sizes = SIZES | {"image_size": [48, 48], "num_detection_tokens": 2}
    config = YolosConfig(**sizes, use_mid_position_embeddings=True)
    return save(tmp_path_factory.mktemp("yolos"), YolosModel(config))


@pytest.fixture(scope="session")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages of growing width: there is no single list of blocks to cut."""
    import torch
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(3)
    config = SwinConfig(
        image_size=48, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3
    )
    return save(tmp_path_factory.mktemp("swin"), SwinModel(config))
