"""``nsd plan``: what a selection would make, and what that takes, before anything starts."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

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
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd.layout import (
    DEFAULT_SPACE,
    EXPDESIGN_KEY,
    SUBJECTS,
    Space,
    betas_files,
    betas_folder,
    parse_session_key,
)
from nsd_pipeline.nsd.session_lists import sessions_of

if TYPE_CHECKING:
    from nsd_pipeline.nsd.design import ExperimentDesign
    from nsd_pipeline.steps.forecast import Forecast, Looked, Wanted
    from nsd_pipeline.steps.sessions import Preparation
    from nsd_pipeline.storage.source import Source
    from nsd_pipeline.storage.store import Store

_ALL = "all"
_AMOUNTS = ("fetched", "requests", "disk", "memory", "time")
_NAME_WIDTH = 19
_WIDE = 100


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments that say what is to be made; `choose` understands them."""
    for decorate in (
        click.argument(
            "cohorts",
            nargs=-1,
            required=True,
            metavar="COHORTS...",
            type=click.Choice([*SUBJECTS, _ALL]),
        ),
        click.option("--sessions", default=_ALL, show_default=True, help="Such as 1-10,15."),
        click.option(
            "--experiment",
            "experiments",
            multiple=True,
            help="Name of one, otherwise `default`; may be repeated.",
        ),
    ):
        command = decorate(command)
    return command


def choose(cohorts: Sequence[str], sessions: str, experiments: Sequence[str]) -> "Wanted":
    """Understand a selection; a UsageError if it names no session or experiment that there is."""
    from nsd_pipeline import partitions
    from nsd_pipeline.experiments import DEFAULT, chosen_file, read_experiments
    from nsd_pipeline.steps.forecast import Wanted
    from nsd_pipeline.steps.measurement import choose_experiments, metrics_steps

    known = metrics_steps(read_experiments(chosen_file()))
    try:
        chosen = choose_experiments(experiments or (DEFAULT,), known)
    except NsdError as error:
        raise click.UsageError(str(error)) from error
    own = all(each.model.experiment.training.train_on == "own" for each in chosen)
    wanted = {each for cohort in cohorts for each in partitions.subjects_of_cohort(cohort)}
    subjects = [subject for subject in SUBJECTS if subject in wanted or not own]
    try:
        keys = [key for subject in subjects for key in sessions_of(subject, sessions)]
    except ValueError as error:
        raise click.UsageError(f"--sessions: {error}.") from error
    if not keys:
        raise click.UsageError(f"NSD has no session {sessions} of {', '.join(subjects)}.")
    try:
        return Wanted(keys, cohorts, chosen)
    except NsdError as error:
        raise click.UsageError(str(error)) from error


@dataclass(frozen=True)
class Plan:
    """What is left of a selection, what that takes, and what there is room for."""

    store: str
    sessions: dict[str, int]
    steps: list["Forecast"]
    free_bytes: int | None


@click.command("plan", cls=NsdCommand)
@selecting
@json_option
def plan(
    *, cohorts: tuple[str, ...], sessions: str, experiments: tuple[str, ...], as_json: bool
) -> None:
    """Show what would be made for some subjects, and what it takes.

    Nothing is started. COHORTS are subjects (subj01 to subj08), or `all` for the joint model. Time
    and disk are those of this store's newest artifacts, or defaults where it has none. Ends with 1
    if the disk has too little room.
    """
    from nsd_pipeline.steps.forecast import forecast
    from nsd_pipeline.storage.snapshot import Snapshot

    wanted = choose(cohorts, sessions, experiments)
    source, store = the_source(), the_store()
    snapshot = Snapshot(store)
    looked = _look(source, snapshot, wanted)
    steps = forecast(snapshot, _read_design(store, source), wanted, looked, lambda: source)
    found = Plan(
        store=store.url,
        sessions={
            f"{state}{_of(each.prepared)}": len(keys)
            for each in looked
            for state, keys in each.states.by_state.items()
        },
        steps=steps,
        free_bytes=_free(store.url),
    )
    if as_json:
        print_json(found)
    else:
        _show(found)
    if _short(found):
        raise click.exceptions.Exit(1)


def _look(source: "Source", store: "Store", wanted: "Wanted") -> list["Looked"]:
    """How the sessions stand, for all that is prepared of them."""
    from nsd_pipeline.steps.forecast import Looked
    from nsd_pipeline.steps.sessions import look_at_sessions

    found = []
    for prepared in wanted.preparations:
        states = look_at_sessions(source, store, wanted.sessions, prepared.space)
        # Sessions are alike, and to ask for each takes some requests.
        files = _files(source, states.to_do[0], prepared.space) if states.to_do else []
        n_bytes = sum(source.describe(key).n_bytes for key in files)
        found.append(Looked(prepared, states, n_bytes))
    return found


def _files(source: "Source", session_key: str, space: Space | None) -> Sequence[str]:
    """Keys of the files that are fetched whole for a session; of fsaverage, it is ranges."""
    from nsd_pipeline.nsd.nsd_series import session_prefixes
    from nsd_pipeline.steps.series_files import BoldConfig

    subject, session = parse_session_key(session_key)
    if space == DEFAULT_SPACE:
        return []
    if space:
        there = set(source.list(f"{betas_folder(subject, space)}/"))
        formats = betas_files(subject, session, space).values()
        return next(keys for keys in formats if there.issuperset(keys))
    bold = BoldConfig()
    volumes, _ = session_prefixes(subject, session, bold.space)
    return [] if bold.derivatives else source.list(volumes)


def _of(prepared: "Preparation") -> str:
    if prepared.space == DEFAULT_SPACE:
        return ""
    return f" in {prepared.space}" if prepared.space else " of time series"


def _read_design(store: "Store", source: "Source") -> "ExperimentDesign":
    """Design in the store, or else from the source: one file of some hundred kB."""
    from nsd_pipeline.nsd.design import read_experiment_design
    from nsd_pipeline.steps.raw import Design
    from nsd_pipeline.storage.source import read_whole

    if store.manifest(Design.key()) is not None:
        return Design.read(store)
    with TemporaryDirectory() as folder:
        path = Path(folder) / Path(EXPDESIGN_KEY).name
        path.write_bytes(read_whole(source, source.describe(EXPDESIGN_KEY)))
        return read_experiment_design(path)


def _free(url: str) -> int | None:
    """Bytes free where a store's folder is, or will be; None for a bucket."""
    if url.startswith("s3://"):
        return None
    folder = next(each for each in (Path(url), *Path(url).parents) if each.is_dir())
    return shutil.disk_usage(folder).free


def _show(found: Plan) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = make_console()
    there = ", ".join(f"{count} {state}" for state, count in found.sessions.items())
    console.print(f"[bold]{found.store}[/]: sessions {there}", soft_wrap=True)
    if found.steps:
        table = Table(box=SIMPLE_HEAD, collapse_padding=True)
        table.add_column("to make", overflow="fold", min_width=_NAME_WIDTH)
        for name in ("number", *_AMOUNTS):
            # In a window of 80 columns, what matters less goes before anything is cut.
            if name != "requests" or console.width >= _WIDE:
                table.add_column(name, justify="right", no_wrap=True)
        table.add_column("time from", justify="right", overflow="fold")
        rows = [(each.step, str(each.artifacts), vars(each), each.basis) for each in found.steps]
        for step, number, amounts, basis in [*rows, ("in all", "", _total(found.steps), "")]:
            if step == "in all":
                table.add_section()
            cells = _amounts(amounts)
            if console.width < _WIDE:
                del cells[_AMOUNTS.index("requests")]
            table.add_row(step, number, *cells, basis)
        console.print(table)
    elif set(found.sessions) == {"not on the source"}:
        console.print("NSD_SOURCE has none of these sessions: there is nothing to make them from.")
    else:
        console.print("Nothing is left to be made.")
    if any(each.basis == "defaults" for each in found.steps):
        console.print(
            "Defaults: two CPU cores, DINOv2-giant, a line of 100 Mbit/s; a GPU embeds some hundred"
            " times as fast."
        )
    if found.free_bytes is not None and found.steps:
        room = "[red]too little room[/]" if _short(found) else "enough room"
        console.print(f"Disk: {size(found.free_bytes)} free, {room}.", soft_wrap=True)


def _short(found: Plan) -> bool:
    """Whether the disk has too little room."""
    needed = sum(each.disk_bytes for each in found.steps)
    return found.free_bytes is not None and needed > found.free_bytes


def _total(steps: Sequence["Forecast"]) -> dict[str, float]:
    total: dict[str, float] = {
        name: sum(getattr(each, name) for each in steps)
        for name in ("fetched_bytes", "requests", "disk_bytes", "seconds")
    }
    return total | {"memory_bytes": max(each.memory_bytes for each in steps)}


def _amounts(amounts: Mapping[str, float]) -> list[str]:
    """Cells of a table: what is fetched, in how many requests, disk, memory, time."""
    fetched = amounts["fetched_bytes"]
    return [
        size(fetched) if fetched else "",
        f"{amounts['requests']:,.0f}" if fetched else "",
        size(amounts["disk_bytes"]),
        size(amounts["memory_bytes"]),
        _time(amounts["seconds"]),
    ]


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
