"""A check of a loaded model on one image, before anything is embedded with it.

A model may run and give finite numbers that are no embedding: ViT-MAE hides three quarters of the
patches, other ones at every pass; SAM keeps its features on the last axis of a map, so that a mean
over the usual axes of a map is a mean over something else. So the image goes through twice, and the
axes of the hidden state are compared with what the model's configuration says of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from nsd_pipeline.embeddings.backbone import Backbone
from nsd_pipeline.embeddings.model_files import ModelError, first_line
from nsd_pipeline.embeddings.model_shapes import Shape

if TYPE_CHECKING:
    import torch

_OTHER_MODEL: Final = "name another vision model, for example facebook/dinov2-giant."
_TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 3e-2}
"""Difference between two passes on a GPU, as a share of the state's norm. Its libraries choose a
kernel for each call and may add in another order: a few roundings in every block. Another random
mask makes a difference of tens of percent. On the CPU the same call gives the same bits."""


def check_backbone(
    folder: Path, backbone: Backbone, pixels: "torch.Tensor", *, class_token: bool
) -> "torch.Tensor":
    """Run a model twice on the same image and check what comes out: its hidden state.

    `pixels` (1, 3, H, W) are any image, on the model's device, in its dtype. With `class_token` the
    first token will be the embedding, and so must not be a patch. The hidden state is not finite if
    weights are missing that it needs: those are NaN.

    A ModelError if the model does not run on images alone or gives another result the second time;
    if its hidden state is not (1, tokens, features) or (1, features, height, width) with the number
    of features that the configuration says; if there is no class token where one is needed.
    """
    import torch

    try:
        state, again = backbone(pixels), backbone(pixels)
    except (ModelError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        # A model's code may raise anything for an input that it was not made for.
        height, width = pixels.shape[-2:]
        raise ModelError(
            f"The model in {folder} does not run on a photo of {height} x {width} pixels: "
            f"{first_line(error)}",
            next_step="if that is not its size, choose another `processor` or `image_size`; "
            f"if it wants more than a photo, {_OTHER_MODEL}",
        ) from error
    _check_layout(folder, backbone, tuple(state.shape))
    if class_token:
        _check_class_token(folder, backbone, tuple(state.shape))
    if torch.isfinite(state).all() and not _is_same(state, again):
        raise ModelError(
            f"The model in {folder} ({backbone.kind}) is random: it gives the "
            "same photo another hidden state at every pass, as models do that hide patches to be "
            "trained (ViT-MAE).",
            next_step=_OTHER_MODEL,
        )
    return state


def _is_same(state: "torch.Tensor", again: "torch.Tensor") -> bool:
    import torch

    if state.shape != again.shape:
        return False
    if state.device.type == "cpu":
        return torch.equal(state, again)
    difference = (state.double() - again.double()).norm()
    tolerance = _TOLERANCE[str(state.dtype).removeprefix("torch.")]
    return bool(difference <= tolerance * state.double().norm())


def _check_layout(folder: Path, backbone: Backbone, shape: Shape) -> None:
    """Compare a hidden state's shape with what is known of the whole model."""
    known, number = backbone.shapes, backbone.hidden_state

    def unusable(problem: str) -> ModelError:
        return ModelError(
            f"Hidden state {number} of the model in {folder} ({backbone.kind}) {problem}.",
            next_step=_OTHER_MODEL,
        )

    whole = known.shapes
    if whole is not None and backbone.blocks is not None and len(whole) != backbone.n_blocks + 1:
        raise unusable(
            f"is not one thing: the model has {backbone.n_blocks} blocks and gives {len(whole)} "
            "hidden states, not one for each block and one before the first"
        )
    if shape[0] != 1 or (whole is not None and whole[number] != (2, *shape[1:])):
        raise unusable(
            f"has shape {shape} for one photo, which is not that of the whole model run on two "
            f"({whole[number] if whole else 'not known'})"
        )
    if len(shape) not in (3, 4):
        raise unusable(f"has shape {shape}: neither tokens nor a map of features")
    expected = 2 if len(shape) == 3 else 1
    grown = known.grown[number] if known.grown and len(known.grown) > number else None
    axes = range(1, len(shape))
    if grown is not None and len(grown) == len(shape) and grown[1:] != shape[1:]:
        # A larger photo has more tokens or a larger map, and as many features.
        found = [axis for axis in axes if grown[axis] == shape[axis]]
    else:
        found = [axis for axis in axes if shape[axis] == known.hidden_size]
    if len(found) != 1:
        raise unusable(f"has shape {shape}, and which axis holds the features cannot be told")
    if found != [expected]:
        raise unusable(
            f"has shape {shape}: it keeps its features on axis {found[0]}, where axis {expected} "
            "would be read for them"
        )
    # Where stages differ in width, the configuration states that of one of them.
    same_throughout = whole is not None and len(set(whole[1:])) == 1
    if known.hidden_size and same_throughout and shape[expected] != known.hidden_size:
        raise unusable(
            f"is {shape[expected]} wide, where the model's configuration says {known.hidden_size}"
        )


def _check_class_token(folder: Path, backbone: Backbone, shape: Shape) -> None:
    grown = backbone.shapes.grown
    # Four times as many tokens for four times the photo: then all of them are patches.
    only_patches = grown is not None and grown[backbone.hidden_state][1] == 4 * shape[1]
    if len(shape) == 4 or only_patches:
        keeps = "maps of features" if len(shape) == 4 else "patches only"
        raise ModelError(
            f"The model in {folder} ({backbone.kind}) keeps {keeps} and has no class token.",
            next_step='set `token_aggregation` to "mean".',
        )
