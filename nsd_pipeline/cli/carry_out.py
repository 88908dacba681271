"""``nsd run``: a selection to the end, one recorded run after the other in this process."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from nsd_pipeline.cli.console import NsdCommand, json_option, print_json, the_source, the_store
from nsd_pipeline.cli.plan import choose, selecting

if TYPE_CHECKING:
    import dagster as dg

    from nsd_pipeline.planned_runs import PlannedRun
    from nsd_pipeline.steps.forecast import Wanted
    from nsd_pipeline.steps.sessions import Preparation
    from nsd_pipeline.storage.source import Source
    from nsd_pipeline.storage.store import Store

Advance = Callable[[], object]


@dataclass
class Outcome:
    """What was done, run by run, and what went wrong, in words, by what it is about."""

    runs: list[dict[str, object]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


@click.command("run", cls=NsdCommand)
@selecting
@json_option
def run(
    *, cohorts: tuple[str, ...], sessions: str, experiments: tuple[str, ...], as_json: bool
) -> None:
    """Make what is left for some subjects: sessions, embeddings, models, metrics, the report.

    COHORTS are subjects, or `all` for the joint model; `nsd plan` says beforehand what that takes.
    Runs are recorded in DAGSTER_HOME, as any others, and wait for a free GPU. A session that fails
    does not stop the others. Ends with 1 if anything failed, or a model is no better than guessing.
    """
    wanted = choose(cohorts, sessions, experiments)
    outcome = _do(wanted, the_source(), the_store(), quiet=as_json)
    if as_json:
        print_json(outcome)
    elif outcome.problems:
        told = (f"{name}: {problem}" for name, problem in outcome.problems.items())
        raise click.ClickException("\n\n".join(told))
    else:
        said = Counter(str(each["said"]) for each in outcome.runs)
        click.echo("; ".join(f"{count} runs: {what}" for what, count in said.items()) + ".")
    if outcome.problems:
        raise click.exceptions.Exit(1)


def _do(wanted: "Wanted", source: "Source", store: "Store", *, quiet: bool) -> Outcome:
    import dagster as dg

    from nsd_pipeline import planned_runs
    from nsd_pipeline.checks import AtChance
    from nsd_pipeline.definitions import defs
    from nsd_pipeline.history import open_history

    outcome, repository = Outcome(), defs.get_repository_def()

    def carry_out(instance: "dg.DagsterInstance", planned: "PlannedRun") -> bool:
        """Do one run; whether what comes after it can be done."""
        started, said = time.perf_counter(), ""
        try:
            made = planned_runs.execute(repository, instance, planned)
            said = ", ".join(dict.fromkeys(made.values()))
        except AtChance as found:  # it is made all the same
            said = "made, but at chance"
            outcome.problems[planned.title] = str(found.description)
        except dg.Failure as failure:
            outcome.problems[planned.title] = str(failure.description)
        seconds = round(time.perf_counter() - started, 1)
        outcome.runs.append({"run": planned.title, "said": said or "failed", "seconds": seconds})
        return bool(said)

    with open_history() as instance, _bars(quiet=quiet) as bar:
        with bar("experiment_design", 1) as advance:
            designed = carry_out(instance, planned_runs.DESIGN)
            advance()
        if not designed:
            return outcome
        for prepared, to_do in _sessions_to_do(wanted, source, store):
            runs = [*planned_runs.prepare(to_do, prepared, at_most=1)]
            with bar(prepared.name, len(runs)) as advance:
                for planned in runs:
                    carry_out(instance, planned)
                    advance()
        embedding = [*planned_runs.embed(wanted.subjects, wanted.experiments)]
        decoding = [*planned_runs.decode(wanted.cohorts, wanted.experiments)]
        for name, runs in (("images", embedding), ("models", decoding)):
            with bar(name, len(runs)) as advance:
                for planned in runs:
                    if not carry_out(instance, planned):
                        return outcome
                    advance()
    return outcome


def _sessions_to_do(
    wanted: "Wanted", source: "Source", store: "Store"
) -> Iterator[tuple["Preparation", Sequence[str]]]:
    """What the experiments learn from, and the sessions of it that are left."""
    from nsd_pipeline.steps.series_files import BoldConfig
    from nsd_pipeline.steps.sessions import look_at_sessions

    bold = BoldConfig()
    for prepared in wanted.preparations:
        if prepared.space:
            states = look_at_sessions(source, store, wanted.sessions, prepared.space)
            yield prepared, states.to_do
        else:
            yield prepared, [key for key in wanted.sessions if bold.has_session(source, key)]


@contextmanager
def _bars(*, quiet: bool) -> Iterator[Callable[[str, int], AbstractContextManager[Advance]]]:
    """Progress bars on standard error, one for each stage; lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    lines = not quiet and not console.is_terminal

    with Progress(*columns, console=console, disable=quiet or lines) as progress:

        @contextmanager
        def bar(name: str, total: int) -> Iterator[Advance]:
            task, done = progress.add_task(name, total=total), 0

            def advance() -> None:
                nonlocal done
                done += 1
                progress.advance(task)
                if lines:
                    click.echo(f"{name}: {done}/{total}", err=True)

            yield advance

        yield bar
