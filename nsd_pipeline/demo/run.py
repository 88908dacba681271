"""Command line: ``python -m nsd_pipeline.demo.run`` materializes the whole graph, run by run.

Sessions are a backfill, the rest single runs, all recorded below ``DAGSTER_HOME``, where
the web UI finds them. Works on whatever ``NSD_SOURCE``, ``NSD_STORAGE`` and ``NSD_ENCODER`` name:
nothing here knows that a dataset is generated.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any, Final

import click
import dagster as dg
import pandas as pd

from nsd_pipeline import partitions
from nsd_pipeline.checks import AtChance
from nsd_pipeline.decoding.config import PresetName
from nsd_pipeline.definitions import defs
from nsd_pipeline.demo.backfill import Backfill, run_backfill
from nsd_pipeline.errors import NsdError
from nsd_pipeline.history import open_history
from nsd_pipeline.nsd.layout import betas_keys, parse_session_key
from nsd_pipeline.planned_runs import DESIGN, PlannedRun, decode, embed, execute
from nsd_pipeline.report import as_read, differing_settings, metric_label, to_markdown
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.steps.decoding import (
    FMRI_STEPS,
    METRICS_FILE,
    FmriMlp,
    FmriMlpConfig,
    RetrievalMetrics,
)
from nsd_pipeline.steps.report import PAGE_FILE, Report, comparable_settings
from nsd_pipeline.steps.series_files import BoldConfig
from nsd_pipeline.steps.sessions import BETAS_STEPS, SERIES_STEPS
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store

_SHOWN = ("top1_acc", "top5_acc", "top10_acc", "top1_acc_instance-agg", "median_retrieval_rank")

COARSE_RECORDINGS: Final = {
    "fsaverage5_series": {"query": "type != 'Fmri' or space == 'fsaverage5'"}
}
"""The demo's recordings are on a coarse mesh, to be small; docs/windows.md says so. Nothing else is
set: the demo's models are those that a user gets who sets nothing."""


def settings_of(preset: PresetName) -> dict[str, dict[str, Any]]:
    """What the demo sets for a task, by asset: the task itself, and nothing for the default one."""
    if preset == FmriMlpConfig().preset:
        return {}
    return {"fmri_mlp": {"preset": preset}, **COARSE_RECORDINGS}


@click.command()
@click.option(
    "--preset",
    type=click.Choice(list(FMRI_STEPS)),
    default="betas",
    show_default=True,
    help="The task: betas, or the reference's windows of time series.",
)
def main(preset: PresetName) -> None:
    """Materialize everything that the source has, and print the metrics beside chance."""
    source = SourceResource(url=_url("source")).open()
    store = StoreResource(url=_url("store")).open()
    sessions = [key for key in partitions.SESSIONS if _is_there(source, key, preset)]
    if not sessions:
        raise click.ClickException(
            f"{source.url} has no session of {FMRI_STEPS[preset][2]} that could be used."
        )
    subjects = tuple(dict.fromkeys(parse_session_key(session)[0] for session in sessions))
    steps = SERIES_STEPS if preset == "neuralbench" else BETAS_STEPS
    everything: list[PlannedRun | Backfill] = [
        DESIGN,
        Backfill(tuple(step.name for step in steps), tuple(sessions)),
        *embed(subjects),
        *decode((*subjects, partitions.ALL)),
    ]
    settings, at_chance = settings_of(preset), []
    try:
        history = open_history()
    except NsdError as error:
        raise click.ClickException(str(error)) from error
    with history as instance:
        for number, planned in enumerate(everything, 1):
            click.echo(f"[{number}/{len(everything)}] {planned.title}")
            started = time.perf_counter()
            try:
                said = _run(instance, planned, settings)
            except AtChance as found:
                said = ["made, but at chance: see below"]
                at_chance.append(str(found.description))
            except dg.Failure as failure:
                raise click.ClickException(str(failure.description)) from failure
            click.echo(f"      {', '.join(said)} ({time.perf_counter() - started:.1f} s)")
    _print_results(store)
    if at_chance:
        raise click.ClickException("\n\n".join(at_chance))


def _run(
    instance: dg.DagsterInstance,
    planned: PlannedRun | Backfill,
    settings: dict[str, dict[str, Any]],
) -> Iterable[str]:
    """Do one run, or the backfill; what there is to say of its artifacts."""
    if isinstance(planned, Backfill):
        return run_backfill(instance, planned, config=settings)
    outcome = execute(defs.get_repository_def(), instance, planned, config=settings)
    return dict.fromkeys(outcome.values())


def _is_there(source: Source, session: str, preset: PresetName) -> bool:
    """Whether a session can be prepared for a preset."""
    if preset == "neuralbench":
        return BoldConfig().has_session(source, session)
    first, *_ = betas_keys(*parse_session_key(session), "fsaverage")
    return first in source.list(first)


def _url(resource: str) -> str:
    """What the definitions have bound a resource to."""
    return str((defs.resources or {})[resource].url)


def _print_results(store: Store) -> None:
    measured = {
        cohort: pd.read_parquet(store.folder(key) / METRICS_FILE).set_index("metric").to_dict()
        for cohort in partitions.COHORTS
        if store.manifest(key := RetrievalMetrics.key(cohort))
    }
    rows = [
        {
            "cohort": cohort,
            "metric": metric_label(name),
            "value": as_read(name, table["value"][name]),
            "chance": as_read(name, table["chance"][name]),
        }
        for cohort, table in measured.items()
        for name in _SHOWN
    ]
    click.echo(f"\n{to_markdown(pd.DataFrame(rows))}\n")
    models = [store.manifest(FmriMlp.key(cohort)) for cohort in measured]
    if different := differing_settings(
        {str(model.partition): comparable_settings(model) for model in models if model}
    ):
        click.echo("These cohorts were made with different settings:")
        click.echo(
            f"{to_markdown(pd.DataFrame(different).T.rename_axis('setting').reset_index())}\n"
        )
    page = store.folder(Report.key()) / PAGE_FILE
    click.echo(f"Figures and how the numbers came about:  {page}")
    click.echo("The same in the web UI:                  make ui")


if __name__ == "__main__":
    sys.exit(main())
