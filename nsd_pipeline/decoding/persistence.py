"""Models as files: ``model.safetensors`` with the weights, ``config.json`` with what they are.

Weights carry the reference's parameter names, and shapes alone say what architecture they belong
to, so a folder with nothing but the reference's weights loads as well. ``config.json`` is for
people.
"""

import json
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.model import Decoder, FmriLinear, FmriMlp
from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage.replacing import replacing

WEIGHTS_NAME: Final = "model.safetensors"
CONFIG_NAME: Final = "config.json"

_REFERENCE_PREFIX = "model."


def save_model(folder: Path, model: Decoder, config: TrainingConfig) -> None:
    """Write a model's weights, architecture and training settings.

    Each file appears whole or not at all.

    Parameters
    ----------
    folder
        Where to; made if it is not there.
    model
        Model on any device.
    config
        Settings it was trained with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "architecture": type(model).__name__,
        "settings": model.settings,
        "training": config.model_dump(),
    }
    with replacing(folder / CONFIG_NAME) as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n")
    with replacing(folder / WEIGHTS_NAME) as partial:
        save_file({name: value.cpu() for name, value in model.state_dict().items()}, partial)


def load_model(folder: Path) -> Decoder:
    """Read a model, ready to predict on the CPU.

    Parameters
    ----------
    folder
        A folder that :func:`save_model` wrote, or one with only ``model.safetensors``.

    Raises
    ------
    ArtifactError
        If there are no weights, if they are damaged, or if they are not of a known architecture.
    """
    path = folder / WEIGHTS_NAME
    again = "materialize fmri_mlp for this cohort again."
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no {path}.", next_step=again) from error
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged: {error}.", next_step=again) from error
    state = {name.removeprefix(_REFERENCE_PREFIX): value for name, value in state.items()}
    architecture = FmriMlp if "lin0.weight" in state else FmriLinear
    try:
        model: Decoder = architecture.from_state(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path} does not hold the weights of an FmriMlp or FmriLinear: {error}.",
            next_step="use weights with the reference's parameter names.",
        ) from error
    return model.eval()
