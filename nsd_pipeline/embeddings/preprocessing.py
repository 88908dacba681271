"""From 8-bit photos to the numbers an image model sees.

The reference resizes every photo to ``image_size`` first (bilinear, 8 bit) and then lets the
model's own processor have it, which for DINOv2 resizes again to 256 (bicubic, antialiased, on
floats), crops the centre 224 and normalises. The steps are carried out here with PIL and torch,
because the processors of transformers need torchvision; ``processor`` reads their settings.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Preprocessing:
    """Steps from photos to network input, in the order of the fields.

    Parameters
    ----------
    photo_size
        Height and width that every photo is resized to first, 8 bit, bilinear.
    resize
        Height and width to resize to on floats in 0..1, antialiased; ``None`` for not at all.
    interpolation
        How that resize interpolates.
    crop
        Height and width of the centre that is kept; ``None`` for everything.
    mean, std
        Subtracted from and divided by, one number for each of red, green and blue, in 0..1.
    """

    photo_size: int
    resize: tuple[int, int] | None
    interpolation: str
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        return self.crop or self.resize or (self.photo_size, self.photo_size)

    def resize_photos(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize photos to ``photo_size``, in 8 bit, as PIL does.

        Parameters
        ----------
        images
            (N, H, W, 3) uint8, RGB.

        Returns
        -------
        NDArray[np.uint8]
            (N, ``photo_size``, ``photo_size``, 3). Photos that are not square are stretched.
        """
        from PIL import Image

        shape = images.shape
        if len(shape) != 4 or shape[0] == 0 or shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be (N > 0, H, W, 3) uint8, not {shape} {images.dtype}.")
        size = self.photo_size
        resized = np.empty((len(images), size, size, 3), dtype=np.uint8)

        def resize(number: int) -> None:
            photo = Image.fromarray(images[number])
            resized[number] = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))

        # One thread makes 250 photos a second, which a GPU would wait for; PIL lets others run.
        with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
            list(pool.map(resize, range(len(images))))
        return resized

    def to_network(self, photos: "torch.Tensor") -> "torch.Tensor":
        """Turn resized photos into the network's input, on the device they are on.

        Parameters
        ----------
        photos
            (N, ``photo_size``, ``photo_size``, 3) uint8, from `resize_photos`.

        Returns
        -------
        torch.Tensor
            (N, 3, ``*network_size``) float32.
        """
        import torch

        pixels = photos.permute(0, 3, 1, 2).to(torch.float32) / 255
        if self.resize is not None:
            pixels = torch.nn.functional.interpolate(
                pixels,
                size=self.resize,
                mode=self.interpolation,
                antialias=True,
                align_corners=False,
            )
        if self.crop is not None:
            height, width = self.crop
            top = (pixels.shape[-2] - height) // 2
            left = (pixels.shape[-1] - width) // 2
            pixels = pixels[..., top : top + height, left : left + width]
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels - mean) / std
