"""The process of one side of a row: prepares, then repeats what is measured on request."""

import os
import resource
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one repetition gives.

    Attributes
    ----------
    values
        Arrays that the row's other sides must give as well.
    facts
        Numbers to show or to hold against a bar, such as bytes.
    seconds
        What to count as the time, where that is not the time from call to return.
    peak_bytes
        What to count as the memory, where that is not this process's.
    """

    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    peak_bytes: int | None = None


Repeat = Callable[[], Outcome]
Prepare = Callable[[Settings], Repeat]


@dataclass(frozen=True)
class Sample:
    """One repetition, measured.

    Attributes
    ----------
    seconds
        Wall-clock time.
    cpu_seconds
        Time on any processor, of this process and of its children that have ended.
    peak_bytes
        Largest resident memory of the process during the repetition.
    facts
        As in :class:`Outcome`.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    facts: Mapping[str, float]


def serve(connection: Connection, prepare: Prepare, settings: Settings, n_touched: int) -> None:
    """Prepare once; then measure a repetition for each request, until None is received.

    Before each, so many bytes of memory are touched. A request says whether the values are wanted.
    The answer to it, and to having prepared, is a pair of a result and the text of an error.
    """
    try:
        repeat = prepare(settings)
        connection.send((None, None))
        while (with_values := connection.recv()) is not None:
            sample, values = _measure(repeat, n_touched)
            connection.send(((sample, values if with_values else {}), None))
            del values
    except EOFError:
        return
    except BaseException:
        connection.send((None, traceback.format_exc()))


def _measure(repeat: Repeat, n_touched: int) -> tuple[Sample, Mapping[str, NDArray[Any]]]:
    # A virtual machine hands memory that nobody uses back to its host, and who touches it next
    # waits for it: up to seconds for a GB. That is to be no side's time.
    np.full(n_touched, 1, np.uint8)
    _reset_peak()
    cpu, start = _cpu_seconds(), time.perf_counter()
    outcome = repeat()
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    sample = Sample(
        seconds if outcome.seconds is None else outcome.seconds,
        cpu,
        _peak_bytes() if outcome.peak_bytes is None else outcome.peak_bytes,
        outcome.facts,
    )
    return sample, {name: np.asarray(value) for name, value in outcome.values.items()}


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _reset_peak() -> None:
    """Let Linux forget the peak so far; elsewhere it stays that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def bytes_read_from_disk() -> int:
    """Bytes that this process has made the disk read so far, read-ahead included; 0 if unknown."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def forget_files(paths: Sequence[str]) -> None:
    """Take files out of the page cache, so that they are read from the disk next time."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
