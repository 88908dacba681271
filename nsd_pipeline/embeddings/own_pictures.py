"""Pictures of a user's own: read from a folder, and embedded once each.

Embeddings are kept below ``XDG_CACHE_HOME`` (``~/.cache``), by what a picture's file holds and what
the encoder is. Not in the store: the pictures are one user's, and who retrieves may have no right
to write to a store.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.embeddings.encoder import ImageEncoder, describe_encoder
from nsd_pipeline.embeddings.model_files import (
    ModelError,
    fetch_model,
    local_folder,
    model_identity,
)
from nsd_pipeline.errors import InvalidFileError, NotEnoughDataError, parsing
from nsd_pipeline.nsd.layout import IMAGE_SHAPE
from nsd_pipeline.storage.names import user_folder

_AT_ONCE: Final = 64
"""Pictures that are embedded before the cache has them: 35 MB."""
_DECISIVE: Final = ("layers", "token_aggregation", "image_size", "processor", "dtype")


def find_pictures(folder: Path) -> list[Path]:
    """Files of a folder that are pictures by their names, in order; no folders below it.

    A NotEnoughDataError if there are none.
    """
    from PIL import Image

    kinds = Image.registered_extensions()
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in kinds)
    if not found:
        raise NotEnoughDataError(
            f"There is no picture in the folder {folder}.",
            next_step="name a folder with pictures, such as .jpg or .png files.",
        )
    return found


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (425, 425, 3) uint8, RGB: upright, the square at its centre, scaled.

    An InvalidFileError if the file is damaged, or no picture.
    """
    from PIL import Image, ImageOps

    def refuse(problem: str) -> InvalidFileError:
        return InvalidFileError(
            f"The picture {path} cannot be read: {problem}.",
            next_step="copy it again, or move it out of this folder.",
        )

    with parsing(refuse), Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        return np.asarray(ImageOps.fit(upright, IMAGE_SHAPE[:2], Image.Resampling.BICUBIC))


def embed_pictures(
    paths: Sequence[Path], settings: Mapping[str, Any], make_encoder: Callable[[], ImageEncoder]
) -> NDArray[np.float32]:
    """Embeddings (N, D) of pictures; only those that the cache lacks go through the encoder.

    `settings` are the encoder's, which is made if there is something to embed. An InvalidFileError
    if a picture is damaged. Those before it are kept.
    """
    from tqdm import tqdm

    decisive = [settings["weights"], *(settings[name] for name in _DECISIVE)]
    cache = user_folder("XDG_CACHE_HOME", ".cache") / "pictures" / _digest(json.dumps(decisive))
    kept = [cache / f"{_digest(path.read_bytes())}.npy" for path in paths]
    new = {place: path for place, path in zip(kept, paths, strict=True) if not place.exists()}
    cache.mkdir(parents=True, exist_ok=True)
    places, encoder = list(new), None
    with tqdm(total=len(new), unit="picture", disable=not (new and sys.stderr.isatty())) as bar:
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            photos = np.stack([read_picture(new[place]) for place in some])
            encoder = encoder or make_encoder()
            for place, values in zip(some, encoder.encode(photos), strict=True):
                _keep(place, values)
            bar.update(len(some))
    return np.stack([_kept(place) for place in kept])


def encoder_arguments(settings: Mapping[str, Any], folders: Sequence[str | Path]) -> dict[str, Any]:
    """Arguments of the `ImageEncoder` that made some embeddings, by its settings.

    A model on the hub is named by its commit. Of a local folder they say which weights it had, not
    where it is: it may be any of `folders`. A ModelError if the model cannot be had here, or no
    folder has its weights.
    """
    kind, _, commit = str(settings["weights"]).partition(":")
    decisive = {name: settings[name] for name in _DECISIVE}
    if kind == "commit":
        try:
            fetch_model(settings["model"], commit)
        except ModelError as error:
            raise ModelError(
                f"The encoder of these embeddings cannot be had here. {error.problem}",
                next_step="do this where it can be downloaded, or copy the Hugging Face cache"
                " (~/.cache/huggingface) of a machine that has it.",
            ) from error
        return {"model": settings["model"], "revision": commit, **decisive}
    for name in folders:
        if local_folder(name) is not None and model_identity(name) == settings["weights"]:
            return {"model": name, **decisive}
    raise ModelError(
        f"The encoder of these embeddings, {describe_encoder(settings)}, was a local folder, and"
        f" there are no such weights in {' or '.join(map(str, folders))}.",
        next_step="name that folder in NSD_ENCODER.",
    )


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _kept(place: Path) -> NDArray[np.float32]:
    def refuse(problem: str) -> InvalidFileError:
        return InvalidFileError(
            f"{place}, an embedding that was kept, cannot be read: {problem}.",
            next_step="delete that file; it is made again.",
        )

    with parsing(refuse):
        values: NDArray[np.float32] = np.load(place, allow_pickle=False)
    return values


def _keep(place: Path, values: NDArray[np.float32]) -> None:
    # Two processes may embed one picture, so that each has a file of its own until it is whole.
    partial = place.with_suffix(f".{os.getpid()}.npy")
    np.save(partial, values)
    partial.replace(place)
