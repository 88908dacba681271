"""What people ask for by name.

Asset jobs stay within one way in which the graph is cut: ``session`` (and ``session_<space>``) and
``bold_session`` by session, ``embed`` by stimulus set, ``train`` by cohort (and
``train_<experiment>``), ``report`` not at all.
A backfill of any of them, by a range of its partitions, is started on its page in the web UI.

An asset job's assets share one kind of partition, so none of these can go from a session to a
model. ``subject`` can: a job of one op, partitioned by cohort, which starts one run after the other
in its own process. ``subj01`` is one subject to the end, ``all`` every subject to the joint model.
Unlike Dagster's asset backfill, which drops everything downstream of a failed partition, it trains
on the sessions that could be prepared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
from pydantic import Field

from nsd_pipeline import partitions, planned_runs
from nsd_pipeline.errors import NsdError
from nsd_pipeline.experiments import DEFAULT
from nsd_pipeline.launchers.base import GPU_POOL, KUBERNETES_GPU
from nsd_pipeline.nsd.layout import SUBJECTS
from nsd_pipeline.nsd.session_lists import sessions_of
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.steps.decoding import FmriMlpConfig
from nsd_pipeline.steps.forecast import Wanted
from nsd_pipeline.steps.images import EncoderConfig
from nsd_pipeline.steps.measurement import Metrics, choose_experiments
from nsd_pipeline.steps.raw import Design
from nsd_pipeline.steps.series_files import BoldConfig
from nsd_pipeline.steps.series_surface import SeriesConfig
from nsd_pipeline.steps.sessions import BETAS_STEPS, SERIES_STEPS, Preparation, betas_steps
from nsd_pipeline.steps.spaces import other_spaces
from nsd_pipeline.steps.step import Step
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store

STARTED_BY_TAG = "nsd/started_by"
"""Run of the job ``subject`` that started a run."""


def _session_job(name: str, steps: Iterable[type[Step]], description: str) -> Any:
    selection = dg.AssetSelection.assets(Design.name, *(step.name for step in steps))
    return dg.define_asset_job(name, selection=selection, description=description)


session = _session_job("session", BETAS_STEPS, "One session, from the bucket to fsaverage5 betas.")

bold_session = _session_job(
    "bold_session",
    SERIES_STEPS,
    "One session for the preset neuralbench: from recordings to time series on fsaverage5.",
)

embed = dg.define_asset_job(
    "embed",
    selection=dg.AssetSelection.assets("stimuli", "stimulus_embeddings"),
    description="Fetch and embed the images that the sessions at hand showed. To re-embed, choose"
    " another encoder in the config; to compare encoders, write an experiment.",
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
        default=FmriMlpConfig(), description="how models of the default experiment are trained"
    )
    experiments: list[str] = Field(
        default=[DEFAULT], description="what is trained and measured: names of experiments"
    )
    bold: BoldConfig = Field(
        default=BoldConfig(), description="where time series come from, for the preset neuralbench"
    )
    series: SeriesConfig = Field(
        default=SeriesConfig(),
        description="what is done to time series, for the preset neuralbench",
    )


def _do_every_run(
    context: dg.OpExecutionContext,
    config: SubjectConfig,
    known: Mapping[str, type[Metrics]],
    source: Source,
    store: Store,
) -> None:
    """Do what is left to do for a cohort, run by run.

    A session that fails does not stop the others: models are trained on those that could be
    prepared, and the job fails at its end, naming the others. So it does if a model fails, or is no
    better than guessing.
    """
    cohort = context.partition_key
    try:
        experiments = choose_experiments(config.experiments, known)
        wanted = Wanted((), (cohort,), experiments)
    except NsdError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    trainings = [
        config.training if each.is_default else each.training
        for each in (metrics.model.experiment for metrics in experiments)
    ]
    others = any(training.train_on != "own" for training in trainings)
    subjects = SUBJECTS if others else partitions.subjects_of_cohort(cohort)
    sessions = [key for subject in subjects for key in sessions_of(subject, config.sessions)]
    settings = {
        "stimulus_embeddings": config.encoder.model_dump(mode="json"),
        "fmri_mlp": config.training.model_dump(mode="json"),
        "bold": config.bold.model_dump(mode="json"),
        "fsaverage5_series": config.series.model_dump(mode="json"),
    }

    def run(planned: planned_runs.PlannedRun) -> Iterable[str]:
        context.log.info(planned.title)
        return planned_runs.execute(
            context.repository_def,
            context.instance,
            planned,
            config=settings,
            tags={STARTED_BY_TAG: context.run_id},
        )

    preparations = Preparation.for_all(trainings)
    stages = planned_runs.to_the_end(
        replace(wanted, sessions=sessions),
        source,
        store,
        preparations=preparations,
        bold=config.bold,
        series=config.series,
    )
    problems: list[str] = []
    failed: dict[str, str] = {}
    for done in planned_runs.carry_out(stages, run):
        if done.failed:
            context.log.error(f"{done.planned.title}: {done.problem}")
        else:
            context.log.info(f"{done.planned.title}: {done.said}")
        if done.failed and done.stage.name in {each.name for each in preparations}:
            failed[done.planned.first] = done.problem
        elif done.problem:
            problems.append(done.problem)
    if failed:
        left_out = "\n".join(f"{key}: {message}" for key, message in failed.items())
        problems.append(f"These sessions of {cohort} could not be prepared:\n{left_out}")
    if problems:
        raise dg.Failure(description="\n\n".join(problems), allow_retries=False)


def _subject_job(known: Mapping[str, type[Metrics]]) -> dg.JobDefinition:
    @dg.op(pool=GPU_POOL)
    def every_run(
        context: dg.OpExecutionContext,
        config: SubjectConfig,
        source: SourceResource,
        store: StoreResource,
    ) -> None:
        _do_every_run(context, config, known, source.open(), store.open())

    @dg.job(
        partitions_def=partitions.cohorts,
        description="One subject to the end, or with partition `all` every subject to the joint"
        " model: prepares the sessions that are left, embeds their images, trains, measures,"
        " reports. Has its GPU for all of that time.",
        tags=KUBERNETES_GPU,
    )
    def subject() -> None:
        every_run()

    return subject


def build_jobs(known: Mapping[str, type[Metrics]]) -> list[Any]:
    """Every job, for experiments by their name."""

    def train(name: str, metrics: type[Metrics]) -> Any:
        own = name == DEFAULT
        return dg.define_asset_job(
            "train" if own else f"train_{metrics.model.experiment.identifier}",
            selection=dg.AssetSelection.assets(metrics.model.name, metrics.name),
            description="Train a cohort's models on the sessions at hand and measure their"
            " retrieval."
            + (
                " Other settings in the config replace them: write an experiment to compare."
                if own
                else f" Experiment {name}."
            ),
            tags=KUBERNETES_GPU,
        )

    trainings = [train(name, metrics) for name, metrics in known.items()]
    in_spaces = [
        _session_job(
            f"session_{space}", betas_steps(space), f"One session, from its betas in {space}."
        )
        for space in other_spaces(each.model.experiment.training for each in known.values())
    ]
    return [session, *in_spaces, bold_session, embed, *trainings, report, _subject_job(known)]
