"""Command line: ``python -m nsd_pipeline.demo FOLDER`` writes a demo dataset and its encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nsd_pipeline.demo import DemoSettings, generate, write_tiny_encoder
from nsd_pipeline.demo.experiment import SIGNALS
from nsd_pipeline.demo.made_files import DERIVATIVES, RAW
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd.layout import FUNCTIONAL_SPACES, SPACES

_NONE = "none"


_Command = Callable[..., None]


def _option(
    name: str, flag: str = "", help_more: str = "", **options: Any
) -> Callable[[_Command], _Command]:
    """Command line option of a setting."""
    setting = DemoSettings.model_fields[name]
    return click.option(
        flag or f"--{name.replace('_', '-')}",
        name,
        default=setting.default,
        show_default=setting.default != (),
        help=f"{setting.description}{help_more}",
        **options,
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@_option("subjects")
@_option("sessions")
@_option("trials_per_run")
@_option("signal", type=click.Choice(SIGNALS))
@_option("strength")
@_option(
    "spaces",
    "--space",
    f" May be repeated. '{_NONE}' for fsaverage alone.",
    multiple=True,
    type=click.Choice([*(space for space in SPACES if space != "fsaverage"), _NONE]),
)
@_option("hdf5", "", " May be repeated.", multiple=True, type=click.Choice(FUNCTIONAL_SPACES))
@_option("seed")
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
