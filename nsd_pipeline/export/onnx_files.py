"""Networks as ONNX, one file a seed, by torch's own exporter."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

from nsd_pipeline.artifacts import Artifacts
from nsd_pipeline.errors import NsdError
from nsd_pipeline.export.model_to_export import ModelToExport


def write_onnx(model: ModelToExport, folder: Path, terms: str) -> None:
    """Write the network of each seed; it takes any number of trials at once.

    An NsdError if onnx or onnxscript is not installed, or torch cannot export the network.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise NsdError(
            f"ONNX files need {' and '.join(missing)}, which is not installed.",
            next_step="install what this export needs: pip install onnx onnxscript.",
        )
    import torch

    from nsd_pipeline.decoding.own_decoder import OwnDecoder

    # It warns of each operator of torchvision, which this package must do without.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    models = Artifacts(model.store).decoder(model.subject, model.experiment).models
    for seed, network in models.items():
        settings = network.settings
        n_times = int(settings.get("n_repetition_times") or settings["n_times"])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about itself
                program = torch.onnx.export(
                    network.own if isinstance(network, OwnDecoder) else network,
                    (torch.zeros(3, int(settings["n_vertices"]), n_times),),
                    input_names=["fmri"],
                    output_names=["estimate"],
                    dynamic_shapes=({0: torch.export.Dim("trial")},),
                    verbose=False,
                )
        except Exception as error:  # whatever a class of a user's own makes the exporter raise
            raise NsdError(
                f"torch cannot export the decoder {model.config.model} as ONNX"
                f" ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}).",
                next_step="export it with --to hf; or let its `forward` have no branch that depends"
                " on values or on the number of trials.",
            ) from error
        assert program is not None  # noqa: S101  # it is None for the exporter of before
        encoder = model.made.metadata["image encoder"]
        about = {
            "fmri": f"(trial, vertex, time), float32: {model.describe_input()}",
            "estimate": f"(trial, dimension), float32: the embedding of the image, by {encoder}",
            "seed": str(seed),
            "terms": terms,
        }
        program.model.metadata_props.update(about | model.provenance())
        program.save(folder / f"seed_{seed}.onnx")
