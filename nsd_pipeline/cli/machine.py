"""Commands that prepare this machine: NSD's terms, the history of runs, completion in the shell."""

import click
from click.shell_completion import get_completion_class

from nsd_pipeline.cli.console import NsdCommand, json_option, print_json
from nsd_pipeline.storage import terms


@click.command("terms", cls=NsdCommand)
@click.option("--accept", is_flag=True, help="Record that you accept the terms.")
@json_option
def show_terms(*, accept: bool, as_json: bool) -> None:
    """Show NSD's terms of use, and whether you accepted them here."""
    if not as_json:
        click.echo(terms.TERMS_TEXT)
    acceptance = terms.accept() if accept else terms.accepted()
    if as_json:
        who, when = (acceptance.who, acceptance.when.isoformat()) if acceptance else (None, None)
        print_json({"url": terms.TERMS_URL, "accepted_by": who, "accepted_at": when})
    elif acceptance is None:
        click.echo("Not accepted yet. To accept them: nsd terms --accept")
    else:
        click.echo(f"Accepted by {acceptance.who} on {acceptance.when:%Y-%m-%d %H:%M} UTC.")


@click.command("prepare", cls=NsdCommand)
@json_option
def prepare(*, as_json: bool) -> None:
    """Create the history of runs in DAGSTER_HOME.

    Once for a new folder, before several shells use it: Dagster's own commands would create it all
    at once, and spoil it.
    """
    from nsd_pipeline.history import open_history  # Dagster takes a second to import

    with open_history() as instance:
        if as_json:
            print_json({"history": instance.root_directory})
        else:
            click.echo(f"The history of runs in {instance.root_directory} is ready.")


@click.command("completion", cls=NsdCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete this command.

    For bash: eval "$(nsd completion bash)", in ~/.bashrc.
    """
    script = get_completion_class(shell)
    assert script is not None  # noqa: S101, these three are click's own
    root = click.get_current_context().find_root().command
    click.echo(script(root, {}, "nsd", "_NSD_COMPLETE").source())
