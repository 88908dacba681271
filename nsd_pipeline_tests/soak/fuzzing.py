"""Damaged files by the thousand, for whatever reads files that others wrote.

A reader may understand a file or refuse it with an error of ours. Any other error, a crash, a hang
or a growing memory is a failure. So that a crash or a hang costs one input, a process of its own
does the reading:

    python -m nsd_pipeline_tests.soak.fuzzing --folder HERE --keep THERE "bids names:0:1000"

An input is a seed (a small good file) after a few random changes. It follows from the seed of the
random numbers, the reader's name and its number alone, so any input can be made again.
"""

import argparse
import contextlib
import copy
import json
import logging
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from nsd_pipeline.errors import NsdError

CPU_SECONDS: Final = 20.0
"""For one input of at most a megabyte; readers take milliseconds."""
SECONDS: Final = 120.0
"""For one input that waits instead: for a pipe, a lock, a server."""
MEMORY_BYTES: Final = 2**30
"""For one input, beyond what the process has when it starts."""
_MOST_FAILURES: Final = 20
_MEMORY: Final = Path("/dev/shm")
"""For files that no disk needs to see."""
_PROGRESS: Final = "progress.json"

_NUMBERS: Final = (0, 1, -1, 2, 16, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**62)
_VALUES: Final = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1e-9, 1e300, float("nan"), 2**31, 2**63, 10**400,
    "", "a", "1", "none", "\ud800", "a" * 300, [], [1], [None], ["a", "b"], [[1]], {}, {"a": 1},
)  # fmt: skip
"""What may stand in a file of JSON in the place of something else."""
_WORDS: Final = (b"\0", b"\n", b"\t", b'"', b"-", b"..", b"/", b"1e999", b"-1", b"nan", b"\xff\xfe")


@dataclass(frozen=True)
class Reader:
    """Something that reads files from outside.

    Attributes
    ----------
    name
        What to call it.
    file
        Name of the file that it reads; its ending matters to some.
    seeds
        Makes small good files, in the form that is changed.
    read
        Reads one, given its path, and checks what must hold of what was accepted.
    words
        Pieces of the format that changes may put in.
    pack
        Makes the file of the form that is changed, such as by compressing it. Every fourth input
        is changed after that.
    allowed
        Errors that refuse a file.
    """

    name: str
    file: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    words: tuple[bytes, ...] = ()
    pack: Callable[[bytes], bytes] | None = None
    allowed: tuple[type[Exception], ...] = (NsdError,)


@dataclass
class Findings:
    """What came of a reader's inputs.

    Attributes
    ----------
    reader
        Its name.
    cases, accepted
        Inputs that were read, and those of them that were understood.
    failures
        What went wrong and where, with the first input that shows it.
    seconds
        Time that it took.
    """

    reader: str
    cases: int = 0
    accepted: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def damaged(reader: Reader, seeds: Sequence[bytes], seed: int, case: int) -> bytes:
    """One input of a reader, the same every time."""
    chance = random.Random(f"{seed} {reader.name} {case}")
    content = chance.choice(seeds)
    if reader.pack and chance.random() < 0.25:
        return _changed(chance, reader.pack(content), seeds, ())
    if content.startswith(b"{") and chance.random() < 0.5:
        return _changed_json(chance, content)
    content = _changed(chance, content, seeds, reader.words)
    return reader.pack(content) if reader.pack else content


def _changed_json(chance: random.Random, content: bytes) -> bytes:
    """Other values and names within a file that stays JSON: most changed bytes do not leave it."""
    record = json.loads(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        places: list[tuple[Any, Any]] = []
        open_ones = [record]
        while open_ones:
            holder = open_ones.pop()
            keys = holder if isinstance(holder, dict) else range(len(holder))
            places += [(holder, key) for key in keys]
            open_ones += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
        if not places:
            break
        (holder, key), (other, there) = chance.choice(places), chance.choice(places)
        match chance.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice((f"{key}_", there))] = holder.pop(key)
            case 2:
                holder[key] = copy.deepcopy(other[there])
            case 3 if isinstance(holder[key], int | float):
                holder[key] *= chance.choice((-1, 2, 3, 1000))
            case _:
                holder[key] = copy.deepcopy(chance.choice(_VALUES))
    return json.dumps(record).encode()


def _changed(
    chance: random.Random, content: bytes, seeds: Sequence[bytes], words: Sequence[bytes]
) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8))):
        # The start of a file decides how the rest is read.
        start = chance.randrange(len(data) + 1)
        if chance.random() < 0.5:
            start = min(start, chance.randrange(512))
        stop = min(len(data), start + chance.choice((1, 2, 4, 8, 32, 512)))
        match chance.randrange(10):
            case 0 if start < len(data):
                data[start] ^= 1 << chance.randrange(8)
            case 1:
                data[start:stop] = chance.randbytes(stop - start)
            case 2 | 3:
                width = chance.choice((1, 2, 4, 8))
                number = chance.choice((*_NUMBERS, chance.randrange(2**16), len(data)))
                order = chance.choice(("little", "big"))
                data[start : start + width] = (number % 256**width).to_bytes(width, order)
            case 4:
                del data[start:stop]
            case 5:
                data[start:start] = data[start:stop] * chance.choice((1, 1, 2, 100))
            case 6:
                del data[start:]
            case 7:
                other = chance.choice(seeds)
                cut = chance.randrange(len(other) + 1)
                data[start:stop] = other[cut : cut + chance.choice((4, 32, 512))]
            case 8:
                data[start:stop] = bytes(stop - start)
            case _:
                at = start if chance.random() < 0.5 else stop
                data[start:at] = chance.choice(words or _WORDS)
    return bytes(data[: 2**20])


def hunt(cases: Mapping[str, int], *, seconds: float, seed: int, keep: Path) -> list[Findings]:
    """Let readers read damaged files, each in turn, in a process that may die.

    Parameters
    ----------
    cases
        Number of inputs for each reader, by its name.
    seconds
        Time for each after which it is enough.
    seed
        Of the random numbers.
    keep
        Folder for inputs that failed.
    """
    keep.mkdir(parents=True, exist_ok=True)
    found = {name: Findings(name) for name in cases}
    first = dict.fromkeys(cases, 0)
    left = list(cases)
    while left:
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
            command = [sys.executable, "-m", __name__, "--seed", str(seed), "--keep", str(keep)]
            command += ["--seconds", str(seconds), "--folder", folder]
            command += [f"{name}:{first[name]}:{cases[name]}" for name in left]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            for line in done.stdout.splitlines():
                part = json.loads(line)
                _add(found[part["reader"]], part)
                left.remove(part["reader"])
            if done.returncode == 0:
                break
            if done.returncode > 0:
                raise RuntimeError(f"{' '.join(command)} failed: see above")
            # It died of the input that it had announced last.
            part = json.loads(Path(folder, _PROGRESS).read_text())
            name, case = part["reader"], part["case"]
            shutil.copy(Path(folder, part["file"]), keep / f"{name}-{case}-{part['file']}")
        hung = done.returncode in (-signal.SIGPROF, -signal.SIGALRM)
        died = "a hang" if hung else f"a crash (signal {-done.returncode})"
        part["failures"] |= {died: f"input {case}"}
        _add(found[name], part | {"cases": part["cases"] + 1})
        first[name] = case + 1
        if len(found[name].failures) >= _MOST_FAILURES or first[name] >= cases[name]:
            left.remove(name)
    return list(found.values())


def _add(findings: Findings, part: dict[str, Any]) -> None:
    findings.cases += part["cases"]
    findings.accepted += part["accepted"]
    findings.seconds += part["seconds"]
    findings.failures = {**part["failures"], **findings.failures}


def _read_all(
    reader: Reader, cases: range, options: argparse.Namespace, progress: TextIO
) -> Findings:
    findings = Findings(reader.name)
    start = time.monotonic()
    seeds = reader.seeds()
    path = options.folder / reader.file
    good = 0
    for content in seeds:  # which also loads what is loaded once, before memory is counted
        path.write_bytes(reader.pack(content) if reader.pack else content)
        with contextlib.suppress(*reader.allowed):
            reader.read(path)
            good += 1
    assert good, f"no seed of {reader.name} is good"
    with _bounded_memory():
        for case in cases:
            content = damaged(reader, seeds, options.seed, case)
            path.write_bytes(content)
            if case % 16 == 0:
                findings.seconds = time.monotonic() - start
                if findings.seconds > options.seconds:
                    break
            progress.seek(0)
            progress.write(json.dumps(asdict(findings) | {"case": case, "file": reader.file}))
            progress.truncate()
            progress.flush()
            findings.cases += 1
            try:
                with _bounded_time():
                    reader.read(path)
                findings.accepted += 1
            except reader.allowed:
                pass
            except BaseException as error:
                place = _place(error)
                if place not in findings.failures:
                    findings.failures[place] = f"input {case}: {error!r:.150}"
                    (options.keep / f"{reader.name}-{case}-{reader.file}").write_bytes(content)
                if len(findings.failures) >= _MOST_FAILURES:
                    break
    findings.seconds = time.monotonic() - start
    return findings


def _place(error: BaseException) -> str:
    """Kind of an error, and the line of the package that let it through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "/nsd_pipeline/" in each.filename] or frames
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


class _bounded_time:  # noqa: N801
    """The process ends if the block takes too long: within C code, an exception would wait."""

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


class _bounded_memory:  # noqa: N801
    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_DATA)
        data = Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]
        limit = int(data) * 1024 + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, self._before)


def main() -> None:
    """Read what the arguments say; print the findings of each reader as a line of JSON."""
    from nsd_pipeline_tests.soak.outside_files import READERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="+", help="each as NAME:FIRST:LAST")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    with (options.folder / _PROGRESS).open("w") as progress:
        for named in options.readers:
            name, first, last = named.split(":")
            cases = range(int(first), int(last))
            findings = _read_all(READERS[name], cases, options, progress)
            print(json.dumps(asdict(findings)), flush=True)


def table(findings: Sequence[Findings]) -> Iterator[str]:
    """What was found, for a person."""
    for each in findings:
        yield (
            f"{each.reader:<22}{each.cases:>8} inputs, {each.accepted:>7} of them read,"
            f" {len(each.failures)} failures, {each.seconds:.0f} s"
        )
        yield from (f"    {place}, {first}" for place, first in each.failures.items())


if __name__ == "__main__":
    main()
