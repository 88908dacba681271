"""A benchmark's results as tables: in the terminal, as JSON and as Markdown."""

import importlib.metadata
import math
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Bar, Measured, RowResult

_LIBRARIES: Final = ("numpy", "torch", "transformers", "nilearn", "nibabel", "zarr", "dagster")
_GB: Final = 1e9
_DIFFERENCE: Final = "of the range: largest difference of results"


def machine() -> dict[str, str]:
    """Describe what the numbers are from: processor, memory, libraries."""
    lines = _lines("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = {word for line in lines if line.startswith("flags") for word in line.split()}
    extensions = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    return {
        "processor": f"{names[0] if names else platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, {' '.join(extensions)}",
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES),
        "load at the start": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def to_json(results: Sequence[RowResult], described: dict[str, str], *, quick: bool) -> Any:
    """Every sample of every side, and every bar, ready for ``json.dump``."""
    return {
        "machine": described,
        "quick": quick,
        "rows": [
            {
                "name": result.row.name,
                "title": result.row.title,
                "work": result.work,
                "error": result.error,
                "limit": result.row.limit,
                "difference": result.difference,
                "sides": {
                    name: {
                        "seconds": measured.seconds,
                        "cpu_seconds": measured.cpu_seconds,
                        "peak_bytes": measured.peak_bytes,
                        "facts": measured.facts,
                        "samples": [asdict(sample) for sample in measured.samples],
                    }
                    for name, measured in result.sides.items()
                },
                "bars": [
                    {
                        "what": bar.what,
                        "value": _finite(value),
                        "range": [_finite(end) for end in result.range_of(bar)],
                        "target": bar.target,
                        "at_most": bar.at_most,
                        "met": met,
                    }
                    for bar, value, met in result.bars()
                ]
                if result.sides
                else [],
            }
            for result in results
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_markdown(results: Sequence[RowResult], described: dict[str, str], *, quick: bool) -> str:
    """The whole report as a page."""
    command = "python -m benchmarks" + (" --quick" if quick else "")
    processor = described.get("processor", "").partition(",")[0]
    parts = [
        f"# Benchmarks on {processor}\n",
        f"Written by `{command}`. Every row runs all its sides on the same inputs, in turns, each "
        "side in a process of its own; results are compared before a time counts. A bar shows its "
        "lowest and highest turn, then what the medians give, by which it is judged. Times are "
        "medians, with the shortest and the longest behind them; memory is the "
        "largest resident size of the process, libraries and inputs included. All of it runs on "
        "the processor: **nothing here was run on a GPU**.\n",
    ]
    if quick:
        parts.append("**A quick run: small inputs, so bars do not apply.**\n")
    parts += [f"- {name}: {text}" for name, text in described.items()]
    parts.append("\n## Bars\n\n| row | what | measured | to reach | |\n|---|---|---|---|---|")
    parts += [_cells(cells) for result in results for cells in bar_cells(result)]
    parts.append("\n## Measurements\n")
    header = "| row | side | time | processor time | memory | |\n|---|---|---|---|---|---|"
    parts.append(header)
    parts += [_cells(cells) for result in results for cells in side_cells(result)]
    varying = [
        f"- {result.row.title}: {name}"
        for result in results
        for name, measured in result.sides.items()
        if measured.varies
    ]
    if varying:
        parts.append("\n## What varies more than its median\n")
        parts.append("Of ratios with these, the low end counts.\n")
        parts += varying
    limits = [result.row for result in results if result.row.limit]
    if limits:
        parts.append("\n## What bounds them\n")
        parts += [f"- **{row.title}**: {row.limit}" for row in limits]
    return "\n".join(parts) + "\n"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def bar_cells(result: RowResult) -> Iterator[tuple[str, ...]]:
    """Cells of each bar of a row: row, what, measured, target, verdict."""
    if result.error:
        reason = result.error.strip().splitlines()[-1]
        yield result.row.title, f"not measured: {reason}", "", "", "error"
        return
    for bar, value, met in result.bars():
        verdict = "yes" if met else "unknown" if math.isnan(value) else "no"
        measured = _with_range(value, result.range_of(bar))
        yield result.row.title, bar.what, measured, _target(bar), verdict
    if result.difference is not None:
        tolerance = f"<= {number(result.row.tolerance)}"
        yield result.row.title, _DIFFERENCE, number(result.difference), tolerance, "yes"


def side_cells(result: RowResult) -> Iterator[tuple[str, ...]]:
    """Cells of each side of a row: row, side, time, processor time, memory, facts."""
    title = f"{result.row.title} ({result.work})" if result.work else result.row.title
    for name, measured in result.sides.items():
        facts = "; ".join(f"{number(value)} {fact}" for fact, value in measured.facts.items())
        yield (
            title,
            name,
            _time(measured),
            f"{number(measured.cpu_seconds)} s",
            f"{measured.peak_bytes / _GB:.2f} GB",
            facts,
        )
        title = ""


def _time(measured: Measured) -> str:
    low, high = map(number, measured.range)
    return f"{number(measured.seconds)} s ({low} to {high})"


def _with_range(value: float, ends: tuple[float, float]) -> str:
    low, high = map(number, ends)
    return number(value) if low == high else f"{low} to {high}; {number(value)}"


def _target(bar: Bar) -> str:
    return f"{'<=' if bar.at_most else '>='} {number(bar.target)}"


def number(value: float) -> str:
    """Write a number with three significant digits, and large ones in full."""
    if math.isnan(value):
        return "?"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
