"""``nsd retrieve``: what a model retrieves for one trial, as a table and as a figure."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nsd_pipeline.cli.console import NsdCommand, json_option, make_console, print_json
from nsd_pipeline.errors import NotEnoughDataError, NsdError
from nsd_pipeline.experiments.entry import DEFAULT
from nsd_pipeline.nsd.layout import SUBJECTS, session_key

if TYPE_CHECKING:
    import xarray as xr

    from nsd_pipeline.artifacts import Artifacts, TrainedDecoder

_SUGGESTED = 5
"""Trials that are named to somebody who chose one that the model has learned from."""


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """One of the best candidates: its place from 1, and how much the estimate is like it."""

    place: int
    name: str
    similarity: float
    seen: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model retrieved for a trial; `seen_place` is None if the image is no candidate.

    `note` says so if the model learned from the image.
    """

    subject: str
    session: int
    trial: int
    image_id: int
    experiment: str
    among: str
    n_candidates: int
    seen_place: int | None
    retrieved: list[Retrieved]
    figure: str
    note: str


@click.command("retrieve", cls=NsdCommand)
@click.option(
    "--subject", required=True, type=click.Choice(SUBJECTS), help="Whose trial and model."
)
@click.option("--session", required=True, type=click.IntRange(1), help="From 1.")
@click.option(
    "--trial", required=True, type=click.IntRange(0), help="From 0, as in the tables of events."
)
@click.option(
    "-k",
    "n_top",
    default=10,
    show_default=True,
    type=click.IntRange(1, 100),
    help="How many images are shown.",
)
@click.option("--experiment", default=DEFAULT, show_default=True, help="Which experiment's model.")
@click.option(
    "--images",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Retrieve among the pictures of this folder, not among the test images.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Figure; by default retrieved_subj01_ses01_0.png, and so on, in the current folder.",
)
@json_option
def retrieve(
    *,
    subject: str,
    session: int,
    trial: int,
    n_top: int,
    experiment: str,
    folder: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show which images a model retrieves for a trial.

    In a table and a figure: among the test images at hand, or a folder's pictures. The image seen
    is marked if it is among them, and is not added. The estimate is the mean over the experiment's
    seeds; similarity is its cosine with the image's embedding. Photographs of NSD may not be passed
    on.
    """
    import nsd_pipeline as nsd
    from nsd_pipeline.storage.opening import DEFAULT_STORE

    of = "" if experiment == DEFAULT else f"_{experiment}"
    path = output or Path(f"retrieved_{session_key(subject, session)}_{trial}{of}.png")
    if not path.parent.is_dir():
        raise click.UsageError(f"--output: there is no folder {path.parent}.")
    store = nsd.open(os.environ.get("NSD_STORAGE", DEFAULT_STORE))
    decoder = store.decoder(subject, experiment)
    betas, note = _read_trial(store, decoder, session, trial)
    estimate = decoder.ensemble(betas)
    estimate /= float((estimate**2).sum()) ** 0.5
    candidates = None
    if folder:
        with _a_free_device() as device:
            candidates = decoder.embed(folder, device=device)
    # All of them, to say at which place the image seen is.
    ranked = decoder.retrieve(estimate, among=candidates, n_top=10**6)
    names = ranked["retrieved_picture" if folder else "retrieved_image_id"]
    rows = zip(ranked["place"], names, ranked["score"], ranked["seen"], strict=True)
    answer = Answer(
        subject=subject,
        session=session,
        trial=trial,
        image_id=int(betas.image_id.item()),
        experiment=experiment,
        among=f"pictures of {folder}" if folder else "test images",
        n_candidates=len(ranked),
        seen_place=next(iter(ranked.loc[ranked["seen"], "place"].tolist()), None),
        retrieved=[
            Retrieved(place=place, name=str(name), similarity=float(score), seen=bool(seen))
            for place, name, score, seen in list(rows)[:n_top]
        ],
        figure=str(path),
        note=note,
    )
    _draw(store, answer, folder, path)
    if as_json:
        print_json(answer)
    else:
        _show(answer)


def _read_trial(
    store: "Artifacts", decoder: "TrainedDecoder", session: int, trial: int
) -> "tuple[xr.DataArray, str]":
    """Betas (1, vertex) of a trial, and a note if the model has learned from its image."""
    from nsd_pipeline.decoding.choice import LEARNED

    if decoder.config.windowed:
        raise NsdError(
            f"The experiment {decoder.experiment} learned from time series, and this command reads"
            " betas.",
            next_step="name an experiment of betas.",
        )
    betas = store.betas(
        decoder.subject, str(session), zscore=decoder.config.zscore, space=decoder.space
    )
    key = session_key(decoder.subject, session)
    if not (betas.trial == trial).any():
        raise NotEnoughDataError(
            f"{key} has no trial {trial}: its trials are 0 to {int(betas.trial.max())}.",
            next_step="name one of these.",
        )
    learned = decoder.trials.loc[decoder.trials["split"].isin(LEARNED), "image_id"]
    unseen = betas[~betas.image_id.isin(learned)]
    note = ""
    if not (unseen.trial == trial).any():
        others = ", ".join(map(str, unseen.trial.to_numpy()[:_SUGGESTED])) or "none"
        note = (
            "The model learned from this image, so this says little of how well it retrieves."
            f" Trials of this session with images that are new to it: {others}."
        )
    return betas[betas.trial == trial], note


@contextmanager
def _a_free_device() -> Iterator[str | None]:
    """A GPU that no run holds, for torch; the CPU if all are busy."""
    from nsd_pipeline.launchers.devices import leased_device

    with ExitStack() as held:
        try:
            device = held.enter_context(leased_device(timeout=0))
        except NsdError:
            device = "cpu"
        yield device


def _draw(store: "Artifacts", answer: Answer, folder: Path | None, path: Path) -> None:
    from nsd_pipeline.embeddings.own_pictures import read_picture
    from nsd_pipeline.report import Found, trial_gallery
    from nsd_pipeline.storage.disk import replacing

    names = [each.name for each in answer.retrieved]
    seen, *images = store.images([answer.image_id, *([] if folder else map(int, names))])
    if folder:
        images = [read_picture(folder / name) for name in names]
    found = [
        Found(image, each.similarity, each.seen)
        for image, each in zip(images, answer.retrieved, strict=True)
    ]
    title = (
        f"{answer.subject}, session {answer.session}, trial {answer.trial}: seen, and retrieved by"
        f" {answer.experiment}"
    )
    with replacing(path) as partial:
        partial.write_bytes(trial_gallery(title, seen, found).png)


def _show(answer: Answer) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    console = make_console()
    console.print(
        f"[bold]{answer.subject}[/], session {answer.session}, trial {answer.trial}: image"
        f" {answer.image_id} was seen",
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("place", justify="right")
    table.add_column("picture" if "pictures" in answer.among else "image")
    table.add_column("similarity", justify="right")
    table.add_column("")
    for each in answer.retrieved:
        row = (
            str(each.place),
            escape(each.name),
            f"{each.similarity:.3f}",
            "seen" if each.seen else "",
        )
        table.add_row(*row, style="green" if each.seen else "")
    console.print(table)
    where = (
        "not among them, and is not added"
        if answer.seen_place is None
        else f"at place {answer.seen_place}"
    )
    console.print(
        f"Of {answer.n_candidates} {answer.among}; the image seen is {where}.", markup=False
    )
    if answer.note:
        console.print(answer.note, style="yellow")
    console.print(answer.figure, markup=False, soft_wrap=True)
