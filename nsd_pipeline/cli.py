"""The ``nsd`` command: NSD's terms of use, and the folder for Dagster's history."""

import click

from nsd_pipeline.errors import NsdError
from nsd_pipeline.storage import terms


@click.group()
def main() -> None:
    """Prepare this machine for the Natural Scenes Dataset."""


@main.command("terms")
@click.option("--accept", is_flag=True, help="Record that you accept the terms.")
def show_terms(*, accept: bool) -> None:
    """Show NSD's terms of use, and whether you have accepted them on this machine."""
    click.echo(terms.TERMS_TEXT)
    try:
        acceptance = terms.accept() if accept else terms.accepted()
    except NsdError as error:
        raise click.ClickException(str(error)) from error
    if acceptance is None:
        click.echo("Not accepted yet. To accept them: nsd terms --accept")
    else:
        click.echo(f"Accepted by {acceptance.who} on {acceptance.when:%Y-%m-%d %H:%M} UTC.")


@main.command("prepare")
def prepare() -> None:
    """Create the history of runs in DAGSTER_HOME.

    Once for a new folder, before several shells use it: Dagster's own commands would create it all
    at once, and spoil it.
    """
    from nsd_pipeline.history import open_history  # Dagster takes a second to import

    try:
        with open_history() as instance:
            click.echo(f"The history of runs in {instance.root_directory} is ready.")
    except NsdError as error:
        raise click.ClickException(str(error)) from error
