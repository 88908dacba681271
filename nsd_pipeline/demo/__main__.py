"""Command line: ``python -m nsd_pipeline.demo FOLDER`` writes a demo dataset and its encoder."""

from pathlib import Path
from typing import Any

import click

from nsd_pipeline.demo import generate, write_tiny_encoder
from nsd_pipeline.demo.experiment import DEFAULT_SPACES, SIGNALS
from nsd_pipeline.demo.made_files import DERIVATIVES, RAW
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd.layout import FUNCTIONAL_SPACES, SPACES

_NONE = "none"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--subjects", default=2, show_default=True, help="Subjects, from subj01.")
@click.option(
    "--sessions",
    default=4,
    show_default=True,
    help="Sessions of subj01; each further subject has one less.",
)
@click.option(
    "--trials-per-run",
    default=9,
    show_default=True,
    help="Trials in odd runs; even runs have one less.",
)
@click.option(
    "--signal",
    type=click.Choice(SIGNALS),
    default="betas",
    show_default=True,
    help="How the brain's responses are written: as betas, or as time series (bold) beside them, in"
    " a raw BIDS tree and derivatives on fsaverage5.",
)
@click.option(
    "--strength",
    default=1.0,
    show_default=True,
    help="How strongly the brain responds to images; 0 for not at all.",
)
@click.option(
    "--space",
    "spaces",
    multiple=True,
    type=click.Choice([*(space for space in SPACES if space != "fsaverage"), _NONE]),
    default=DEFAULT_SPACES,
    show_default=True,
    help=f"Write first sessions in this space too; may be repeated. '{_NONE}' for fsaverage alone.",
)
@click.option(
    "--hdf5",
    multiple=True,
    type=click.Choice(FUNCTIONAL_SPACES),
    help="Write this functional space as HDF5 beside NIfTI; may be repeated.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
def main(folder: Path, spaces: tuple[str, ...], **options: Any) -> None:
    """Write a small dataset in NSD's layout to FOLDER/nsd, and an encoder to FOLDER/tiny_dinov2."""
    try:
        spaces = tuple(space for space in spaces if space != _NONE)
        dataset = generate(folder / "nsd", spaces=spaces, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except NsdError as error:
        raise click.ClickException(str(error)) from error
    encoder = write_tiny_encoder(folder / "tiny_dinov2")
    sessions_text = ", ".join(f"{subject} {n}" for subject, n in dataset.sessions.items())
    click.echo(
        f"{'Wrote' if dataset.created else 'Nothing to do: already there is'} the dataset "
        f"{dataset.folder} (sessions: {sessions_text}; {len(dataset.image_ids)} images, "
        f"{len(dataset.shared_image_ids)} of them shared).\n"
        f"Use it:  export NSD_SOURCE={dataset.folder.absolute()}\n"
        f"Encoder: {encoder.absolute()}"
    )
    if dataset.settings.signal == "bold":
        click.echo(
            f"Time series:  export NSD_BIDS_DERIVATIVES={(dataset.folder / DERIVATIVES).absolute()}"
            f" NSD_BIDS_RAW={(dataset.folder / RAW).absolute()}"
        )


if __name__ == "__main__":
    main()
