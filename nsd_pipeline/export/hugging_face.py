"""A folder in Hugging Face's layout: weights, settings and a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from nsd_pipeline import report
from nsd_pipeline.decoding.choice import learned_from
from nsd_pipeline.decoding.processes import seed_folder
from nsd_pipeline.evaluation.chance import Verdict, against_chance
from nsd_pipeline.export.model_to_export import ModelToExport
from nsd_pipeline.folders import CEILING, artifact_key
from nsd_pipeline.nsd.layout import parse_session_key
from nsd_pipeline.storage.terms import TERMS_URL

_TEMPLATE: Final = Path(__file__).with_name("model_card.md.j2")
_OF_IMAGES: Final = "top5_acc_instance-agg"
_SHOWN: Final = (*report.MAIN_METRICS, _OF_IMAGES)
_NUMBERS: Final = ("value", "low", "high", "ensemble", "chance", "sd_of_seeds")


def write_hugging_face(model: ModelToExport, folder: Path, terms: str) -> None:
    """Write each seed's weights as they lie in the store, with settings, and a model card.

    Not the vertices of a region: they follow from NSD's labels, which are part of its data. The
    settings name the region.
    """
    table = pd.DataFrame(model.metrics.metadata["metrics"]).set_index("name").loc[list(_SHOWN)]
    metrics = table.astype(dict.fromkeys(_NUMBERS, np.float64))  # None is no number yet
    stored = model.store.folder(model.made.key)
    for seed in model.config.seeds:
        own = seed_folder(stored, model.config, seed)
        place = folder / own.relative_to(stored)
        place.mkdir(exist_ok=True)
        shutil.copyfile(own / "model.safetensors", place / "model.safetensors")
        config = json.loads((own / "config.json").read_text(encoding="utf-8")) | {
            "training": {**model.config.decisive(), "region": model.region},
            "seed": seed,
            "input": model.describe_input(),
            "image_encoder": model.made.metadata["encoder"],
        }
        text = json.dumps(config, indent=2) + "\n"
        (place / "config.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_card(model, config, metrics, terms), encoding="utf-8")


def _card(
    model: ModelToExport, config: Mapping[str, Any], metrics: pd.DataFrame, terms: str
) -> str:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    rows = {str(name): row for name, row in metrics.iterrows()}
    name, n_images = f"{model.experiment}-{model.subject}", model.metrics.metadata["test images"]
    data = "Data generated in NSD's layout" if model.generated else "Natural Scenes Dataset"
    header = ModelCardData(
        license="mit" if model.generated else "other",
        license_name=None if model.generated else "nsd-terms",
        license_link=None if model.generated else TERMS_URL,
        model_name=name,
        tags=["fmri", "neuroscience", "natural-scenes-dataset", "image-retrieval"],
        eval_results=[
            EvalResult(
                task_type="other",
                task_name="retrieval of the image that was seen",
                dataset_type="natural-scenes-dataset",
                dataset_name=f"{data}, {n_images} shared images",
                metric_type=metric,
                metric_name=row["metric"],
                metric_value=float(row["value"]),
            )
            for metric, row in rows.items()
        ],
    )
    learned = learned_from(model.made)
    sessions: dict[str, list[int]] = {}
    for subject, number in map(parse_session_key, learned):
        sessions.setdefault(subject, []).append(number)
    ceilings = {each: model.store.find(artifact_key(CEILING, each)) for each in sessions}
    against = against_chance(float(rows[_OF_IMAGES]["ensemble"]), n_images)
    seeds, n_sessions = model.config.drawn_by, len(learned)
    card = ModelCard.from_template(
        header,
        template_path=str(_TEMPLATE),
        model=model,
        name=name,
        data=data,
        terms=terms,
        verdict=Verdict(model.subject, against, seeds, n_sessions).message,
        sessions=sessions,
        ceilings={name: made.metadata["median ncsnr"] for name, made in ceilings.items() if made},
        table=report.to_markdown(pd.DataFrame([_readable(*each) for each in rows.items()])),
        architecture=config["architecture"],
        shape=config["settings"],
        settings=yaml.safe_dump(config["training"], sort_keys=False).strip(),
    )
    return f"{card}\n"


def _readable(name: str, row: pd.Series) -> dict[str, str]:
    return {
        "metric": row["metric"],
        "mean over seeds": report.metric_text(name, row["value"]),
        "95 % interval": report.interval_text(name, row["low"], row["high"]),
        "standard deviation over seeds": report.metric_text(name, row["sd_of_seeds"]),
        "ensemble": report.metric_text(name, row["ensemble"]),
        "chance": report.metric_text(name, row["chance"]),
    }
