"""The whole graph.

    raw          experiment_design     betas         bold          stimuli
                         |               |             |               |
    events            events -> fsaverage_events   bold_events         |
                                       | |             |               |
    surface                      fsaverage5_betas  fsaverage5_series   |
    embeddings                           |             |      stimulus_embeddings
                                         |             |           |
    decoding                             fmri_mlp <----------------+
                                             |
                                      retrieval_metrics
    report                            decoding_report

A model is trained on betas or on windows of time series (``bold``); the rest is shared.

``raw``, ``events`` and ``surface`` are cut by session, images and embeddings by stimulus set,
models by cohort; see ``partitions``. Betas from another space than fsaverage also need a subject's
``fsaverage5_operator``.
"""

import os

import dagster as dg

from nsd_pipeline import checks
from nsd_pipeline.automation import carry_on_sensor
from nsd_pipeline.embeddings.encoder import DEFAULT_MODEL
from nsd_pipeline.jobs import jobs
from nsd_pipeline.nsd.layout import SUBJECTS
from nsd_pipeline.resources import GpuResource, SourceResource, StoreResource
from nsd_pipeline.schedules import BackfillSettings, backfill_schedule
from nsd_pipeline.steps import (
    decoding,
    events,
    images,
    operators,
    raw,
    report,
    series_files,
    series_surface,
    surface,
)

STAGES = [raw, events, operators, surface, series_files, series_surface, images, decoding, report]
OWNER = "team:nsd-pipeline"
_DATA = "https://doi.org/10.1038/s41593-021-00962-x"
LINKS = {
    "experiment_design": _DATA,
    "betas": _DATA,
    "bold": _DATA,
    "stimuli": _DATA,
    "stimulus_embeddings": f"https://huggingface.co/{DEFAULT_MODEL}",
}
"""Where to read about what an asset holds, for those of which there is more to read."""


def _in_the_catalog(spec: dg.AssetSpec) -> dg.AssetSpec:
    """Add what the web UI's catalog shows of an asset beside its description."""
    link = LINKS.get(spec.key.to_user_string())
    return spec.merge_attributes(
        owners=[OWNER], metadata={"about": dg.MetadataValue.url(link)} if link else {}
    )


def build_defs(source_url: str, storage_url: str) -> dg.Definitions:
    """Every asset, check, job and schedule, bound to a source of NSD and a place for artifacts.

    Parameters
    ----------
    source_url
        ``s3://bucket[/prefix]`` or the folder of a local mirror.
    storage_url
        A folder, or ``s3://bucket/prefix``.
    """
    backfill = BackfillSettings.from_environment()
    return dg.Definitions(
        assets=[
            asset.map_asset_specs(_in_the_catalog)
            for asset in dg.load_assets_from_modules(STAGES)
            if isinstance(asset, dg.AssetsDefinition)
        ],
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=jobs,
        schedules=[backfill_schedule(subject, backfill) for subject in SUBJECTS],
        sensors=[carry_on_sensor(running=bool(backfill.running))],
        resources={
            "source": SourceResource(url=source_url),
            "store": StoreResource(url=storage_url),
            "gpu": GpuResource(),
        },
        # A run is what is isolated, queued and given a GPU; its steps share one process.
        executor=dg.in_process_executor,
    )


defs = build_defs(
    source_url=os.environ.get("NSD_SOURCE", "s3://natural-scenes-dataset"),
    storage_url=os.environ.get("NSD_STORAGE", "./artifacts"),
)
