"""How a row is measured: sides in processes of their own, in turns, results compared first."""

import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.worker import Prepare, Sample, Settings, forget_files, serve


class BenchmarkError(Exception):
    """A row that cannot be measured, or whose sides do not compute the same."""


Values = Mapping[str, NDArray[Any]]
Agreement = Callable[[Values, Values], Mapping[str, float]]


@dataclass(frozen=True)
class Side:
    """One of the things that a row compares.

    Attributes
    ----------
    name
        What it is, for the table.
    prepare
        Called once in the side's process, with the row's settings; returns what is repeated. A
        function of a module, so that another process finds it.
    settings
        The side's own settings, added to the row's.
    agreement
        For a side that is not to give the same values as the first one: facts about how near they
        are, from the first side's values and its own.
    """

    name: str
    prepare: Prepare
    settings: Settings = field(default_factory=dict)
    agreement: Agreement | None = None


@dataclass(frozen=True)
class Measured:
    """The repetitions of one side, and what is known of its values."""

    samples: Sequence[Sample]
    agreement: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Median wall-clock time."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def range(self) -> tuple[float, float]:
        """Shortest and longest wall-clock time."""
        times = [sample.seconds for sample in self.samples]
        return min(times), max(times)

    @property
    def varies(self) -> bool:
        """Whether the longest and the shortest time differ by more than the median."""
        low, high = self.range
        return high - low > self.seconds

    @property
    def cpu_seconds(self) -> float:
        """Median time on processors."""
        return statistics.median(sample.cpu_seconds for sample in self.samples)

    @property
    def peak_bytes(self) -> int:
        """Largest resident memory of any repetition."""
        return max(sample.peak_bytes for sample in self.samples)

    @property
    def facts(self) -> dict[str, float]:
        """Median of each fact, and how near its values are to the first side's."""
        medians = {
            name: statistics.median(sample.facts[name] for sample in self.samples)
            for name in self.samples[0].facts
        }
        return {**medians, **self.agreement}


Sides = Mapping[str, Measured]


@dataclass(frozen=True)
class Bar:
    """Something a row has to reach.

    Attributes
    ----------
    what
        What is counted, for the table.
    value
        Computes it from the sides.
    target
        What it has to reach.
    at_most
        Whether it may not exceed the target, instead of not fall short of it.
    """

    what: str
    value: Callable[[Sides], float]
    target: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value <= self.target if self.at_most else value >= self.target


@dataclass(frozen=True)
class Inputs:
    """What the sides of a row work on.

    Attributes
    ----------
    settings
        Handed to every side.
    cold
        Files that are taken out of the page cache before every repetition.
    work
        How much there is to do, for instance "75 volumes".
    n_touched
        Bytes of memory that every side touches, and gives back, before each repetition: as many as
        the side that takes most of it, where that is much.
    """

    settings: Settings
    cold: Sequence[str] = ()
    work: str = ""
    n_touched: int = 0


MakeInputs = Callable[[Path, bool], AbstractContextManager[Inputs]]
"""From a folder that rows share and whether it is to be quick."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    name
        To select it by.
    title
        What is measured.
    inputs
        Makes what the sides work on, and keeps it (servers, say) while they do.
    sides
        Ours first. If their results are to be compared, every side gives the same values.
    bars
        What is to be reached, at real sizes on a quiet machine.
    repetitions
        Of every side, in turns. In a quick run, two at most.
    warm_up
        Whether the first repetition, from which values are compared, does not count.
    tolerance
        Largest difference between values, as a share of their range; 0 for identical ones.
    limit
        What bounds a bar that is out of reach.
    patience
        Seconds after which a side is given up.
    """

    name: str
    title: str
    inputs: MakeInputs
    sides: tuple[Side, ...]
    bars: tuple[Bar, ...] = ()
    repetitions: int = 3
    warm_up: bool = True
    tolerance: float = 0.0
    limit: str = ""
    patience: float = 300


@dataclass(frozen=True)
class RowResult:
    """What a row has given: measurements, or the reason why there are none.

    Attributes
    ----------
    row, work
        What was measured, and how much of it.
    sides
        Measurements, by the names of the sides.
    difference
        Largest difference between values, as a share of their range; None if there are none to
        compare.
    error
        Why there are no measurements.
    """

    row: Row
    work: str = ""
    sides: Sides = field(default_factory=dict)
    difference: float | None = None
    error: str = ""

    def bars(self) -> Iterator[tuple[Bar, float, bool]]:
        """Each bar with its value and whether it is met."""
        for bar in self.row.bars:
            value = bar.value(self.sides)
            yield bar, value, bar.met(value)

    def range_of(self, bar: Bar) -> tuple[float, float]:
        """Lowest and highest value of a bar, each side's repetitions taken by their turns."""
        turns = zip(*(measured.samples for measured in self.sides.values()), strict=True)
        values = [
            bar.value(
                {
                    name: replace(measured, samples=[sample])
                    for (name, measured), sample in zip(self.sides.items(), turn, strict=True)
                }
            )
            for turn in turns
        ]
        return min(values), max(values)


def run_row(row: Row, folder: Path, *, quick: bool) -> RowResult:
    """Measure a row. Errors become part of the result: the other rows have a right to be run."""
    try:
        with row.inputs(folder, quick) as inputs:
            return measure(row, inputs, repetitions=min(row.repetitions, 2 if quick else 99))
    except Exception as error:
        return RowResult(row, error=f"{type(error).__name__}: {error}".strip())


def measure(row: Row, inputs: Inputs, *, repetitions: int) -> RowResult:
    """Measure all sides of a row in turns.

    Raises
    ------
    BenchmarkError
        If a side fails, or sides give different values. Nothing is reported then.
    """
    with ExitStack() as stack:
        asks = {
            side.name: stack.enter_context(_side(side, inputs, row.patience)) for side in row.sides
        }
        first = {}
        for name, ask in asks.items():
            forget_files(inputs.cold)
            first[name] = ask(True)
        values = {name: values for name, (_, values) in first.items()}
        expected = values[row.sides[0].name]
        agreement = {
            side.name: side.agreement(expected, values.pop(side.name))
            for side in row.sides
            if side.agreement is not None
        }
        difference = compare(values, tolerance=row.tolerance)
        compared = bool(expected) and len(values) > 1
        samples = {name: [] if row.warm_up else [sample] for name, (sample, _) in first.items()}
        order = list(asks)
        while len(samples[order[0]]) < repetitions:
            for name in order:
                forget_files(inputs.cold)
                samples[name].append(asks[name](False)[0])
            order.reverse()
    sides = {name: Measured(taken, agreement.get(name, {})) for name, taken in samples.items()}
    return RowResult(row, inputs.work, sides, difference if compared else None)


@contextmanager
def _side(side: Side, inputs: Inputs, patience: float) -> Iterator[Callable[[bool], Any]]:
    """Start a side's process; yield a function that asks it for one repetition."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    settings = {**inputs.settings, **side.settings}
    arguments = (there, side.prepare, settings, inputs.n_touched)
    process = context.Process(target=serve, args=arguments, daemon=False)
    process.start()
    there.close()

    def ask(with_values: bool) -> Any:
        here.send(with_values)
        return _answer(here, side.name, patience)

    try:
        _answer(here, side.name, patience)
        yield ask
        here.send(None)
    finally:
        here.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _answer(connection: Connection, name: str, patience: float) -> Any:
    if not connection.poll(patience):
        raise BenchmarkError(f"{name} has not answered for {patience:.0f} s")
    try:
        answer, error = connection.recv()
    except EOFError:
        raise BenchmarkError(f"{name} died (out of memory?)") from None
    if error:
        raise BenchmarkError(f"{name} failed:\n{error}")
    return answer


def compare(values: Mapping[str, Values], *, tolerance: float) -> float:
    """Largest difference of any side's values to the first side's, as a share of their range.

    Raises
    ------
    BenchmarkError
        If it exceeds the tolerance, or sides give values of different names or shapes.
    """
    (reference, expected), *others = values.items()
    worst = 0.0
    for name, found in others:
        if found.keys() != expected.keys():
            raise BenchmarkError(
                f"{name} gives {sorted(found)}, but {reference} gives {sorted(expected)}"
            )
        for key, value in found.items():
            difference = _difference(np.asarray(expected[key]), np.asarray(value))
            if not difference <= tolerance:
                raise BenchmarkError(
                    f"{key} of {name} and of {reference} differ by {difference:.2g} of their "
                    f"range, more than {tolerance:.2g}"
                )
            worst = max(worst, difference)
    return worst


def _difference(expected: Any, found: Any) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if np.array_equal(expected, found, equal_nan=expected.dtype.kind == "f"):
        return 0.0
    if expected.dtype.kind not in "fiu" or (np.isnan(expected) != np.isnan(found)).any():
        return float("inf")
    span = float(np.nanmax(expected)) - float(np.nanmin(expected))
    span = span or abs(float(np.nanmax(expected))) or 1.0
    return float(np.nanmax(np.abs(expected.astype(np.float64) - found))) / span


def faster(ours: str, other: str, target: float, what: str = "times faster") -> Bar:
    """Build the bar that ours takes so many times less time than the other side."""
    return Bar(what, partial(_ratio, ours, other), target)


def _ratio(ours: str, other: str, sides: Sides) -> float:
    return sides[other].seconds / sides[ours].seconds


def less_memory(ours: str, other: str, share: float) -> Bar:
    """Build the bar that ours needs at most this share of the other side's peak memory."""
    return Bar("of its memory", partial(_memory_share, ours, other), share, at_most=True)


def _memory_share(ours: str, other: str, sides: Sides) -> float:
    return sides[ours].peak_bytes / sides[other].peak_bytes


def fewer(fact: str, ours: str, other: str, share: float) -> Bar:
    """Build the bar that a fact of ours is at most this share of the other side's."""
    return Bar(f"of its {fact}", partial(_fact_share, fact, ours, other), share, at_most=True)


def _fact_share(fact: str, ours: str, other: str, sides: Sides) -> float:
    whole = sides[other].facts[fact]
    return sides[ours].facts[fact] / whole if whole else float("nan")


def fact(name: str, ours: str, target: float, *, at_most: bool = False) -> Bar:
    """Build the bar that a fact of a side reaches a value."""
    return Bar(name, partial(_fact, name, ours), target, at_most)


def _fact(name: str, ours: str, sides: Sides) -> float:
    return sides[ours].facts[name]
