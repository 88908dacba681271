"""What people ask for by name.

Five jobs are asset jobs, one for each way in which the graph is cut: ``session`` and
``bold_session`` by session, ``embed`` by stimulus set, ``train`` by cohort, ``report`` not at all.
A backfill of any of them, by a range of its partitions, is started on its page in the web UI.

An asset job's assets share one kind of partition, so none of these can go from a session to a
model. ``subject`` can: a job of one op, partitioned by cohort, which starts one run after the other
in its own process. ``subj01`` is one subject to the end, ``all`` every subject to the joint model.
Unlike Dagster's asset backfill, which drops everything downstream of a failed partition, it trains
on the sessions that could be prepared.
"""

from typing import Any

import dagster as dg
from pydantic import Field

from nsd_pipeline import partitions, planned_runs
from nsd_pipeline.checks import AtChance
from nsd_pipeline.launchers.base import GPU_POOL, KUBERNETES_GPU
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.schedules import sessions_of
from nsd_pipeline.steps.decoding import FmriMlpConfig
from nsd_pipeline.steps.images import EncoderConfig
from nsd_pipeline.steps.series_files import BoldConfig
from nsd_pipeline.steps.series_surface import SeriesConfig
from nsd_pipeline.steps.sessions import BETAS_STEPS, SERIES_STEPS, look_at_sessions

STARTED_BY_TAG = "nsd/started_by"
"""Run of the job ``subject`` that started a run."""

session = dg.define_asset_job(
    "session",
    selection=dg.AssetSelection.assets("experiment_design", *(step.name for step in BETAS_STEPS)),
    description="One session, from the bucket to fsaverage5 betas.",
)

bold_session = dg.define_asset_job(
    "bold_session",
    selection=dg.AssetSelection.assets("experiment_design", *(step.name for step in SERIES_STEPS)),
    description="One session for the preset neuralbench: from recordings to time series on"
    " fsaverage5.",
)

embed = dg.define_asset_job(
    "embed",
    selection=dg.AssetSelection.assets("stimuli", "stimulus_embeddings"),
    description="Fetch and embed the images that the sessions at hand showed. To re-embed, choose"
    " another encoder in the config.",
    tags=KUBERNETES_GPU,
)

train = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.assets("fmri_mlp", "retrieval_metrics"),
    description="Train a cohort's model on the sessions at hand and measure its retrieval. To"
    " re-train, choose other settings in the config.",
    tags=KUBERNETES_GPU,
)

report = dg.define_asset_job(
    "report",
    selection=dg.AssetSelection.assets("decoding_report"),
    description="One page across cohorts.",
)


class SubjectConfig(dg.Config):
    """What goes into a model, and how it is made."""

    sessions: str = Field(
        default="all", description="which sessions of each subject to prepare, such as 1-10,15"
    )
    encoder: EncoderConfig = Field(default=EncoderConfig(), description="how images are embedded")
    training: FmriMlpConfig = Field(
        default=FmriMlpConfig(), description="how the model is trained, and on which preset's data"
    )
    bold: BoldConfig = Field(
        default=BoldConfig(), description="where time series come from, for the preset neuralbench"
    )
    series: SeriesConfig = Field(
        default=SeriesConfig(),
        description="what is done to time series, for the preset neuralbench",
    )


@dg.op(pool=GPU_POOL)
def every_run(
    context: dg.OpExecutionContext,
    config: SubjectConfig,
    source: SourceResource,
    store: StoreResource,
) -> None:
    """Do what is left to do for a cohort, run by run.

    A session that fails does not stop the others: the model is trained on those that could be
    prepared, and the job fails at its end, naming the others. So it does if the model is no better
    than guessing.
    """
    cohort = context.partition_key
    subjects = partitions.subjects_of_cohort(cohort)
    settings = {
        "stimulus_embeddings": config.encoder.model_dump(mode="json"),
        "fmri_mlp": config.training.model_dump(mode="json"),
        "bold": config.bold.model_dump(mode="json"),
        "fsaverage5_series": config.series.model_dump(mode="json"),
    }

    def run(planned: planned_runs.PlannedRun) -> None:
        context.log.info(planned.title)
        outcome = planned_runs.execute(
            context.repository_def,
            context.instance,
            planned,
            config=settings,
            tags={STARTED_BY_TAG: context.run_id},
        )
        context.log.info(f"{planned.title}: {', '.join(dict.fromkeys(outcome.values()))}")

    run(planned_runs.DESIGN)
    to_do = _sessions_to_do(context, config, source, store)
    steps = SERIES_STEPS if config.training.windowed else BETAS_STEPS
    failed: dict[str, str] = {}
    for planned in planned_runs.prepare(to_do, at_most=1, steps=steps):
        try:
            run(planned)
        except Exception as error:  # whatever it is, it is this session's alone
            context.log.error(f"{planned.title}: {error}")
            failed[planned.first] = str(error)
    problems: list[str] = []
    for planned in (*planned_runs.embed(subjects), *planned_runs.decode((cohort,))):
        try:
            run(planned)
        except AtChance as found:  # the report says so as well
            problems.append(str(found.description))
    if failed:
        problems.append(
            f"{cohort} is trained and measured, but without these sessions:\n"
            + "\n".join(f"{key}: {message}" for key, message in failed.items())
        )
    if problems:
        raise dg.Failure(description="\n\n".join(problems), allow_retries=False)


def _sessions_to_do(
    context: dg.OpExecutionContext,
    config: SubjectConfig,
    source: SourceResource,
    store: StoreResource,
) -> list[str]:
    """Sessions that are left of the wanted ones; time series that are done are found to be so."""
    cohort, bucket = context.partition_key, source.open()
    subjects = partitions.subjects_of_cohort(cohort)
    wanted = [key for subject in subjects for key in sessions_of(subject, config.sessions)]
    if config.training.windowed:
        there = [key for key in wanted if config.bold.has_session(bucket, key)]
        context.log.info(f"Sessions with time series: {len(there)} of {len(wanted)}.")
        return there
    states = look_at_sessions(bucket, store.open(), wanted)
    context.log.info(f"Sessions of {cohort}: {states}")
    return states.to_do


@dg.job(
    partitions_def=partitions.cohorts,
    description="One subject to the end, or with partition `all` every subject to the joint model:"
    " prepares the sessions that are left, embeds their images, trains, measures, reports. Has its"
    " GPU for all of that time.",
    tags=KUBERNETES_GPU,
)
def subject() -> None:
    """One cohort from the bucket to the report."""
    every_run()


jobs: list[Any] = [session, bold_session, embed, train, report, subject]
