"""``nsd verify`` and ``nsd prune``: what is wrong in the store, and what nobody needs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from nsd_pipeline.cli.console import (
    NsdCommand,
    json_option,
    make_console,
    print_json,
    size,
    the_store,
)
from nsd_pipeline.nsd.layout import DEFAULT_SPACE, SPACES, Space

if TYPE_CHECKING:
    from nsd_pipeline.storage.snapshot import Snapshot
    from nsd_pipeline.storage.store import Store
    from nsd_pipeline.storage.verification import Finding

_SHOWN: Final = 12
"""Findings of one kind that are listed; JSON has all of them."""


@dataclass(frozen=True)
class Report:
    """What was looked at, and what was found."""

    store: str
    artifacts: int
    files: int
    n_bytes: int
    deep: bool
    seconds: float
    findings: list["Finding"]
    repaired: list[str]


@click.command("verify", cls=NsdCommand)
@click.option("--deep", is_flag=True, help="Read every file, and compare it with its checksum.")
@click.option(
    "--repair", is_flag=True, help="Mark damaged artifacts, so that the next run makes them again."
)
@json_option
def verify(*, deep: bool, repair: bool, as_json: bool) -> None:
    """Look whether every artifact is whole and up to date.

    Up to date is what was made from the artifacts that are there, by this code. Ends with 1 if an
    artifact is damaged.
    """
    from nsd_pipeline.steps.every_step import known_steps
    from nsd_pipeline.steps.overview import other_versions, superseded_images
    from nsd_pipeline.storage import verification
    from nsd_pipeline.storage.snapshot import Snapshot

    store = the_store()
    started = time.perf_counter()
    snapshot = Snapshot(store)
    findings, repaired = _damage(store, snapshot, deep=deep, repair=repair)
    findings += verification.other_inputs(snapshot) + other_versions(snapshot, known_steps())
    findings += verification.unnamed_files(snapshot) + superseded_images(snapshot)
    report = Report(
        store=snapshot.url,
        artifacts=len(snapshot.found),
        files=sum(len(each.files) for each in snapshot.manifests),
        n_bytes=sum(each.n_bytes for each in snapshot.manifests),
        deep=deep,
        seconds=round(time.perf_counter() - started, 3),
        findings=findings,
        repaired=repaired,
    )
    if as_json:
        print_json(report)
    else:
        _show(report)
    if any(each.kind is verification.Kind.DAMAGED for each in findings):
        raise click.exceptions.Exit(1)


def _damage(
    store: "Store", snapshot: "Snapshot", *, deep: bool, repair: bool
) -> tuple[list["Finding"], list[str]]:
    """What is damaged, and the keys of what was marked as such."""
    from nsd_pipeline.storage.verification import Finding, Kind, check_content, damaged

    findings, repaired = damaged(snapshot), []
    if deep:
        from tqdm import tqdm

        n_bytes = sum(each.n_bytes for each in snapshot.manifests)
        with tqdm(
            total=n_bytes,
            desc="reading",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,  # where standard error is no terminal
        ) as bar:
            for manifest, damage in check_content(snapshot, bar.update):
                step = "`nsd verify --deep --repair` marks it, and the next run makes it again."
                if repair and store.mark_damaged(manifest, damage):
                    step = "it is marked: the next run makes it again."
                    repaired.append(manifest.key)
                findings.append(Finding(Kind.DAMAGED, manifest.key, f"{damage}.", step))
    return findings, repaired


def _show(report: Report) -> None:
    console = make_console()
    how = "all read" if report.deep else "sizes only; --deep reads them"
    rate = f" ({size(report.n_bytes / report.seconds)}/s)" if report.deep else ""
    console.print(
        f"[bold]{report.store}[/]: {report.artifacts} artifacts, {report.files} files,"
        f" {size(report.n_bytes)} ({how}) in {report.seconds:.1f} s{rate}",
        soft_wrap=True,
    )
    for kind in dict.fromkeys(each.kind for each in report.findings):
        _show_kind(kind, [each for each in report.findings if each.kind is kind])
    if not report.artifacts:
        console.print("Nothing was made here. NSD_STORAGE names the folder or bucket of artifacts.")
    elif not report.findings:
        console.print("[green]All is well.[/]")


def _show_kind(kind: str, findings: Sequence["Finding"]) -> None:
    console = make_console()
    total = sum(each.n_bytes for each in findings)
    style = "red" if kind == "damaged" else "yellow"
    console.print(f"\n[{style}]{len(findings)} {kind}[/]{f', {size(total)}' if total else ''}")
    for each in findings[:_SHOWN]:
        console.print(f"  {each.key}: {each.what}", markup=False, soft_wrap=True)
    if len(findings) > _SHOWN:
        console.print(f"  and {len(findings) - _SHOWN} more (--json lists all)")
    for step in dict.fromkeys(each.next_step for each in findings if each.next_step):
        console.print(f"  Next step: {step}", markup=False, soft_wrap=True)


@click.command("prune", cls=NsdCommand)
@click.option("--experiment", "experiments", multiple=True, help="All artifacts of an experiment.")
@click.option(
    "--space",
    "spaces",
    multiple=True,
    type=click.Choice([space for space in SPACES if space != DEFAULT_SPACE]),
    help="All betas of a space that experiments named.",
)
@click.option("--yes", is_flag=True, help="Delete, instead of only showing what would go.")
@json_option
def prune(
    *, experiments: tuple[str, ...], spaces: tuple[Space, ...], yes: bool, as_json: bool
) -> None:
    """Delete what nobody needs, an experiment, or betas of a space.

    Nobody needs versions that a newer one superseded, and files that no manifest names. With
    --experiment: that experiment's models and metrics instead; with --space: the betas that
    experiments of that space share. Without --yes, this only shows what would go.
    """
    from nsd_pipeline.folders import EXPERIMENTS
    from nsd_pipeline.steps.overview import superseded_images
    from nsd_pipeline.steps.spaces import betas_step, surface_step
    from nsd_pipeline.storage.snapshot import Snapshot
    from nsd_pipeline.storage.verification import artifacts_below, take_away, unnamed_files

    store = the_store()
    snapshot = Snapshot(store)
    if named := (*experiments, *spaces):
        folders = [f"{EXPERIMENTS}/{name}" for name in experiments]
        folders += [step(space).folder() for space in spaces for step in (betas_step, surface_step)]
        findings = [each for folder in folders for each in artifacts_below(snapshot, folder)]
        if not findings:
            raise click.UsageError(f"{snapshot.url} has nothing of {', '.join(named)}.")
    else:
        findings = unnamed_files(snapshot) + superseded_images(snapshot)
    if yes:
        for finding in findings:
            take_away(store, finding)
    total = sum(each.n_bytes for each in findings)
    if as_json:
        print_json(
            {
                "store": snapshot.url,
                "deleted": yes,
                "n_bytes": total,
                "findings": [
                    {"kind": each.kind, "key": each.key, "what": each.what, "n_bytes": each.n_bytes}
                    for each in findings
                ],
            }
        )
        return
    for each in findings:
        click.echo(f"{each.kind}  {each.key}: {each.what}, {size(each.n_bytes)}")
    done = "deleted" if yes else "would go; --yes deletes them"
    click.echo(
        f"{len(findings)} in {snapshot.url}, {size(total)}: {done}."
        if findings
        else f"{snapshot.url} has nothing that could go: every file is needed."
    )
