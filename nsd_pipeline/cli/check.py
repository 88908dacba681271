"""``nsd check``: what is known of the real data, held against a bucket or a mirror."""

import click

from nsd_pipeline.cli.console import NsdCommand, json_option, make_console, print_json, the_source
from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd.layout import GENERATED_KEY, SUBJECTS

_MARKS = {True: ("green", "ok"), False: ("red", "NO"), None: ("dim", "--")}


@click.command("check", cls=NsdCommand)
@click.option(
    "--subject",
    "subjects",
    type=click.Choice(SUBJECTS),
    multiple=True,
    help="Only of this subject; may be repeated.",
)
@json_option
def check(*, subjects: tuple[str, ...], as_json: bool) -> None:
    """Compare the dataset with what is known of the real one.

    NSD_SOURCE names the dataset. File sizes, headers, trial counts, images seen, the median noise
    ceilings. Reads some megabytes. Ends with 1 if something differs.
    """
    from nsd_pipeline.nsd.known_facts import check_facts

    source = the_source()
    if GENERATED_KEY in source.list(GENERATED_KEY):
        raise NsdError(
            f"{source.url} is generated: what is known of the real dataset is not true of it.",
            next_step="set NSD_SOURCE to NSD's bucket, or to a mirror of it.",
        )
    console = make_console()
    facts = []
    for fact in check_facts(source, subjects or SUBJECTS):
        facts.append(fact)
        if not as_json:
            style, mark = _MARKS[fact.holds]
            expected = "" if fact.holds else f" (expected: {fact.expected})"
            console.print(
                f"[{style}]{mark}[/]  {fact.name}: {fact.found}{expected}", soft_wrap=True
            )
    if as_json:
        print_json([vars(fact) for fact in facts])
    wrong, unknown = (sum(fact.holds is value for fact in facts) for value in (False, None))
    if not as_json:
        console.print(
            f"{source.url}: {len(facts) - wrong - unknown} as known, {wrong} not,"
            f" {unknown} could not be looked at.",
            soft_wrap=True,
        )
    if wrong or unknown == len(facts):
        raise click.exceptions.Exit(1)
