"""From 8-bit photos to the numbers an image model sees.

The reference resizes every photo to ``image_size`` first (bilinear, 8 bit) and then lets the
model's own processor have it, which for DINOv2 resizes again to 256 (bicubic, antialiased, on
floats), crops the centre 224 and normalises. The processor's settings are read from the model's
``preprocessor_config.json`` and carried out here with PIL and torch, because the processors of
transformers need torchvision.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.embeddings.model_files import PROCESSOR, ModelError, read_json

if TYPE_CHECKING:
    import torch

Processor = Literal["model", "normalize"]

_INTERPOLATION: Final = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers for the resampling filters that torch has too."""
_UNDERSTOOD: Final = {
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
}


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


def read_preprocessing(folder: Path, *, image_size: int, processor: Processor) -> Preprocessing:
    """Read what a model's processor does to a photo of ``image_size`` x ``image_size``.

    Parameters
    ----------
    folder
        The model's folder, with ``preprocessor_config.json``.
    image_size
        Side that every photo is resized to first.
    processor
        ``"model"`` for all that the processor does; ``"normalize"`` for its normalisation alone,
        so that the network sees ``image_size`` x ``image_size``.

    Returns
    -------
    Preprocessing

    Raises
    ------
    ModelError
        If the file is missing, or asks for a step that is not known here.
    """
    path = folder / PROCESSOR
    config = read_json(path)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    try:
        if config.get("do_normalize", True):
            mean, std = _three(config["image_mean"]), _three(config["image_std"])
        if processor == "normalize":
            return Preprocessing(image_size, None, "bicubic", None, mean, std)
        strange = {
            name for name, on in config.items() if name.startswith("do_") and on
        } - _UNDERSTOOD
        if strange or config.get("crop_pct") or config.get("rescale_offset"):
            names = sorted(strange | ({"crop_pct", "rescale_offset"} & config.keys()))
            raise ValueError(f"{', '.join(names)} is not known here")
        if abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
            raise ValueError(f"rescale_factor is {config['rescale_factor']}, not 1/255")
        crop = _size(config["crop_size"]) if config.get("do_center_crop") else None
        resize, interpolation = None, "bicubic"
        if config.get("do_resize", True):
            resize = _size(config["size"])
            interpolation = _INTERPOLATION[config.get("resample", 2)]
        steps = Preprocessing(image_size, resize, interpolation, crop, mean, std)
        before_crop = resize or (image_size, image_size)
        if crop is not None and (crop[0] > before_crop[0] or crop[1] > before_crop[1]):
            raise ValueError(f"the crop {crop} is larger than the image {before_crop}")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing or not known here" if type(error) is KeyError else str(error)
        raise ModelError(
            f"{path} cannot be followed: {reason}.",
            next_step="use a model whose processor resizes, crops and normalises, or set "
            '`processor` to "normalize" to skip all but its normalisation.',
        ) from error
    return steps


def _size(value: Any) -> tuple[int, int]:
    """Height and width that a processor's size gives a photo, which is square by then.

    So ``shortest_edge``, and the bare number of older files, say both.
    """
    if isinstance(value, dict) and "shortest_edge" not in value:
        return int(value["height"]), int(value["width"])
    side = int(value["shortest_edge"] if isinstance(value, dict) else value)
    return side, side


def _three(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3:
        raise ValueError(f"expected a number for each of red, green and blue, not {numbers}")
    return numbers
