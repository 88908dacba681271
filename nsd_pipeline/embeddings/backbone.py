"""The part of an image model that leads up to one hidden state, and nothing after it.

Hidden state k is what block k puts out (0 is what goes into the first block), before any final
layer norm. So the blocks after it need neither memory nor time: where a model's configuration
says how many blocks it has, it is built with k of them, and only their weights are read. A model
that is built otherwise (stages of different widths, say) is run whole.
"""

import contextlib
import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsd_pipeline.embeddings.model_files import ModelError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Backbone:
    """A loaded model, cut after the wanted hidden state where it can be.

    Parameters
    ----------
    model
        The transformers model, in eval mode on its device.
    hidden_state
        Number of the wanted hidden state: how many blocks lead up to it.
    n_blocks
        Blocks of the whole model.
    blocks
        Name of the model's list of blocks if it was cut; ``None`` if it runs whole.
    missing
        Names of weights that the files do not hold.
    """

    model: "torch.nn.Module"
    hidden_state: int
    n_blocks: int
    blocks: str | None
    missing: tuple[str, ...]

    def __call__(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Run the model up to the hidden state.

        Parameters
        ----------
        pixels
            (N, 3, H, W) on the model's device, in its dtype.

        Returns
        -------
        torch.Tensor
            (N, tokens, features); (N, features, height, width) for models that keep maps.
        """
        arguments = _size_arguments(self.model, pixels)
        if self.blocks is None:
            return _hidden_states(self.model, pixels, arguments)[self.hidden_state]

        def stop(_module: object, _inputs: object, output: Any) -> None:
            raise _Reached(output[0] if isinstance(output, tuple) else output)

        last = self.model.get_submodule(self.blocks)[self.hidden_state - 1]  # type: ignore[index]
        hook = last.register_forward_hook(stop)
        try:
            self.model(pixel_values=pixels, **arguments)
        except _Reached as reached:
            return reached.state
        finally:
            hook.remove()
        raise AssertionError(f"{self.blocks} did not run.")


class _Reached(Exception):  # noqa: N818, not an error
    """Ends a forward pass at the wanted hidden state.

    What follows the blocks may not even fit them: ConvNeXt's last layer norm has the width of the
    last stage.
    """

    def __init__(self, state: "torch.Tensor") -> None:
        super().__init__()
        self.state = state


def load_backbone(
    folder: Path,
    *,
    layers: float,
    dtype: "torch.dtype",
    device: "torch.device",
    input_size: tuple[int, int],
) -> Backbone:
    """Load a model up to its hidden state number ``int(layers * n_blocks)``.

    Parameters
    ----------
    folder
        The model's folder, complete.
    layers
        Depth of the wanted hidden state as a fraction of the model's blocks.
    dtype
        What weights and activations are held in.
    device
        Where the model goes.
    input_size
        Height and width of the images that will be fed.

    Returns
    -------
    Backbone

    Raises
    ------
    ModelError
        If the folder holds no model of images that transformers knows, its weights do not fit its
        configuration, or ``layers`` selects no block.
    """
    import torch

    config = _vision_config(folder)
    n_blocks = getattr(config, "num_hidden_layers", None)
    if isinstance(n_blocks, int):
        hidden_state = _check_hidden_state(folder, layers, n_blocks)
        blocks = _list_of_blocks(config, n_blocks, hidden_state)
        if blocks is not None:
            model, missing = _load(folder, _with_blocks(config, hidden_state), dtype)
            return Backbone(model.to(device), hidden_state, n_blocks, blocks, missing)

    model, missing = _load(folder, config, dtype)
    model = model.to(device)
    # How many hidden states it has is known once there are some: one black image tells.
    black = torch.zeros((1, 3, *input_size), dtype=dtype, device=device)
    with torch.inference_mode():
        n_blocks = len(_hidden_states(model, black, _size_arguments(model, black))) - 1
    hidden_state = _check_hidden_state(folder, layers, n_blocks)
    return Backbone(model, hidden_state, n_blocks, None, missing)


def _vision_config(folder: Path) -> Any:
    """Read the configuration of the model, or of its image half if it has another for text."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder / 'config.json'} describes no model that transformers knows: "
            f"{str(error).strip().splitlines()[0]}",
            next_step="name a model whose code is part of the transformers library.",
        ) from error
    config = getattr(config, "vision_config", config)
    try:
        takes_images = _on_meta(config).main_input_name == "pixel_values"
    except ValueError:
        takes_images = False
    if not takes_images:
        raise ModelError(
            f"The model in {folder} ({config.model_type}) is not a model of images that "
            "transformers can build.",
            next_step="name a vision model, for example facebook/dinov2-giant.",
        )
    return config


def _check_hidden_state(folder: Path, layers: float, n_blocks: int) -> int:
    hidden_state = int(layers * n_blocks)
    if hidden_state < 1:
        raise ModelError(
            f"layers={layers} selects no block of the model in {folder}, which has {n_blocks}.",
            next_step=f"choose layers from {1 / n_blocks:.4g} to 1.",
        )
    return hidden_state


def _list_of_blocks(config: Any, n_blocks: int, hidden_state: int) -> str | None:
    """Name of the one module list that follows ``num_hidden_layers``, if cutting it is safe.

    Both sizes are built without memory and compared: exactly one list may differ in length and
    no weight in shape.
    """
    import torch

    n_fewer = hidden_state if hidden_state < n_blocks else n_blocks - 1
    try:
        whole, cut = _on_meta(config), _on_meta(_with_blocks(config, n_fewer))
    except Exception:
        # Whatever a model's code makes of fewer blocks: run it whole.
        return None

    def lengths(model: torch.nn.Module) -> dict[str, int]:
        return {
            name: len(module)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.ModuleList)
        }

    shapes = {name: weight.shape for name, weight in whole.state_dict().items()}
    if any(shapes.get(name) != weight.shape for name, weight in cut.state_dict().items()):
        return None
    before, after = lengths(whole), lengths(cut)
    changed = [name for name in after if after[name] != before[name]]
    if len(changed) != 1 or (before[changed[0]], after[changed[0]]) != (n_blocks, n_fewer):
        return None
    return changed[0]


def _with_blocks(config: Any, n_blocks: int) -> Any:
    config = copy.deepcopy(config)
    config.num_hidden_layers = n_blocks
    return config


def _on_meta(config: Any) -> Any:
    """Build a model that has shapes and no memory."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"), _quiet():
        return AutoModel.from_config(config, trust_remote_code=False)


def _load(folder: Path, config: Any, dtype: "torch.dtype") -> tuple[Any, tuple[str, ...]]:
    """Model with the weights that ``config`` has a place for, and the names of those it lacks."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel

    try:
        with _quiet():
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"The weights in {folder} cannot be loaded: {str(error).strip().splitlines()[0]}",
            next_step="copy or download the model again; weights and config.json must be a pair.",
        ) from error
    missing = tuple(sorted(report["missing_keys"]))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        # transformers fills these with random numbers. Heads that are not used may well be
        # missing; anything that reaches the embedding must not pass unseen.
        for name in missing:
            if name in weights:
                weights[name].fill_(torch.nan)
    return model.eval(), missing


def _size_arguments(model: Any, pixels: "torch.Tensor") -> dict[str, bool]:
    """Ask for interpolated positions where the image is not of the size the model was made for."""
    made_for = getattr(model.config, "image_size", None)
    if isinstance(made_for, int):
        made_for = (made_for, made_for)
    if made_for is not None and tuple(pixels.shape[-2:]) == tuple(made_for):
        return {}
    parameters = inspect.signature(model.forward).parameters
    name = "interpolate_pos_encoding"
    return {name: True} if name in parameters else {}


def _hidden_states(
    model: Any, pixels: "torch.Tensor", arguments: dict[str, bool]
) -> "tuple[torch.Tensor, ...]":
    output = model(pixel_values=pixels, output_hidden_states=True, **arguments)
    states = getattr(output, "hidden_states", None)
    if not states:
        raise ModelError(
            f"The model {type(model).__name__} does not give its hidden states.",
            next_step="name a vision transformer, for example facebook/dinov2-giant.",
        )
    return tuple(states)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting every weight that is left out on purpose."""
    from transformers.utils import logging

    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
