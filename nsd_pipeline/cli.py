"""The ``nsd`` command: NSD's terms of use, shown and accepted."""

import click

from nsd_pipeline.storage import terms


@click.group()
def main() -> None:
    """Prepare this machine for the Natural Scenes Dataset."""


@main.command("terms")
@click.option("--accept", is_flag=True, help="Record that you accept the terms.")
def show_terms(*, accept: bool) -> None:
    """Show NSD's terms of use, and whether you have accepted them on this machine."""
    click.echo(terms.TERMS_TEXT)
    acceptance = terms.accept() if accept else terms.accepted()
    if acceptance is None:
        click.echo("Not accepted yet. To accept them: nsd terms --accept")
    else:
        click.echo(f"Accepted by {acceptance.who} on {acceptance.when:%Y-%m-%d %H:%M} UTC.")
