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

``fmri_mlp`` and ``retrieval_metrics`` are the default experiment's. Every other one adds a model
and metrics of its own, ``<experiment>_model`` and ``<experiment>_metrics``, and shares the rest: it
learns from betas or from windows of time series (``bold``), and the default's embeddings or
another encoder's.

``noise_ceiling`` says of each vertex how much of its response could be of use.

``raw``, ``events`` and ``surface`` are cut by session, images and embeddings by stimulus set,
models by cohort; see ``partitions``. A space that an experiment names has ``betas_<space>`` and
``fsaverage5_betas_<space>`` of its own; most also need a subject's ``fsaverage5_operator``.
"""

import atexit
import gc
import os
from collections.abc import Mapping

import dagster as dg

from nsd_pipeline import checks
from nsd_pipeline.automation import carry_on_sensor
from nsd_pipeline.checks import betas_checks, experiment_checks
from nsd_pipeline.embeddings.encoder import DEFAULT_MODEL
from nsd_pipeline.experiments import Experiment, chosen_file, read_experiments
from nsd_pipeline.jobs import build_jobs
from nsd_pipeline.nsd.layout import SUBJECTS
from nsd_pipeline.resources import GpuResource, SourceResource, StoreResource
from nsd_pipeline.schedules import BackfillSettings, backfill_schedule
from nsd_pipeline.steps.decoding import group_of
from nsd_pipeline.steps.every_step import every_step
from nsd_pipeline.steps.measurement import metrics_steps
from nsd_pipeline.steps.spaces import other_spaces, surface_step

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


def build_defs(
    source_url: str, storage_url: str, experiments: Mapping[str, Experiment] | None = None
) -> dg.Definitions:
    """Every asset, check, job and schedule, bound to a source of NSD and a place for artifacts.

    The source is ``s3://bucket[/prefix]`` or the folder of a local mirror, the place a folder or
    ``s3://bucket/prefix``. What is trained are experiments by name, ``default`` among them; those
    of `chosen_file` if None.
    """
    backfill = BackfillSettings.from_environment()
    experiments = experiments or read_experiments(chosen_file())
    steps = metrics_steps(experiments)
    spaces = other_spaces(each.training for each in experiments.values())
    return dg.Definitions(
        assets=[step.asset().map_asset_specs(_in_the_catalog) for step in every_step(steps)],
        asset_checks=[
            *dg.load_asset_checks_from_modules([checks]),
            *(check for space in spaces for check in betas_checks(surface_step(space))),
            *(check for metrics in steps.values() for check in experiment_checks(metrics)),
        ],
        jobs=build_jobs(steps),
        schedules=[backfill_schedule(subject, backfill) for subject in SUBJECTS],
        sensors=[
            carry_on_sensor(map(group_of, experiments.values()), running=bool(backfill.running))
        ],
        resources={
            "source": SourceResource(url=source_url),
            "store": StoreResource(url=storage_url),
            "gpu": GpuResource(),
        },
        # A run is what is isolated, queued and given a GPU; its steps share one process.
        executor=dg.in_process_executor,
    )


# When a process ends, Python looks for garbage among all of its objects once more. With Dagster's
# that takes 0.7 s of a command's 3, for nothing.
atexit.register(gc.freeze)

defs = build_defs(
    source_url=os.environ.get("NSD_SOURCE", "s3://natural-scenes-dataset"),
    storage_url=os.environ.get("NSD_STORAGE", "./artifacts"),
)
