"""What all commands share: errors in one screen, JSON, tables, and where store and source are."""

import json
import os
import shutil
import sys
import traceback
from dataclasses import asdict, is_dataclass
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any

import click

from nsd_pipeline.errors import UnexpectedError, explain

if TYPE_CHECKING:
    from rich.console import Console

    from nsd_pipeline.storage.source import Source
    from nsd_pipeline.storage.store import Store

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class NsdCommand(click.Command):
    """A command whose errors are one screen: what is wrong, where, and the next step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--debug"], is_flag=True, help="Show the stack trace of an error.")
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours or of anybody ends it with 1."""
        debug, as_json = ctx.params.pop("debug"), bool(ctx.params.get("as_json"))
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if debug:
                traceback.print_exception(error)
            fail(error, as_json=as_json)


class NsdGroup(click.Group):
    """A group of such commands."""

    command_class = NsdCommand


def fail(error: Exception, *, as_json: bool = False) -> None:
    """End the command with 1 and an error in words."""
    explained = explain(error)
    if as_json:
        problem = {"problem": explained.problem, "next_step": explained.next_step}
        print_json({"error": problem})
        raise click.exceptions.Exit(1)
    text = str(explained)
    if explained.remake is not None:
        from nsd_pipeline.steps.running import in_words  # it takes a second to import

        text = in_words(explained)
    if isinstance(explained, UnexpectedError):
        text += "\nThe same command with --debug shows the stack trace."
    if sys.stderr.isatty():
        # A terminal would go on in the middle of a word. "Error: " comes before it.
        fill = TextWrapper(
            shutil.get_terminal_size().columns - 7, break_long_words=False, break_on_hyphens=False
        ).fill
        text = "\n".join(fill(line) for line in text.splitlines())
    raise click.ClickException(text)


def print_json(content: Any) -> None:
    """Print a dataclass, or what JSON can hold."""
    content = (
        asdict(content) if is_dataclass(content) and not isinstance(content, type) else content
    )
    click.echo(json.dumps(content, indent=2, default=str))


def make_console(**options: Any) -> "Console":
    """Console on standard output: colours in a terminal, and plain, wide enough text elsewhere."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False, **options)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console


def size(n_bytes: float) -> str:
    """A number of bytes for people, in units of 1000."""
    from rich.filesize import decimal

    return decimal(round(n_bytes))


def the_store() -> "Store":
    """Store that NSD_STORAGE names."""
    from nsd_pipeline.storage.opening import DEFAULT_STORE, open_store

    return open_store(os.environ.get("NSD_STORAGE", DEFAULT_STORE))


def the_source() -> "Source":
    """Dataset that NSD_SOURCE names; a TermsNotAcceptedError if its terms are not accepted."""
    from nsd_pipeline.resources import SourceResource
    from nsd_pipeline.storage.source import DEFAULT_URL

    return SourceResource(url=os.environ.get("NSD_SOURCE", DEFAULT_URL)).open()
