"""From 8-bit photos to the numbers an image model sees, as its own processor does it.

The reference resizes every photo to ``image_size`` first (bilinear, 8 bit) and then gives it to the
model's own processor, which for DINOv2 resizes again to 256 (bicubic, antialiased, on floats),
crops the centre 224 and normalises.

The processors of transformers need torchvision, so only their settings are read, and their steps
are carried out here with PIL and torch. Every field is followed, or is known to change nothing
about the pixels of a square photo, or is refused by name. So is a processor whose class may do more
than its fields say (LeViT's resizes to 256/224 of the size that it is given).
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.embeddings.model_files import ModelError, processor_settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Preprocessing:
    """Steps from photos to network input, in the order of the fields.

    Every photo is resized to height and width `photo_size` first, 8 bit, bilinear; then, unless
    ``None``, to the height and width of `resize`, on floats in 0..1, antialiased, by an
    interpolation; of that the centre of height and width `crop` is kept, unless ``None``. `mean`
    and `std` are subtracted from and divided by, one number for each of red, green and blue, in
    0..1.
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
        """Resize photos (N, H, W, 3), RGB, to (N, ``photo_size``, ``photo_size``, 3), as PIL does.

        Photos that are not square are stretched.
        """
        from PIL import Image

        _check_photos(images)
        size = self.photo_size
        resized = np.empty((len(images), size, size, 3), dtype=np.uint8)

        def resize(number: int) -> None:
            photo = Image.fromarray(images[number])
            resized[number] = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))

        # One thread makes 250 photos a second, and a GPU would wait. PIL releases the GIL.
        with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
            list(pool.map(resize, range(len(images))))
        return resized

    def for_gpu(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Put photos (N, H, W, 3) into page-locked memory, from where a GPU gets them at once.

        Square ones stay as they are: `to_network` resizes them there. PIL resizes 1,200 a second
        on 16 cores (docs/gpu.md), hardly more than one GPU embeds.
        """
        import torch

        _check_photos(images)
        photos = images if images.shape[1] == images.shape[2] else self.resize_photos(images)
        locked = torch.empty(photos.shape, dtype=torch.uint8, pin_memory=True).numpy()
        locked[:] = photos
        return locked

    def to_network(self, photos: "torch.Tensor") -> "torch.Tensor":
        """Turn photos into the network's input, on the device they are on.

        Takes them from `resize_photos` or `for_gpu`. Returns (N, 3, ``*network_size``) float32.
        """
        import torch

        from nsd_pipeline.embeddings.resizing import resize_square

        if photos.shape[1] != self.photo_size:
            photos = resize_square(photos, self.photo_size)
        pixels = photos.permute(0, 3, 1, 2).to(torch.float32) / 255
        if self.resize is not None:
            pixels = torch.nn.functional.interpolate(
                pixels, self.resize, mode=self.interpolation, antialias=True, align_corners=False
            )
        if self.crop is not None:
            height, width = self.crop
            top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
            pixels = pixels[..., top : top + height, left : left + width]
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels - mean) / std


def _check_photos(images: NDArray[np.uint8]) -> None:
    shape = images.shape
    if len(shape) != 4 or shape[0] == 0 or shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be (N > 0, H, W, 3) uint8, not {shape} {images.dtype}.")


Processor = Literal["model", "normalize"]

_INTERPOLATION: Final = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers for the resampling filters that torch has too."""
_CROPS: Final = {
    "BeitImageProcessor": False, "BitImageProcessor": True, "BlipImageProcessor": False,
    "ChineseCLIPImageProcessor": True, "CLIPImageProcessor": True, "DeiTImageProcessor": True,
    "DINOv3ViTImageProcessor": False, "MobileNetV1ImageProcessor": True,
    "MobileNetV2ImageProcessor": True, "OwlViTImageProcessor": False, "PvtImageProcessor": False,
    "SegformerImageProcessor": False, "SiglipImageProcessor": False, "Tipsv2ImageProcessor": False,
    "ViTImageProcessor": False,
}  # fmt: skip
"""Classes that resize, crop, rescale and normalise and do nothing else, and whether they crop where
``do_center_crop`` is missing."""
_STEPS: Final = {
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std",
}  # fmt: skip
_CHANGES_NOTHING: Final = {
    # Who wrote the file, and for whom.
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "use_fast",
    # How images are handed over. Ours are RGB and come as tensors.
    "do_convert_rgb", "input_data_format", "data_format", "return_tensors", "device",
    "disable_grouping", "model_input_names", "_valid_processor_keys",
    # What a size means for photos that are not square. Ours are.
    "default_to_square", "use_square_size",
    # Of maps of labels, not of photos.
    "do_reduce_labels", "reduce_labels",
}  # fmt: skip
_COLOURS: Final = (
    "do_flip_channel_order", "do_grayscale", "do_color_quantize", "rescale_offset", "include_top",
)  # fmt: skip
"""Steps of some processors that change what ``image_mean`` and ``image_std`` are applied to."""


def read_preprocessing(folder: Path, *, image_size: int, processor: Processor) -> Preprocessing:
    """Read what a model's processor does to a photo of ``image_size`` x ``image_size``.

    The model's folder has ``preprocessor_config.json`` or ``processor_config.json``. ``"model"`` is
    all that the processor does; ``"normalize"`` its normalisation alone, so that the network sees
    ``image_size`` x ``image_size``. A ModelError if there is no file, it asks for a step that is
    not known here, or there are two that ask for different ones.
    """
    files = processor_settings(folder)
    found = {_read(path, config, image_size, processor) for path, config in files.items()}
    # Of two, transformers 5 reads the nested one, and older versions the other.
    if len(found) > 1:
        raise ModelError(
            f"{' and '.join(map(str, files))} ask for different steps.",
            next_step="copy the model into a folder of your own, and delete one of the two there.",
        )
    return found.pop()


def _read(
    path: Path, config: dict[str, Any], image_size: int, processor: Processor
) -> Preprocessing:
    try:
        mean, std = _normalisation(config)
        if processor == "normalize":
            return Preprocessing(image_size, None, "bicubic", None, mean, std)
        _check_fields(config)
        crops = _is_on(config, "do_center_crop", default=False)
        crop = _size(config["crop_size"]) if crops else None
        resize, interpolation = None, "bicubic"
        if _is_on(config, "do_resize", default=True):
            resize = _size(config["size"])
            resample = config["resample"]
            if resample not in _INTERPOLATION:
                raise ValueError(
                    f"resample is {resample!r}, not {' or '.join(map(str, _INTERPOLATION))}"
                )
            interpolation = _INTERPOLATION[resample]
        before = resize or (image_size, image_size)
        if crop is not None and (crop[0] > before[0] or crop[1] > before[1]):
            raise ValueError(f"the crop {crop} is larger than the image {before}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error.args[0]} is missing" if type(error) is KeyError else str(error)
        next_step = "use a model whose processor resizes, crops, divides by 255 and normalises"
        if processor == "model":
            next_step += ', or set `processor` to "normalize" to skip all but its normalisation'
        raise ModelError(
            f"{path} cannot be followed: {reason}.", next_step=f"{next_step}."
        ) from error
    return Preprocessing(image_size, resize, interpolation, crop, mean, std)


def _normalisation(config: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for pixels in 0..1; refuses fields that would make them mean another."""
    if strange := [name for name in _COLOURS if config.get(name)]:
        raise ValueError(f"{', '.join(strange)} is not known here")
    if not _is_on(config, "do_rescale", default=True):
        raise ValueError("do_rescale is off, so that the model wants numbers from 0 to 255")
    factor = config.get("rescale_factor")
    # Files have it rounded.
    if factor is not None and not abs(_number(factor) * 255 - 1) <= 1e-6:
        raise ValueError(f"rescale_factor is {factor}, not 1/255")
    if not _is_on(config, "do_normalize", default=True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = _three(config["image_mean"]), _three(config["image_std"])
    if min(std) <= 0:
        raise ValueError(f"image_std is {std}, which cannot be divided by")
    return mean, std


def _check_fields(config: dict[str, Any]) -> None:
    """Check that everything the file asks for is followed, and that it says whether to crop."""
    strange = {name for name, value in config.items() if value} - _STEPS - _CHANGES_NOTHING
    if not config.get("do_pad"):
        strange -= {"pad_size", "size_divisor"}
    if strange:
        raise ValueError(f"{', '.join(sorted(strange))} is not known here")
    if config.get("data_format") not in (None, "channels_first"):
        raise ValueError(f"data_format is {config['data_format']!r}, not channels_first")
    named = config.get("image_processor_type") or config.get("feature_extractor_type")
    if named is None:
        if config.get("do_center_crop") is None and config.get("crop_size") is not None:
            raise ValueError("there is a crop_size, and do_center_crop is missing")
        return
    # One class has several names: for torchvision, for PIL, and that of 2021.
    name = str(named).removesuffix("Fast").removesuffix("Pil")
    name = name.replace("FeatureExtractor", "ImageProcessor")
    if name not in _CROPS:
        raise ValueError(f"{named} may do more to a photo than its fields say")
    if _CROPS[name] and config.get("do_center_crop") is None:
        raise ValueError(f"do_center_crop is missing, and {named} may crop or not")


def _is_on(config: dict[str, Any], name: str, *, default: bool) -> bool:
    value = config.get(name)
    if value is None:
        if default and name in config:
            raise ValueError(f"{name} is null")
        return default
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, neither true nor false")
    return value


def _size(value: Any) -> tuple[int, int]:
    """Height and width that a processor's size gives a photo.

    The photo is square by then, so ``shortest_edge``, and the bare number of older files, say both.
    """
    if not isinstance(value, dict):
        return _side(value), _side(value)
    edges = {name: _side(edge) for name, edge in value.items() if edge is not None}
    if edges.keys() == {"height", "width"}:
        return edges["height"], edges["width"]
    shortest = edges.get("shortest_edge")
    if shortest is None or edges.keys() - {"shortest_edge", "longest_edge"}:
        raise ValueError(f"the size {value} is not known here")
    if edges.get("longest_edge", shortest) < shortest:
        raise ValueError(f"the size {value} contradicts itself")
    return shortest, shortest


def _side(value: Any) -> int:
    number = _number(value)
    if number < 1 or number != int(number):
        raise ValueError(f"a size of {value} is no number of pixels")
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _three(values: Any) -> tuple[float, ...]:
    """One number for each of red, green and blue; a single one is all three."""
    if not isinstance(values, list):
        return (_number(values),) * 3
    if len(values) != 3:
        raise ValueError(f"expected a number for each of red, green and blue, not {values}")
    return tuple(_number(value) for value in values)
