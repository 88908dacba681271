"""A tiny DINOv2 for the demo: random weights, but an embedding that tells pictures apart.

An untrained network sees mostly how bright a picture is. Three things make this one's mean token
richer, so that retrieval has something to find: smooth patch filters that mind contrast more than
brightness, strong smooth position embeddings (so that it matters where something is), and an
output that is centred on pictures like those of the demo.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nsd_pipeline.demo.pictures import render

if TYPE_CHECKING:
    import torch

EMBEDDING_SIZE: Final = 64
N_BLOCKS: Final = 3
_CENTRED_BLOCK: Final = 1
"""Index of the last block that leads up to the reference's hidden state, int(0.6667 * 3) = 2."""
_FILTER_SCALE: Final = 0.02
_BRIGHTNESS: Final = 0.3
"""What remains of a filter's mean."""
_POSITION_SCALE: Final = 2.0
_WEIGHT_SCALE: Final = 0.12
_GRID: Final = 4
_SEED: Final = 2
"""Of a few seeds, one whose embedding is spread over more than one dimension."""
_N_CENTRING_IMAGES: Final = 32
_CENTRING_SEED: Final = 1_000_000
_CHANNEL_MEAN: Final = (0.485, 0.456, 0.406)
_CHANNEL_DEVIATION: Final = (0.229, 0.224, 0.225)
_PREPROCESSING: Final = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": _CHANNEL_MEAN,
    "image_std": _CHANNEL_DEVIATION,
}
"""What facebook/dinov2-giant does to an image."""


def write_tiny_encoder(folder: str | Path) -> Path:
    """Write a small random DINOv2 as transformers saves models; the folder is the model's name.

    The weights are the same on every call. They follow the giant's architecture (SwiGLU, 14 pixel
    patches, trained at 518 pixels) with 3 blocks of 64 dimensions.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model

    folder = Path(folder)
    config = Dinov2Config(
        hidden_size=EMBEDDING_SIZE,
        num_hidden_layers=N_BLOCKS,
        num_attention_heads=4,
        use_swiglu_ffn=True,
        image_size=518,
        patch_size=14,
        initializer_range=_WEIGHT_SCALE,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SEED)
        model = Dinov2Model(config).eval()
        _enrich(model)
        _centre(model, _network_inputs())
    model.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(_PREPROCESSING, indent=2) + "\n")
    return folder


def _enrich(model: Any) -> None:
    """Give patches smooth filters and tokens smooth position embeddings."""
    import torch

    filters = model.embeddings.patch_embeddings.projection.weight
    smooth = _smooth(torch.randn(*filters.shape[:2], _GRID, _GRID), filters.shape[-1])
    mean = smooth.mean((2, 3), keepdim=True)
    filters.copy_(_FILTER_SCALE * (smooth - (1 - _BRIGHTNESS) * mean))
    positions = model.embeddings.position_embeddings
    side = round((positions.shape[1] - 1) ** 0.5)
    fields = _smooth(torch.randn(1, EMBEDDING_SIZE, _GRID, _GRID), side)
    positions[:, 1:] = _POSITION_SCALE * fields.flatten(2).transpose(1, 2)


def _smooth(coarse: "torch.Tensor", size: int) -> "torch.Tensor":
    from torch.nn.functional import interpolate

    return interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)


def _network_inputs() -> "torch.Tensor":
    """Pictures to centre the embedding on, about as the network gets to see them."""
    import torch
    from torch.nn.functional import interpolate

    images = np.stack([render(index, seed=_CENTRING_SEED) for index in range(_N_CENTRING_IMAGES)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    pixels = interpolate(pixels, size=(256, 256), mode="bicubic", antialias=True)
    mean = torch.tensor(_CHANNEL_MEAN).view(3, 1, 1)
    deviation = torch.tensor(_CHANNEL_DEVIATION).view(3, 1, 1)
    return (pixels[..., 16:240, 16:240] - mean) / deviation


def _centre(model: Any, pixels: "torch.Tensor") -> None:
    """Take the mean over pictures out of the block's output, by the bias of its last layer."""
    states = model(pixels, output_hidden_states=True).hidden_states
    mean = states[_CENTRED_BLOCK + 1].mean((0, 1))
    block = model.encoder.layer[_CENTRED_BLOCK]
    # The last layer's name differs between versions of transformers; its place does not.
    bias = [values for name, values in block.mlp.named_parameters() if name.endswith("bias")][-1]
    # Rounded, so that the weights are the same bytes whatever the number of threads.
    bias.copy_((bias - mean / block.layer_scale2.lambda1).mul(1e3).round().div(1e3))
