"""What the simulated brain sees in an image: local colour and local oriented contrast.

Roughly what early visual cortex is known for, and nothing of any network: an encoder can only be
decoded from these responses because it looks at the same pictures.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_FIELDS: Final = 3
"""The visual field is cut into 3 x 3 for colour, and into 2 x 2 for contrast."""
_POOL: Final = 5
_SIZE: Final = 84
"""Side of the picture that features are computed from, after averaging 5 x 5 pixels."""
_ORIENTATIONS: Final = np.deg2rad([0, 45, 90, 135])
_SCALES: Final = (1, 3)

HEMIFIELD: Final[NDArray[np.int64]] = np.concatenate(
    [
        np.tile([-1, 0, 1], 3 * _FIELDS),
        np.tile([-1, 1], 2 * len(_ORIENTATIONS) * len(_SCALES)),
    ]
)
"""Side of the visual field each feature is from: -1 left, 0 middle, 1 right. Shape (59,)."""


def image_features(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of one image.

    Parameters
    ----------
    image
        (425, 425, 3) uint8.

    Returns
    -------
    numpy.ndarray
        (59,) float32: luminance, red-green and blue-yellow in 9 places, then contrast in 4
        orientations and 4 places at two scales.
    """
    side = _SIZE * _POOL
    small = image[:side, :side].reshape(_SIZE, _POOL, _SIZE, _POOL, 3).mean((1, 3), np.float32)
    red, green, blue = np.moveaxis(small / np.float32(255), -1, 0)
    luminance = (red + green + blue) / 3
    colours = (luminance, red - green, blue - (red + green) / 2)
    features = [_places(channel, _FIELDS) for channel in colours]
    for scale in _SCALES:
        cells = _SIZE // scale
        coarse = luminance.reshape(cells, scale, cells, scale).mean((1, 3))
        down, right = np.gradient(coarse)
        for angle in _ORIENTATIONS:
            edges = np.abs(np.float32(np.cos(angle)) * right + np.float32(np.sin(angle)) * down)
            features.append(_places(edges, 2))
    return np.concatenate(features)


def standardise(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features (images, features) with mean 0 and standard deviation 1 over images."""
    deviation = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return np.asarray(scaled, dtype=np.float32)


def _places(channel: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Mean of a square picture over n x n places, row by row."""
    step = len(channel) // n
    return np.asarray(channel.reshape(n, step, n, step).mean((1, 3)).ravel())
