"""``nsd status``: subjects and stages, what is there of them, and how it stands."""

import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nsd_pipeline.cli.console import (
    NsdCommand,
    json_option,
    make_console,
    print_json,
    size,
    the_source,
    the_store,
)
from nsd_pipeline.nsd.layout import SUBJECTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from nsd_pipeline.steps.overview import Artifact, Overview, StageOverview

_MARKS: Final = {
    "damaged": ("!", "red"),
    "cannot be made again": ("?", "magenta"),
    "stale": ("~", "yellow"),
    "other settings": ("*", "cyan"),
}
"""What stands behind a count if any of its artifacts stands so, the worst first."""
_WRONG: Final = ("damaged", "cannot be made again", "stale")
_NAME_WIDTH: Final = 30
_SUBJECT_WIDTH: Final = 8
_BESIDE: Final = _NAME_WIDTH + 24
"""Columns of the table that are no subject's: the name, what is joint, the size."""
_SHOWN: Final = 8
"""Names of artifacts that are listed for one reason; JSON has all of them."""


@click.command("status", cls=NsdCommand)
@click.option(
    "--subject",
    "subjects",
    type=click.Choice(SUBJECTS),
    multiple=True,
    help="Only of this subject; may be repeated.",
)
@click.option(
    "--experiment", "experiments", multiple=True, help="Only of this experiment; may be repeated."
)
@click.option("--no-source", is_flag=True, help="Do not ask the dataset whether files changed.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the page as HTML, too."
)
@json_option
def status(
    *,
    subjects: tuple[str, ...],
    experiments: tuple[str, ...],
    no_source: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Show what is there of every subject and stage.

    What is stale or damaged is named, with the reason. Ends with 1 if something that is there is
    damaged, stale, or could not be made again.
    """
    from nsd_pipeline.steps.every_step import known_steps
    from nsd_pipeline.steps.overview import look_at_store
    from nsd_pipeline.storage.snapshot import Snapshot

    snapshot = Snapshot(the_store())
    ask = None if no_source else the_source
    overview = look_at_store(snapshot, known_steps(), ask, subjects=subjects)
    if experiments:
        overview.stages = [each for each in overview.stages if each.experiment in experiments]
        if not overview.stages:
            raise click.UsageError(
                f"{snapshot.url} has nothing of the experiment {', '.join(experiments)}."
            )
    if html:
        page = make_console(record=True, file=io.StringIO(), width=120)
        _show(page, overview, subjects or SUBJECTS)
        html.write_text(page.export_html(), encoding="utf-8")
    if as_json:
        print_json(overview)
    else:
        _show(make_console(), overview, subjects or SUBJECTS)
    states = {artifact.state for stage in overview.stages for artifact in stage.artifacts}
    if states.intersection(_WRONG):
        raise click.exceptions.Exit(1)


def _show(console: "Console", overview: "Overview", subjects: Sequence[str]) -> None:
    total = size(sum(stage.n_bytes for stage in overview.stages))
    folder = Path(overview.store)
    free = ""
    if not overview.store.startswith("s3://"):
        free = f", {size(shutil.disk_usage(folder).free)} free" if folder.is_dir() else " (empty)"
    console.print(f"[bold]{overview.store}[/]: {total}{free}", soft_wrap=True)
    begun = {
        each.partition[:6]
        for stage in overview.stages
        for each in stage.artifacts
        if each.state != "missing"
    }
    shown = [subject for subject in subjects if subject in begun]
    # As many subjects beside each other as there is room for: no count is cut.
    listed, room = shown or subjects, max(1, (console.width - _BESIDE) // _SUBJECT_WIDTH)
    for start in range(0, len(listed), room):
        beside = listed[start : start + room]
        # What the subjects leave is for long names, such as those of experiments.
        spare = max(0, console.width - _BESIDE - len(beside) * _SUBJECT_WIDTH)
        console.print(_table(overview, beside, _NAME_WIDTH + spare))
    if shown and (rest := [subject for subject in subjects if subject not in shown]):
        console.print(f"Nothing yet of {', '.join(rest)}.")
    for stage in overview.stages:
        for state, why, members in _reasons(stage):
            mark, style = _MARKS[state]
            named = f": {_named(members)}" if any(members) else ""
            console.print(f"[{style}]{mark} {stage.name}: {state}[/]{named}", soft_wrap=True)
            if why:
                console.print(f"    {why}", markup=False, soft_wrap=True)
    not_seen = "".join(f"\n- {what}" for what in overview.not_looked_at)
    console.print(f"Not looked at:{not_seen}", markup=False, soft_wrap=True)


def _table(overview: "Overview", subjects: Sequence[str], name_width: int) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    used = {each.state for stage in overview.stages for each in stage.artifacts}
    marks = ", ".join(f"{mark} {state}" for state, (mark, _) in _MARKS.items() if state in used)
    table = Table(caption=marks, caption_justify="left", box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("there / possible, subject", overflow="fold", max_width=name_width)
    for subject in subjects:
        table.add_column(subject.removeprefix("subj"), justify="right", no_wrap=True)
    table.add_column("joint", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True, min_width=9)
    for stage in overview.stages:
        cells = [
            _cell([each for each in stage.artifacts if each.partition.startswith(subject)])
            for subject in subjects
        ]
        joint = [each for each in stage.artifacts if not each.partition.startswith(SUBJECTS)]
        table.add_row(
            stage.name, *cells, _cell(joint), size(stage.n_bytes) if stage.n_bytes else ""
        )
    return table


def _cell(artifacts: Sequence["Artifact"]) -> str:
    if not artifacts:
        return ""
    states = [each.state for each in artifacts]
    n_there = len(states) - states.count("missing")  # type: ignore[arg-type]
    text = f"{n_there}/{len(states)}"
    for state, (mark, style) in _MARKS.items():
        if state in states:
            return f"[{style}]{text}{mark}[/]"
    return f"[dim]{text}[/]" if not n_there else f"[green]{text}[/]"


def _reasons(stage: "StageOverview") -> Iterator[tuple[str, str, list[str]]]:
    """State, reason and partitions of what is not as it should be, the worst first.

    What is stale for one reason, in another file each, is told with the first one's.
    """
    reasons: dict[tuple[str, str], list[Artifact]] = {}
    for artifact in stage.artifacts:
        kind = artifact.why if artifact.state == "damaged" else artifact.why.partition(" (")[0]
        reasons.setdefault((artifact.state, kind), []).append(artifact)
    for state in _MARKS:
        for (other, _), members in reasons.items():
            if other == state:
                yield state, members[0].why, [each.partition for each in members]


def _named(members: Sequence[str]) -> str:
    more = len(members) - _SHOWN
    shown = ", ".join(filter(None, members[:_SHOWN]))
    return f"{shown} and {more} more" if more > 0 else shown
