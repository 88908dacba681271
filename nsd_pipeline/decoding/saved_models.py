"""Models and unfinished trainings as files.

A model is ``model.safetensors`` with the weights and ``config.json`` with what they are. Weights
carry the reference's parameter names, and shapes alone say what architecture they belong to, so a
folder with nothing but the reference's weights loads as well. ``config.json`` is for people, but
for the widths of a decoder of a user's own. Whichever class that says it is, only one that the
caller names is imported: a store that others write to must not decide which code is run.

A checkpoint says where a training stands, so that a killed one goes on from its last epoch. It is
replaced atomically after every epoch and knows which training it belongs to.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.model import Decoder, FmriLinear, FmriMlp, FmriRidge
from nsd_pipeline.decoding.own_decoder import OwnDecoder
from nsd_pipeline.errors import ArtifactError, NsdError
from nsd_pipeline.storage.disk import replacing

WEIGHTS_NAME: Final = "model.safetensors"
CONFIG_NAME: Final = "config.json"

Tensors = dict[str, Tensor]
Notes = dict[str, Any]

_REFERENCE_PREFIX = "model."
_OWN_PREFIX = "own."
_WIDTHS = ("n_vertices", "n_times", "n_outputs")
_LOGGER = logging.getLogger(__name__)


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
    own = isinstance(model, OwnDecoder)
    description = {
        "architecture": model.path if own else type(model).__name__,
        "settings": model.settings,
        "training": config.decisive(),
    }
    with replacing(folder / CONFIG_NAME) as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n")
    with replacing(folder / WEIGHTS_NAME) as partial:
        save_file({name: value.cpu() for name, value in model.state_dict().items()}, partial)


def load_model(folder: str | Path, *, trusted: TrainingConfig | None = None) -> Decoder:
    """Read a model, ready to predict on the CPU.

    Parameters
    ----------
    folder
        A folder that :func:`save_model` wrote, or one with only ``model.safetensors``.
    trusted
        Settings that the caller has from their own files, not from the store: a class of a user's
        own is imported, and made, as their ``model`` and ``arguments`` say, or not at all.

    Raises
    ------
    ArtifactError
        If there are no weights, if they are damaged, or if they are not of a known architecture or
        of the trusted one.
    NsdError
        If the trusted class is no decoder.
    """
    folder = Path(folder)
    path = folder / WEIGHTS_NAME
    again = "make fmri_mlp of this cohort again."
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no {path}.", next_step=again) from error
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged: {error}.", next_step=again) from error
    if any(name.startswith(_OWN_PREFIX) for name in state):
        return _load_own(folder, state, trusted)
    state = {name.removeprefix(_REFERENCE_PREFIX): value for name, value in state.items()}
    architecture = (
        FmriMlp if "lin0.weight" in state else FmriRidge if "weight" in state else FmriLinear
    )
    try:
        model: Decoder = architecture.from_state(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path} does not hold the weights of an FmriMlp, FmriLinear or FmriRidge: {error}.",
            next_step="use weights with the reference's parameter names.",
        ) from error
    return model.eval()


def _load_own(folder: Path, state: Tensors, trusted: TrainingConfig | None) -> Decoder:
    """Read a model of a user's own class, which the caller trusts."""
    path = folder / CONFIG_NAME
    try:
        description = json.loads(path.read_text())
        architecture = str(description["architecture"])
        widths = {name: int(description["settings"][name]) for name in _WIDTHS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} does not say what the decoder's class is and how wide: {error!r}.",
            next_step="make the model again.",
        ) from error
    if trusted is None or trusted.model != architecture:
        named = "none" if trusted is None else trusted.model
        raise ArtifactError(
            f"{folder} holds a model of the class {architecture}, which is not part of"
            f" nsd_pipeline; the settings name {named}.",
            next_step=f"if you know that class, name it in the settings: model: {architecture},"
            " with the arguments it was trained with.",
        )
    model = OwnDecoder(architecture, **widths, arguments=trusted.arguments)
    take_weights(model, state)
    return model.eval()


def take_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model weights that were trained or fitted elsewhere.

    An NsdError if they are not those of this architecture, in names or in shapes.
    """
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differ = sorted(name for name in shapes.keys() | own if shapes.get(name) != own.get(name))
    if differ:
        name = differ[0]
        raise NsdError(
            f"{len(differ)} of the weights to take are not this model's: {name} is"
            f" {shapes.get(name, 'missing')} there, and {own.get(name, 'missing')} here.",
            next_step="take weights of the same decoder and widths (hidden, n_blocks, head_sizes,"
            " arguments), trained on as many vertices and time points and on embeddings as wide.",
        )
    model.load_state_dict(weights)


@dataclass(frozen=True)
class Checkpoint:
    """A file that belongs to exactly one training.

    `recipe` says what the training's data are made from, for instance the fingerprint of the
    artifact that the model will be. Settings, kind of device and version of torch are added to it.
    """

    path: Path
    recipe: str

    def write(
        self,
        config: TrainingConfig,
        seed: int,
        device: torch.device,
        tensors: Tensors,
        notes: Notes,
    ) -> None:
        """Replace the checkpoint: tensors on any device, and everything else as JSON has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = {"identity": self._identity(config, seed, device), "notes": json.dumps(notes)}
        with replacing(self.path) as partial:
            save_file(
                {name: value.cpu() for name, value in tensors.items()}, partial, metadata=header
            )

    def read(
        self, config: TrainingConfig, seed: int, device: torch.device
    ) -> tuple[Tensors, Notes] | None:
        """Read the checkpoint of this very training, or say why there is nothing to go on from.

        A damaged checkpoint, or one of other settings or other data, is of no use to anybody: the
        training starts from the beginning and replaces it.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("identity") != self._identity(config, seed, device):
                    _LOGGER.warning(
                        "%s is of another training; starting from the beginning.", self.path
                    )
                    return None
                # Clones own their memory, aligned as any other tensor's.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(header["notes"])
        except (SafetensorError, KeyError, ValueError, RecursionError) as error:
            _LOGGER.warning("%s is damaged (%s); starting from the beginning.", self.path, error)
            return None

    def _identity(self, config: TrainingConfig, seed: int, device: torch.device) -> str:
        """Digest of all that decides how the training goes."""
        decisive = [self.recipe, config.decisive(), seed, device.type, torch.__version__]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
