"""``nsd run``: a selection to the end, one recorded run after the other in this process."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Never

import click

from nsd_pipeline.cli.console import NsdCommand, json_option, print_json, the_source, the_store
from nsd_pipeline.cli.plan import choose, selecting
from nsd_pipeline.errors import NsdError

if TYPE_CHECKING:
    from nsd_pipeline.planned_runs import Done, PlannedRun, Stage
    from nsd_pipeline.steps.forecast import Wanted
    from nsd_pipeline.storage.source import Source
    from nsd_pipeline.storage.store import Store


@click.command("run", cls=NsdCommand)
@selecting
@json_option
def run(
    *, cohorts: tuple[str, ...], sessions: str, experiments: tuple[str, ...], as_json: bool
) -> None:
    """Make what is left for some subjects, from betas to the report.

    COHORTS are subjects (subj01 to subj08), or `all` for the joint model; `nsd plan` says
    beforehand what that takes. Runs are recorded in DAGSTER_HOME, as any others, and wait for a
    free GPU. A session or model that fails does not stop the others. Ends with 1 if anything
    failed, or a model is no better than guessing.
    """
    wanted = choose(cohorts, sessions, experiments)
    store = the_store()
    source = the_source()
    try:
        done = _do(wanted, source, store, quiet=as_json)
    except BaseException as error:
        if not _is_interruption(error):
            raise
        raise NsdError(
            "The command was interrupted; what it had finished is kept.",
            next_step="give the same command again: it goes on where it was.",
        ) from error
    problems = {each.planned.title: each.problem for each in done if each.problem}
    if as_json:
        runs = [
            {"run": each.planned.title, "said": each.said, "seconds": round(each.seconds, 1)}
            for each in done
        ]
        print_json({"runs": runs, "problems": problems})
    elif problems:
        told = (f"{name}: {problem}" for name, problem in problems.items())
        raise click.ClickException("\n\n".join(told))
    else:
        said = Counter(each.said for each in done)
        for what, count in said.items():
            click.echo(f"{count} run{'s' * (count > 1)}: {what}.")
        from nsd_pipeline.steps.report import PAGE_FILE, Report

        click.echo(f"The report: {store.url}/{Report.made(store).location}/{PAGE_FILE}")
    if problems:
        raise click.exceptions.Exit(1)


def _is_interruption(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C: Dagster has an error of its own for that."""
    import dagster as dg

    return isinstance(error, (KeyboardInterrupt, dg.DagsterExecutionInterruptedError))


def _do(wanted: "Wanted", source: "Source", store: "Store", *, quiet: bool) -> "list[Done]":
    from nsd_pipeline.definitions import defs
    from nsd_pipeline.history import open_history
    from nsd_pipeline.planned_runs import execute, to_the_end

    stages = to_the_end(wanted, source, store, preparations=wanted.preparations)
    with open_history() as instance:
        return _show(stages, partial(execute, defs.get_repository_def(), instance), quiet=quiet)


def _show(
    stages: "Iterable[Stage]", do: "Callable[[PlannedRun], Iterable[str]]", *, quiet: bool
) -> "list[Done]":
    """Carry out stages, with a bar for each on standard error; lines where that is no terminal."""
    from tqdm import tqdm

    from nsd_pipeline.planned_runs import carry_out

    lines = not quiet and not sys.stderr.isatty()
    found: list[Done] = []
    with ExitStack() as shown:

        def begun() -> "Iterator[Stage]":
            for stage in stages:
                shown.close()  # the bar of the stage before
                if stage.note and not quiet:
                    click.echo(f"{stage.name}: {stage.note}", err=True)
                # Of tqdm, as the bars of downloads and embeddings are, which then stand below it.
                hidden = quiet or lines or not stage.runs
                bar = tqdm(total=len(stage.runs), desc=stage.name, unit="run", disable=hidden)
                shown.callback(bar.close)
                bars[:] = [bar]
                yield stage

        bars: list[tqdm[Never]] = []
        for done in carry_out(begun(), do):
            found.append(done)
            bars[0].update()
            if lines:
                n_done = sum(each.stage is done.stage for each in found)
                click.echo(f"{done.stage.name}: {n_done}/{len(done.stage.runs)}", err=True)
    return found
