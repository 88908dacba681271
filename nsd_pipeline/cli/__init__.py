"""The ``nsd`` command: what is there, what would be done, doing it, and whether all is well.

Nothing that Dagster's own command line does. Modules of commands import what is heavy in the
functions that need it: `nsd terms` and completion do not wait for Dagster.
"""

import atexit
import gc

import click

from nsd_pipeline.cli.carry_out import run
from nsd_pipeline.cli.check import check
from nsd_pipeline.cli.console import NsdGroup
from nsd_pipeline.cli.export import export
from nsd_pipeline.cli.machine import completion, prepare, show_terms
from nsd_pipeline.cli.plan import plan
from nsd_pipeline.cli.retrieve import retrieve
from nsd_pipeline.cli.status import status
from nsd_pipeline.cli.verify import prune, verify


@click.group(cls=NsdGroup)
@click.version_option(package_name="nsd_pipeline")
def main() -> None:
    """The Natural Scenes Dataset, from its bucket to a trained model.

    NSD_SOURCE names the dataset (its bucket, or the folder of a mirror), NSD_STORAGE the place of
    artifacts. A command ends with 0 if all is well, 1 if something is wrong or was not done, and 2
    if it was not understood.
    """
    # Python looks for garbage after each 700 new objects, and among all of them when it ends. There
    # is none: Dagster's are there to stay. It took 0.3 s of `nsd status`, and 0.4 s at the end.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)


_COMMANDS = (
    *(status, plan, run, retrieve, export),
    *(verify, prune, check, show_terms, prepare, completion),
)

for command in _COMMANDS:
    main.add_command(command)
