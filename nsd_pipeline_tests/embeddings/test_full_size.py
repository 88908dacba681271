"""The encoder at the shape of DINOv2-giant, in a process that cannot have more than its ceiling."""

import json
from pathlib import Path
from typing import Final

import pytest

from nsd_pipeline_tests.memory import run_within

CEILING: Final = 1e9
"""Of everything but the weights, for two images at a time."""

ENCODE = """
import json, sys
import numpy as np
from nsd_pipeline.embeddings import ImageEncoder, embed_images
from nsd_pipeline_tests.memory import peak_bytes
encoder = ImageEncoder(sys.argv[1], device="cpu")
photos = np.random.default_rng(0).integers(0, 256, (2, 425, 425, 3), dtype=np.uint8)
found = embed_images(encoder, lambda ids: photos[ids], np.arange(2), batch_size=2, progress=False)
print(json.dumps({
    "hidden_state": encoder.settings["hidden_state"],
    "n_outputs": found.shape[1],
    "peak_bytes": peak_bytes(),
}))
"""


@pytest.fixture
def giant(tmp_path: Path) -> Path:
    """A checkpoint of giant's shape whose weights are zeros: a hole in a file, 4.5 GB long."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=1536,
        num_hidden_layers=40,
        num_attention_heads=24,
        use_swiglu_ffn=True,
        image_size=518,
        patch_size=14,
    )
    config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_resize": True,
                "size": {"shortest_edge": 256},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": 112, "width": 112},  # a quarter of the work
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            }
        )
    )
    with torch.device("meta"):
        weights = Dinov2Model(config).state_dict()
    header, end = {}, 0
    for name, weight in weights.items():
        begin, end = end, end + 4 * weight.numel()
        header[name] = {"dtype": "F32", "shape": weight.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return tmp_path


def test_blocks_that_are_not_needed_take_no_memory(giant: Path) -> None:
    file_bytes = (giant / "model.safetensors").stat().st_size
    assert file_bytes > 4.5e9
    weight_bytes = 26 / 40 * file_bytes
    # The file is mapped, which counts as allocated, whether or not it is read.
    measured = run_within(file_bytes + CEILING, ENCODE, giant)
    assert measured["hidden_state"] == 26
    assert measured["n_outputs"] == 1536
    assert measured["peak_bytes"] < weight_bytes + CEILING
