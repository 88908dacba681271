"""PIL's bilinear resize of 8-bit photos, integer for integer, on whatever device they are.

PIL computes each output pixel as a sum of input pixels times weights in fixed point with 22 bits,
rounds it to 8 bits, and does so along the rows first and along the columns then (Pillow, C code of
``Image.resize``: ``precompute_coeffs`` and ``normalize_coeffs_8bpc``). Integers leave nothing to
chance, so a GPU gets the same bits, and photos need not wait for the cores of its host.
"""

import math
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

_BITS: Final = 22
_HALF: Final = 1 << (_BITS - 1)


def resize_square(photos: Tensor, size: int) -> Tensor:
    """Resize square photos (N, H, H, C) uint8 to (N, ``size``, ``size``, C) uint8.

    Of others, Pillow 13 resizes the columns first where that is less work.
    """
    assert photos.shape[1] == photos.shape[2]  # noqa: S101  # whoever calls it looks
    return _resample(_resample(photos, 2, size), 1, size)


def _resample(pixels: Tensor, axis: int, size: int) -> Tensor:
    """Resize along one axis."""
    along = [-1 if each == axis else 1 for each in range(pixels.ndim)]
    total: Tensor | None = None
    for places, weights in _taps(pixels.shape[axis], size, pixels.device):
        part = pixels.index_select(axis, places) * weights.view(along)
        total = part.add_(_HALF) if total is None else total.add_(part)
    assert total is not None  # noqa: S101  # weights of a pixel add up to 1
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=4)
def _taps(n: int, size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Input pixels (size,) that are added up for the output pixels, and their weights (size,)."""
    scale = n / size
    reach = max(scale, 1.0)
    n_taps = 2 * math.ceil(reach) + 1
    places = torch.zeros((n_taps, size), dtype=torch.int64)
    weights = torch.zeros((n_taps, size), dtype=torch.int32)
    for out in range(size):
        centre = (out + 0.5) * scale
        start = max(int(centre - reach + 0.5), 0)
        stop = min(int(centre + reach + 0.5), n)
        shares = [max(1 - abs((i - centre + 0.5) / reach), 0.0) for i in range(start, stop)]
        for tap, share in enumerate(shares):
            places[tap, out] = start + tap
            weights[tap, out] = int(0.5 + share / sum(shares) * (1 << _BITS))
    taps = zip(places.to(device), weights.to(device), strict=True)
    return [(place, weight) for place, weight in taps if weight.any()]
