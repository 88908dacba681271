"""Checks and measures the GPU of this machine: ``python -m benchmarks.gpu_check``.

Needs torch, transformers and what the package imports for training; no network, no data, one card.
First what a GPU computes is compared with the CPU's results, then the times are taken. The page is
written after every line, so that what was found survives an interruption.
"""

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import torch
import transformers

from benchmarks import gpu_same, gpu_speed
from benchmarks.gpu_inputs import SMALL_SIZES, Line, Lines, Sizes, random_encoder


@click.command(context_settings={"show_default": True})
@click.option("--small", is_flag=True, help="Small inputs: does it run? Bars do not apply.")
@click.option("--device", default="cuda", help="cpu tries the check itself, not a card.")
@click.option("--minutes", default=8.0, help="What is not begun by then is left out.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    default=Path("build/gpu.md"),
    help="Where the table goes.",
)
def main(small: bool, device: str, minutes: float, page: Path) -> None:
    """Compare what a GPU computes with the CPU, and measure how fast it is."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no GPU here that torch can use.")
    end = time.monotonic() + 60 * minutes
    sizes, place = SMALL_SIZES if small else Sizes(), torch.device(device)
    found: list[Line] = []
    page.parent.mkdir(parents=True, exist_ok=True)
    for line in _lines(sizes, place, end):
        found.append(line)
        click.echo(" | ".join(_cells(line)))
        page.write_text(_page(found, place, small=small))
    if bad := [line.what for line in found if line.ok is False]:
        raise click.ClickException(f"not as it should be: {'; '.join(bad)}")


def _lines(sizes: Sizes, device: torch.device, end: float) -> Lines:
    """Lines of every section; one that fails is a line of its own."""
    # So that what float32 means does not depend on the machine's settings.
    torch.set_float32_matmul_precision("highest")
    yield from _section("batches", end, lambda: gpu_same.batches(sizes, device))
    yield from _section("trainings", end, lambda: gpu_same.trainings(sizes, device))
    yield from _section("several cards", end, lambda: gpu_same.processes(sizes, device))
    with random_encoder(sizes, device) as folder:
        yield from _section("encoder", end, lambda: gpu_same.encoder(sizes, device, folder))
        yield from _section("its speed", end, lambda: gpu_speed.encoder(sizes, device, folder))
    yield from _section("epochs", end, lambda: gpu_speed.epochs(sizes, device))
    yield from _section("seeds", end, lambda: gpu_speed.seeds(sizes, device))
    yield from _section("a subject", end, lambda: gpu_speed.subject(sizes, device))


def _section(name: str, end: float, lines: Callable[[], Lines]) -> Lines:
    start = time.monotonic()
    if start > end:
        yield Line(name, "not run: no time was left")
        return
    try:
        yield from lines()
    except Exception as error:  # what else there is can still be measured
        traceback.print_exc()
        yield Line(name, f"failed: {error!r}", "no failure", False)
    click.echo(f"[{name} took {time.monotonic() - start:.0f} s]", err=True)


def _page(found: Sequence[Line], device: torch.device, *, small: bool) -> str:
    card = "no card: the CPU backend"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        card = f"{torch.cuda.get_device_name(device)}, {memory / 2**30:.0f} GiB"
    about = {
        "card": card,
        "host": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "libraries": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    if small:
        about["sizes"] = "small: times say nothing"
    return "\n".join(
        [
            "# The check of a GPU\n",
            "Written by `make gpu-check` from random numbers in the shapes of NSD.\n",
            *(f"- {name}: {text}" for name, text in about.items()),
            "\n| | found | to reach | |\n|---|---|---|---|",
            *(f"| {' | '.join(_cells(line))} |" for line in found),
            "",
        ]
    )


def _cells(line: Line) -> tuple[str, str, str, str]:
    return line.what, line.found, line.wanted, {None: "", True: "yes", False: "no"}[line.ok]


if __name__ == "__main__":
    sys.exit(main())
