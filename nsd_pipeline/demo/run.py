"""Command line: ``python -m nsd_pipeline.demo.run`` materializes the whole graph, run by run.

Each run is recorded below ``DAGSTER_HOME``, where the web UI finds it. Works on whatever
``NSD_SOURCE``, ``NSD_STORAGE`` and ``NSD_ENCODER`` name: nothing here knows that a dataset is
generated.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import click
import pandas as pd

from nsd_pipeline import partitions
from nsd_pipeline.cli.console import NsdCommand
from nsd_pipeline.definitions import defs
from nsd_pipeline.experiments import chosen_file, read_experiments
from nsd_pipeline.history import open_history
from nsd_pipeline.nsd.layout import DEFAULT_SPACE, parse_session_key
from nsd_pipeline.planned_runs import (
    DESIGN,
    PlannedRun,
    Stage,
    carry_out,
    decode,
    embed,
    execute,
    operators,
    prepare,
)
from nsd_pipeline.report import as_read, metric_label, to_markdown
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.steps.ceiling import Ceiling
from nsd_pipeline.steps.measurement import (
    METRICS_FILE,
    Metrics,
    choose_experiments,
    metrics_steps,
)
from nsd_pipeline.steps.report import PAGE_FILE, Report
from nsd_pipeline.steps.sessions import Preparation, look_at_sessions
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store

_SHOWN = ("top5_acc", "top1_acc", "top5_acc_instance-agg", "median_retrieval_rank")

EXPERIMENTS: Final = ("default", "linear", "ridge")
"""What the demo trains, unless told otherwise."""

COARSE_RECORDINGS: Final = {
    "fsaverage5_series": {"query": "type != 'Fmri' or space == 'fsaverage5'"}
}
"""The demo's recordings are on a coarse mesh, to be small; docs/windows.md says so. Nothing else is
set: the demo's models are those that a user gets who sets nothing."""


@click.command(cls=NsdCommand)
@click.option(
    "--experiment",
    "names",
    multiple=True,
    default=EXPERIMENTS,
    show_default=True,
    help="What is trained and measured; may be repeated.",
)
def main(names: tuple[str, ...]) -> None:
    """Materialize everything that the source has, and print the metrics beside chance."""
    known = metrics_steps(read_experiments(chosen_file()))
    chosen = choose_experiments(names, known)
    experiments = {each.model.experiment.name: each for each in chosen}
    needed = Preparation.for_all(each.model.experiment.training for each in experiments.values())
    source = SourceResource(url=_url("source")).open()
    store = StoreResource(url=_url("store")).open()
    sessions = {each: _sessions_there(source, store, each) for each in needed}
    for each, there in sessions.items():
        if not there:
            raise click.ClickException(f"{source.url} has no {each.name} that could be used.")
    subjects = tuple(
        dict.fromkeys(parse_session_key(key)[0] for keys in sessions.values() for key in keys)
    )
    measured = subjects if any(each.space == DEFAULT_SPACE for each in needed) else ()
    stages = [
        Stage("design", [DESIGN]),
        Stage("sessions", [*_prepare(sessions)]),
        Stage("ceilings", [PlannedRun((Ceiling.name,), each, each) for each in measured]),
        Stage("images", [*embed(subjects, experiments.values())]),
        Stage("models", [*decode((*subjects, partitions.ALL), experiments.values())]),
    ]
    settings = COARSE_RECORDINGS if any(each.space is None for each in needed) else {}
    at_chance: list[str] = []
    repository = defs.get_repository_def()
    numbers, n_runs = itertools.count(1), sum(len(stage.runs) for stage in stages)
    with open_history() as instance:

        def do(planned: PlannedRun) -> Iterable[str]:
            click.echo(f"[{next(numbers)}/{n_runs}] {planned.title}")
            return execute(repository, instance, planned, config=settings)

        for done in carry_out(stages, do):
            if done.failed:
                raise click.ClickException(done.problem)
            if done.problem:
                at_chance.append(done.problem)
            click.echo(f"      {done.said} ({done.seconds:.1f} s)")
    _print_results(store, experiments)
    if at_chance:
        raise click.ClickException("\n\n".join(at_chance))


def _prepare(sessions: Mapping[Preparation, tuple[str, ...]]) -> Iterator[PlannedRun]:
    """Prepare sessions, all that follow each other in one run, which saves the start of others."""
    for each, there in sessions.items():
        yield from operators(there, each.space)
        yield from prepare(there, each, at_most=len(there))


def _sessions_there(source: Source, store: Store, prepared: Preparation) -> tuple[str, ...]:
    """Sessions of which the source has what they are prepared from, in order."""
    states = look_at_sessions(source, store, partitions.SESSIONS, prepared.space)
    return tuple(key for key in partitions.SESSIONS if key not in states["not on the source"])


def _url(resource: str) -> str:
    """What the definitions have bound a resource to."""
    return str((defs.resources or {})[resource].url)


def _print_results(store: Store, experiments: Mapping[str, type[Metrics]]) -> None:
    rows: list[dict[str, Any]] = []
    for name, step in experiments.items():
        for cohort in partitions.COHORTS:
            if (found := store.manifest(step.key(cohort))) is None:
                continue
            table = pd.read_parquet(store.folder(found.key) / METRICS_FILE).set_index("metric")
            rows.append(
                {"experiment": name, "cohort": cohort}
                | {
                    metric_label(metric): as_read(metric, table["value"].to_dict()[metric])
                    for metric in _SHOWN
                }
                | {f"chance of {metric_label(_SHOWN[0])}": table["chance"].to_dict()[_SHOWN[0]]}
            )
    click.echo(f"\nMeans over seeds:\n\n{to_markdown(pd.DataFrame(rows))}\n")
    page = store.folder(Report.key()) / PAGE_FILE
    click.echo(f"Figures and how the numbers came about:  {page}")
    click.echo("The same in the web UI:                  make ui")


if __name__ == "__main__":
    sys.exit(main())
