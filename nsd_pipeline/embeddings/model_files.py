"""Where an image model's files are, and which weights they hold.

A model is a name on the Hugging Face Hub or a local folder in the same layout: ``config.json``,
``preprocessor_config.json`` (or ``processor_config.json``) and weights as safetensors. Pickled
weights (``.bin``) are never read: unpickling runs whatever code the file holds. Nothing here loads
torch.
"""

import contextlib
import hashlib
import json
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from nsd_pipeline.errors import NsdError

CONFIG: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
_NESTED_PROCESSOR: Final = "processor_config.json"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_SHARDS: Final = "model-*-of-*.safetensors"
_FILES: Final = (CONFIG, PROCESSOR, _NESTED_PROCESSOR, _WEIGHTS, _INDEX, _SHARDS)

_GET_AGAIN: Final = "copy or download the model again, complete."
_USE_A_FOLDER: Final = (
    "download the model on a machine that can reach it, put the folder (config.json, "
    "preprocessor_config.json, model.safetensors) on this one, and name that folder in the "
    "config key `model` or in the environment variable NSD_ENCODER."
)


class ModelError(NsdError):
    """An image model cannot be found, or cannot be used as an encoder."""


def model_identity(model: str | Path, revision: str | None = None) -> str:
    """Identify the weights that a model's name, on the Hugging Face Hub or of a folder, stands for.

    ``commit:<hash>`` for a model on the hub, of which a revision is a branch, tag or commit, and
    None the main branch. The local cache comes first, so a model that is updated on the hub does
    not change here by itself. ``sha256:<digest>`` over configuration and weights for a folder, so
    that moving the folder changes nothing. A ModelError if the model is not there, or has no
    safetensors weights.
    """
    folder = local_folder(model)
    if folder is not None:
        return f"sha256:{_folder_digest(folder)}"
    return f"commit:{_snapshot(str(model), revision, (CONFIG,)).name}"


def model_name(model: str | Path) -> str:
    """Name of a model for people: the hub's, or that of its folder. It identifies nothing.

    A folder of the Hugging Face cache is named as on the hub, for its own name is a commit's.
    """
    folder = local_folder(model)
    if folder is None:
        return str(model)
    # Not a link's target: people give links the names that they go by.
    folder = Path(os.path.abspath(folder))  # noqa: PTH100, Path.absolute leaves `..` in
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    return folder.name or str(folder)


def fetch_model(model: str | Path, revision: str | None = None) -> Path:
    """Folder with a model's files, downloaded once into the Hugging Face cache if it is not there.

    Takes and raises what `model_identity` does. The folder is complete: configuration, processor
    and all safetensors weights.
    """
    folder = local_folder(model)
    if folder is None:
        commit = _snapshot(str(model), revision, (CONFIG,)).name
        folder = _snapshot(str(model), commit, _FILES)
    weight_files(folder)
    read_json(folder / CONFIG)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model's folder: one, or the shards that its index names.

    A ModelError if there are none, or a shard is missing.
    """
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        raise ModelError(
            f"The model in {folder} has no safetensors weights ({_WEIGHTS})"
            + (f", only {', '.join(pickled)}, which would run code to open." if pickled else "."),
            next_step="name a model or a `revision` that has them, or convert it with "
            "`AutoModel.from_pretrained(...).save_pretrained(folder)` where you trust its source.",
        )
    weight_map = read_json(folder / _INDEX).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    # No file's name is longer than 255 bytes, which 63 characters never are.
    if not names or not all(
        isinstance(name, str) and Path(name).name == name and len(name) < 64 for name in names
    ):
        raise ModelError(
            f"{folder / _INDEX} does not name files of this folder.",
            next_step=_GET_AGAIN,
        )
    shards = sorted(set(names))
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise ModelError(
            f"The model in {folder} lacks {', '.join(missing)}, which {_INDEX} names.",
            next_step=_GET_AGAIN,
        )
    return [folder / name for name in shards]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model; a ModelError if it is missing or not a JSON object."""
    content, problem = None, "is not a JSON object"
    try:
        # An editor of Windows puts a byte order mark at the beginning.
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        problem = f"is not valid JSON ({error})"
    if not isinstance(content, dict):
        raise ModelError(f"{path} {problem}.", next_step=_GET_AGAIN)
    return content


def processor_settings(folder: Path) -> dict[Path, dict[str, Any]]:
    """Settings of a model's image processor, by the file that holds them: one, or two.

    transformers 5 saves a processor of images and text as ``processor_config.json`` and puts the
    images' part under ``image_processor``. Older files of this name are about text alone. A
    ModelError if there are none, or a file is damaged.
    """
    path, nested = folder / PROCESSOR, folder / _NESTED_PROCESSOR
    of_images = read_json(nested).get("image_processor") if nested.is_file() else None
    if not isinstance(of_images, dict | None):
        raise ModelError(f"image_processor in {nested} is not a JSON object.", next_step=_GET_AGAIN)
    found = {} if of_images is None else {nested: of_images}
    # Without a nested one this one must be there: reading says so if it is not.
    return {path: read_json(path), **found} if path.is_file() or not found else found


def local_folder(model: str | Path) -> Path | None:
    """Folder that a model's name stands for; ``None`` if there is none, so that it is the hub's."""
    # A shell does not expand the ~ of a setting. Path.expanduser raises for a user it cannot find.
    folder = Path(os.path.expanduser(model))  # noqa: PTH111
    return folder if folder.is_dir() else None


def first_line(error: Exception) -> str:
    """First line of what another library's error says, to be quoted in a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _snapshot(model: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Folder of one commit in the Hugging Face cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    download = partial(snapshot_download, model, revision=revision, allow_patterns=list(patterns))
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            folder = Path(download(local_files_only=True))
            # Other tools put single files into the cache, so what is there may not be all.
            complete = _WEIGHTS not in patterns or _is_complete(folder)
            if complete and (folder / CONFIG).is_file():
                return folder
        return Path(download())
    except (OSError, ValueError) as error:
        wanted = model if revision is None else f"{model} (revision {revision})"
        raise ModelError(
            f"The model {wanted} is neither a local folder nor can it be had from the Hugging Face "
            f"Hub: {first_line(error)}",
            next_step=f"check the name and the network, or {_USE_A_FOLDER}",
        ) from error


def _is_complete(folder: Path) -> bool:
    try:
        weight_files(folder)
        return bool(processor_settings(folder))
    except ModelError:
        return False


def _folder_digest(folder: Path) -> str:
    read_json(folder / CONFIG)
    # One of two processors is enough: an encoder takes both only if they ask for the same steps.
    paths = [folder / CONFIG, *weight_files(folder), next(iter(processor_settings(folder)))]
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        content = _file_digest(path.resolve(), status.st_size, status.st_mtime_ns)
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001
    """Digest of a file's content; size and time make it stale when the file is replaced."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
