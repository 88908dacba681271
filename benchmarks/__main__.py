"""Command line: ``python -m benchmarks [--quick] [--row NAME ...]``."""

import json
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from benchmarks import report
from benchmarks.harness import Row, RowResult, run_row

_FAMILIES: Final = (
    "surface",
    "artifacts",
    "spaces",
    "transfer",
    "embeddings",
    "training",
    "streaming",
    "ridge",
    "metrics",
    "experiments_report",
    "graph",
    "startup",
    "jobs",
)


def all_rows() -> dict[str, Row]:
    """Every row by its name, in the order of the table."""
    modules = (import_module(f"benchmarks.{family}") for family in _FAMILIES)
    return {row.name: row for module in modules for row in module.ROWS}


@click.command(context_settings={"show_default": True})
@click.option("--quick", is_flag=True, help="Small inputs and few repetitions: does it run?")
@click.option("--row", "names", multiple=True, metavar="NAME", help="Only this row. Repeatable.")
@click.option("--list", "list_rows", is_flag=True, help="Name the rows and exit.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build/bench"),
    help="Where benchmarks.json and benchmarks.md go; inputs lie below it meanwhile.",
)
def main(quick: bool, names: tuple[str, ...], list_rows: bool, folder: Path) -> None:
    """Measure every stage against a named alternative on the same inputs."""
    rows = all_rows()
    if list_rows:
        for row in rows.values():
            click.echo(f"{row.name:24} {row.title}")
        return
    if unknown := sorted(set(names) - rows.keys()):
        raise click.BadParameter(
            f"there is no row {', '.join(unknown)}; there are {', '.join(rows)}"
        )
    described = report.machine()
    folder.mkdir(parents=True, exist_ok=True)
    # Absolute: some sides are commands that run elsewhere, and DAGSTER_HOME has to be.
    inputs = Path(tempfile.mkdtemp(prefix="inputs_", dir=folder.absolute()))
    results: list[RowResult] = []
    try:
        for row in rows.values():
            if not names or row.name in names:
                results.append(_run(row, inputs, quick=quick))
                _write(folder, results, described, quick=quick)
    finally:
        shutil.rmtree(inputs)
    click.echo(f"\nWritten to {folder / 'benchmarks.md'} and {folder / 'benchmarks.json'}.")
    if failed := [result.row.name for result in results if result.error]:
        raise click.ClickException(f"not measured: {', '.join(failed)}")


def _run(row: Row, inputs: Path, *, quick: bool) -> RowResult:
    start = time.perf_counter()
    click.secho(f"\n{row.title} [{row.name}]", bold=True)
    result = run_row(row, inputs, quick=quick)
    if result.error:
        click.secho(result.error, fg="red")
    for _, name, seconds, cpu, memory, facts in report.side_cells(result):
        click.echo(f"  {name:36} {seconds:24} {cpu:>10} {memory:>9}  {facts}")
    if result.sides:
        for _, what, value, target, verdict in report.bar_cells(result):
            color = None if quick else {"yes": "green", "no": "red"}.get(verdict)
            click.secho(f"  {value} {what} (to reach: {target})", fg=color)
    click.echo(f"  took {time.perf_counter() - start:.0f} s")
    return result


def _write(
    folder: Path, results: list[RowResult], described: dict[str, str], *, quick: bool
) -> None:
    """Write after every row: what has been measured survives an interruption."""
    content = report.to_json(results, described, quick=quick)
    (folder / "benchmarks.json").write_text(json.dumps(content, indent=2) + "\n")
    page = report.to_markdown(results, described, quick=quick)
    (folder / "benchmarks.md").write_text(page)


if __name__ == "__main__":
    sys.exit(main())
