"""Where an image model's files are, which weights they hold, and one line that names it.

A model is a name on the Hugging Face Hub or a local folder in the same layout: ``config.json``,
``preprocessor_config.json`` (or ``processor_config.json``) and weights as safetensors. Pickled
weights (``.bin``) are never read: unpickling runs whatever code the file holds. Nothing here loads
torch.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from nsd_pipeline.errors import NsdError

CONFIG: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
NESTED_PROCESSOR: Final = "processor_config.json"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_FILES: Final = (
    CONFIG,
    PROCESSOR,
    NESTED_PROCESSOR,
    _WEIGHTS,
    _INDEX,
    "model-*-of-*.safetensors",
)

USE_A_FOLDER: Final = (
    "download the model on a machine that can reach it, put the folder (config.json, "
    "preprocessor_config.json, model.safetensors) on this one, and name that folder in the "
    "config key `model` or in the environment variable NSD_ENCODER."
)


class ModelError(NsdError):
    """An image model cannot be found, or cannot be used as an encoder."""


def model_identity(model: str | Path, revision: str | None = None) -> str:
    """Which weights a model name stands for, as a short string.

    Parameters
    ----------
    model
        Name on the Hugging Face Hub, or a local folder.
    revision
        Branch, tag or commit on the hub; ``None`` is its main branch. What is in the local cache
        is preferred, so a model that moves on under the same name does not change by itself.

    Returns
    -------
    str
        ``commit:<hash>`` for a model on the hub. ``sha256:<digest>`` over configuration and
        weights for a folder, so that moving the folder changes nothing.

    Raises
    ------
    ModelError
        If the model is not there, or has no safetensors weights.
    """
    folder = _local_folder(model)
    if folder is not None:
        return f"sha256:{_folder_digest(folder)}"
    return f"commit:{_snapshot(str(model), revision, (CONFIG,)).name}"


def model_name(model: str | Path) -> str:
    """Name to call a model by: the hub's, or that of its folder.

    Two folders of one name may hold different models, so this identifies nothing.

    Parameters
    ----------
    model
        Name on the Hugging Face Hub, or a local folder.

    Returns
    -------
    str
        Never empty. A folder of the Hugging Face cache is called what the hub calls it: its own
        name is a commit's.
    """
    folder = _local_folder(model)
    if folder is None:
        return str(model)
    # Not a link's target: people give links the names that they go by.
    folder = Path(os.path.abspath(folder))  # noqa: PTH100, Path.absolute leaves `..` in
    cached = folder.parent.parent.name
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    return folder.name or str(folder)


def fetch_model(model: str | Path, revision: str | None = None) -> Path:
    """Folder with a model's files, downloaded once into the Hugging Face cache if need be.

    Parameters
    ----------
    model, revision
        As for `model_identity`.

    Returns
    -------
    Path
        The folder, complete: configuration, processor and all safetensors weights.

    Raises
    ------
    ModelError
        If the model is not there, or has no safetensors weights.
    """
    folder = _local_folder(model)
    if folder is None:
        commit = _snapshot(str(model), revision, (CONFIG,)).name
        folder = _snapshot(str(model), commit, _FILES)
    weight_files(folder)
    read_json(folder / CONFIG)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model's folder: one, or the shards that its index names.

    Raises
    ------
    ModelError
        If there are none, or a shard is missing.
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
    shards = sorted({name for name in names if isinstance(name, str) and Path(name).name == name})
    if set(shards) != set(names) or not shards:
        raise ModelError(
            f"{folder / _INDEX} does not name files of this folder.",
            next_step="copy or download the model again.",
        )
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"The model in {folder} lacks {', '.join(missing)}, which {_INDEX} names.",
            next_step="copy or download the model again.",
        )
    return [folder / name for name in shards]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model.

    Raises
    ------
    ModelError
        If it is missing or not a JSON object.
    """
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
        raise ModelError(
            f"{path} {problem}.", next_step="copy or download the model again, complete."
        )
    return content


def nested_processor(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Where transformers 5 puts an image processor that was saved together with one for text.

    Parameters
    ----------
    folder
        A model's folder.

    Returns
    -------
    tuple of Path and dict, or None
        The file, and the part of it that is about images. ``None`` if there is no such part:
        older files of this name are about text alone.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = folder / NESTED_PROCESSOR
    if not path.is_file():
        return None
    config = read_json(path).get("image_processor")
    if config is not None and not isinstance(config, dict):
        raise ModelError(
            f"image_processor in {path} is not a JSON object.",
            next_step="copy or download the model again, complete.",
        )
    return None if config is None else (path, config)


def _local_folder(model: str | Path) -> Path | None:
    """Folder that a model's name stands for; ``None`` if there is none, so that it is the hub's."""
    # A shell does not expand the ~ of a setting. Path.expanduser raises for a user it cannot find.
    folder = Path(os.path.expanduser(model))  # noqa: PTH111
    return folder if folder.is_dir() else None


def first_line(error: Exception) -> str:
    """What another library's error says, as far as it fits into a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _snapshot(model: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Folder of one commit in the Hugging Face cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(*, local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=local_files_only,
            )
        )

    try:
        try:
            folder = snapshot(local_files_only=True)
        except LocalEntryNotFoundError:
            return snapshot(local_files_only=False)
        # Other tools put single files into the cache, so what is there may not be all.
        complete = _WEIGHTS not in patterns or _is_complete(folder)
        if complete and (folder / CONFIG).is_file():
            return folder
        return snapshot(local_files_only=False)
    except (OSError, ValueError) as error:
        wanted = model if revision is None else f"{model} (revision {revision})"
        raise ModelError(
            f"The model {wanted} is neither a local folder nor can it be had from the Hugging Face "
            f"Hub: {first_line(error)}",
            next_step=f"check the name and the network, or {USE_A_FOLDER}",
        ) from error


def _is_complete(folder: Path) -> bool:
    try:
        weight_files(folder)
        return (folder / PROCESSOR).is_file() or nested_processor(folder) is not None
    except ModelError:
        return False


def _folder_digest(folder: Path) -> str:
    paths = [folder / CONFIG, *weight_files(folder)]
    read_json(folder / CONFIG)
    if (folder / PROCESSOR).is_file():
        paths.append(folder / PROCESSOR)
    elif (nested := nested_processor(folder)) is not None:
        paths.append(nested[0])
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


_DIGITS: Final = 8
"""Of a commit or a digest: enough to tell two apart by eye."""
_POOLED: Final = {"mean": "mean over tokens", "cls": "class token"}


def describe_encoder(settings: Mapping[str, Any]) -> str:
    """Say in one line what an encoder is, for reports, tables and messages.

    The line is for reading. To find out whether two encoders are the same, compare their
    `encoder_identity`.

    Parameters
    ----------
    settings
        What `ImageEncoder.settings` was when the embeddings were made: it lies in the Parquet file
        (`read_embeddings`) and, under ``encoder``, in the metadata of the artifact's manifest. Or
        an `encoder_identity` alone, which is the manifest's ``config["encoder"]``; that names the
        weights but neither the model nor the hidden state's number, so the line does not either.

    Returns
    -------
    str
        For example ``facebook/dinov2-giant (commit:611a9d42…), hidden state 26 of 41 (layers
        0.6667), mean over tokens, 518 px (the network sees 224 x 224), float32``.
    """
    words = [
        _model(settings),
        _layer(settings),
        _POOLED.get(settings.get("token_aggregation", "")),
        _size(settings),
        settings.get("dtype"),
    ]
    return ", ".join(str(part) for part in words if part)


def _model(settings: Mapping[str, Any]) -> str:
    kind, _, digest = str(settings.get("weights", "")).partition(":")
    weights = f"{kind}:{digest[:_DIGITS]}…" if digest else ""
    name = settings.get("model")
    if not name:
        return weights or "an encoder that is not named"
    return f"{name} ({weights})" if weights else str(name)


def _layer(settings: Mapping[str, Any]) -> str:
    layers = f"layers {settings['layers']:g}" if "layers" in settings else ""
    if "hidden_state" not in settings or "n_blocks" not in settings:
        return layers
    # A model of 40 blocks has 41 hidden states: number 0 is what goes into the first block.
    state = f"hidden state {settings['hidden_state']} of {settings['n_blocks'] + 1}"
    return f"{state} ({layers})" if layers else state


def _size(settings: Mapping[str, Any]) -> str:
    photo = settings.get("image_size")
    if photo is None:
        return ""
    seen = settings.get("network_size")
    if seen is not None and list(seen) != [photo, photo]:
        return f"{photo} px (the network sees {seen[0]} x {seen[1]})"
    if seen is None and settings.get("processor") == "normalize":
        return f"{photo} px (normalised only)"
    return f"{photo} px"
