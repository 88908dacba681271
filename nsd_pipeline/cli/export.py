"""``nsd export``: models, or what they retrieve, in files for other programs."""

from pathlib import Path

import click

from nsd_pipeline.cli.console import NsdCommand, json_option, print_json, size, the_store
from nsd_pipeline.nsd.layout import SUBJECTS

_FORMATS = ("hf", "onnx", "csv")  # once more: where `export` says it takes seconds to import


@click.command("export", cls=NsdCommand)
@click.option(
    "--subject",
    required=True,
    type=click.Choice([*SUBJECTS, "all"]),
    help="Whose models; `all` for the joint one.",
)
@click.option("--experiment", default="default", show_default=True, help="Which experiment's.")
@click.option(
    "--to",
    required=True,
    type=click.Choice(_FORMATS),
    help="Weights with a model card, networks, or the test trials' predictions.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write; an unchanged export in it is replaced.",
)
@json_option
def export(*, subject: str, experiment: str, to: str, output: Path, as_json: bool) -> None:
    """Write trained models, or what they retrieve, to a folder.

    For other programs. hf: weights, settings and a model card in Hugging Face's layout. onnx: a
    network for each seed. csv: what is retrieved for each test trial. Says first what NSD's terms
    let you pass on.
    """
    from nsd_pipeline.export import ModelToExport, may_be_passed_on, write_export

    model = ModelToExport.find(the_store(), subject, experiment)
    if not as_json:
        click.echo(may_be_passed_on(model, to))
    written = write_export(model, to, output)
    if as_json:
        print_json(written)
    else:
        total = size(sum(written.files.values()))
        click.echo(f"\n{written.folder}: {len(written.files)} files, {total}.")
