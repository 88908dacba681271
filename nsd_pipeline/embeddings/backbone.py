"""The part of an image model that leads up to one hidden state, and nothing after it.

Hidden state k is the output of block k (0 is the input of the first block), before any final layer
norm. The blocks after it would cost memory and time: where a model's configuration says how many
blocks it has, it is built with k of them, and only their weights are read. Other models (with
stages of different widths, for example) run whole.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsd_pipeline.embeddings.model_files import CONFIG, ModelError, first_line, read_json
from nsd_pipeline.embeddings.model_shapes import (
    ModelShapes,
    check_numbers,
    hidden_states,
    list_of_blocks,
    model_shapes,
    on_meta,
    other_inputs,
    quiet,
    size_arguments,
    with_blocks,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Backbone:
    """A loaded model, cut after the wanted hidden state where it can be.

    The transformers model is in eval mode on its device. `hidden_state` is the number of the wanted
    one: how many blocks lead up to it, of the `n_blocks` of the whole model. `blocks` is the name
    of the model's list of blocks if it was cut, ``None`` if it runs whole; `missing` are names of
    weights that the files do not hold, and `shapes` those of the whole model's hidden states.
    """

    model: "torch.nn.Module"
    hidden_state: int
    n_blocks: int
    blocks: str | None
    missing: tuple[str, ...]
    shapes: ModelShapes

    @property
    def kind(self) -> str:
        """What transformers calls the model's architecture."""
        return str(self.model.config.model_type)  # type: ignore[union-attr]

    def __call__(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Run the model up to the hidden state.

        Takes (N, 3, H, W) pixels on the model's device, in its dtype. Returns (N, tokens,
        features), or (N, features, height, width) of models that keep maps.
        """
        if self.blocks is None:
            return hidden_states(self.model, pixels)[self.hidden_state]

        def stop(_module: object, _inputs: object, output: Any) -> None:
            raise _Reached(output[0] if isinstance(output, tuple) else output)

        last = self.model.get_submodule(self.blocks)[self.hidden_state - 1]  # type: ignore[index]
        hook = last.register_forward_hook(stop)
        try:
            self.model(pixel_values=pixels, **size_arguments(self.model, pixels))
        except _Reached as reached:
            return reached.state
        finally:
            hook.remove()
        raise AssertionError(f"{self.blocks} did not run.")


class _Reached(Exception):  # noqa: N818, not an error
    """Ends a forward pass at the wanted hidden state.

    What follows the blocks may not fit the last one that is left: ConvNeXt's last layer norm has
    the width of the last stage.
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

    The model's folder is complete, `dtype` that of weights and activations, and `input_size` the
    height and width of what the network will see. A ModelError if the folder holds no model of
    images that transformers knows, its weights do not fit its configuration, or ``layers`` selects
    no block.
    """
    import torch

    config, whole = _vision_model(folder)
    shapes = model_shapes(config, whole, input_size)
    n_blocks = getattr(config, "num_hidden_layers", None)
    if isinstance(n_blocks, int):
        hidden_state = _hidden_state(folder, layers, n_blocks)
        blocks = list_of_blocks(config, whole, n_blocks, hidden_state)
        if blocks is not None:
            model, missing = _load(folder, with_blocks(config, hidden_state), dtype)
            model = _keep_positions(model.to(device))
            return Backbone(model, hidden_state, n_blocks, blocks, missing, shapes)

    model, missing = _load(folder, config, dtype)
    model = _keep_positions(model.to(device))
    if shapes.shapes is not None:
        n_blocks = len(shapes.shapes) - 1
    else:
        # Only a run with numbers tells how many hidden states there are: on one black image.
        black = torch.zeros((1, 3, *input_size), dtype=dtype, device=device)
        with torch.inference_mode():
            n_blocks = len(hidden_states(model, black)) - 1
    hidden_state = _hidden_state(folder, layers, n_blocks)
    return Backbone(model, hidden_state, n_blocks, None, missing, shapes)


def _keep_positions(model: Any) -> Any:
    """Let DINOv2 interpolate its positions once for each size, and not for every batch.

    That takes 4 ms of an H200 whatever the batch: of 16 photos a fifth of the time. Other models
    have a method of that name that depends on more than weights and sizes.
    """
    if model.config.model_type != "dinov2":
        return model
    interpolate = model.embeddings.interpolate_pos_encoding
    kept: dict[tuple[int, ...], torch.Tensor] = {}

    def interpolated(embeddings: "torch.Tensor", height: int, width: int) -> "torch.Tensor":
        size = (embeddings.shape[1], height, width)
        if size not in kept:
            kept[size] = interpolate(embeddings, height, width)
        return kept[size]

    model.embeddings.interpolate_pos_encoding = interpolated
    return model


def _vision_model(folder: Path) -> tuple[Any, Any]:
    """Configuration of a model, or of its image half if it has another for text, and that model.

    The model is on the meta device: shapes without weights.
    """
    from transformers import CONFIG_MAPPING

    # Read by us, because transformers does not read a file that begins with a byte order mark.
    content = read_json(folder / CONFIG)
    kind = content.get("model_type")
    try:
        if kind not in CONFIG_MAPPING:
            raise ValueError(f"model_type is {kind!r}")
        # Some configurations make a list of names of so many blocks. Of text, large numbers are
        # sound: positions, the base of rotations.
        check_numbers(content.get("vision_config", content))
        config = CONFIG_MAPPING[kind].from_dict(content)
    except Exception as error:
        # transformers' own checks and conversions of the values may raise anything.
        raise ModelError(
            f"{folder / CONFIG} describes no model that transformers knows: {first_line(error)}",
            next_step="name a model whose code is part of the transformers library.",
        ) from error
    config = getattr(config, "vision_config", config)
    takes, reason = None, ""
    try:
        model = on_meta(config)
        takes = model.main_input_name
    except Exception as error:
        # No model for this configuration, values that do not fit, a package that is not installed.
        reason = f" ({first_line(error)})"
    if takes != "pixel_values":
        raise ModelError(
            f"The model in {folder} ({kind}) is not a model of images that transformers can "
            f"build{reason}.",
            next_step="name a vision model, for example facebook/dinov2-giant.",
        )
    if others := other_inputs(model):
        raise ModelError(
            f"The model in {folder} ({kind}) takes more than the pixels of a photo: its image "
            f"half also needs {', '.join(others)}.",
            next_step="name a model that takes pixels alone, for example facebook/dinov2-giant.",
        )
    return config, model


def _hidden_state(folder: Path, layers: float, n_blocks: int) -> int:
    hidden_state = int(layers * n_blocks)
    if hidden_state < 1:
        raise ModelError(
            f"layers={layers} selects no block of the model in {folder}, which has {n_blocks}.",
            next_step=f"choose layers from {1 / n_blocks:.4g} to 1.",
        )
    return hidden_state


def _load(folder: Path, config: Any, dtype: "torch.dtype") -> tuple[Any, tuple[str, ...]]:
    """Model with the weights that ``config`` has a place for, and the names of those it lacks."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel

    try:
        with quiet():
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
            f"The weights in {folder} cannot be loaded: {first_line(error)}",
            next_step="copy or download the model again; weights and config.json must be a pair.",
        ) from error
    missing = tuple(sorted(report["missing_keys"]))
    # Statistics of batch norm are buffers, and as much a part of what is computed.
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        # transformers fills these with random numbers or constants. A head that is not used may be
        # missing; what reaches the embedding makes it NaN, which is noticed.
        for name in missing:
            if name in weights and weights[name].is_floating_point():
                weights[name].fill_(torch.nan)
    return model.eval(), missing
