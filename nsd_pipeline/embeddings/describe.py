"""One line that says to a person which encoder made some embeddings."""

from collections.abc import Mapping
from typing import Any, Final

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
