"""The formats, and what NSD's terms let one do with each."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from nsd_pipeline.export.hugging_face import write_hugging_face
from nsd_pipeline.export.model_to_export import ModelToExport
from nsd_pipeline.export.onnx_files import write_onnx
from nsd_pipeline.export.predictions import write_predictions
from nsd_pipeline.storage.terms import TERMS_URL

FORMATS: Final[Mapping[str, Callable[[ModelToExport, Path, str], None]]] = {
    "hf": write_hugging_face,
    "onnx": write_onnx,
    "csv": write_predictions,
}
"""What writes a format into an empty folder, given the models and what the terms let one do."""


def may_be_passed_on(model: ModelToExport, to: str) -> str:
    """Say what NSD's terms let one do with an export, as far as this program knows them."""
    if model.generated:
        return "These models learned from generated data: NSD's terms are not about this export."
    if to == "csv":
        return (
            "Keep this table to yourself. Each row says which image a trial of NSD showed: that is"
            f" part of the data, which NSD's terms ({TERMS_URL}) forbid to redistribute. Whoever"
            " has submitted the Data Access Agreement can make it as you did. Figures about it,"
            " such as accuracies, may be published with the citation."
        )
    text = (
        f"NSD's terms ({TERMS_URL}) forbid to redistribute the data or its components, and allow"
        " research and education only. This export has none of them: no betas, no means or"
        " deviations of vertices, no labels of regions, no images, embeddings or trials. It has"
        " weights, and figures about them. We read the terms so that you may pass it on for"
        " research and education, with the same terms and the citation. As far as we know them"
        " they do not speak of models: ask NSD's authors before you publish it."
    )
    if model.own_class:
        text += (
            f" The network is of a class of your own, {model.config.model}: make sure that it keeps"
            " no trials among its weights, as a decoder by nearest neighbours would."
        )
    return text
