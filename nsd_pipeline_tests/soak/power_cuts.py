"""A disk that forgets, at a power cut, what nobody asked it to keep.

While a program runs, :func:`recorded` notes every change of a folder: names by the calls of `os`
that make them, contents by looking at the files before each such call. So nothing escapes that a
library writes by itself. :meth:`Recording.after_cut` then makes a folder as it may be found if the
power went at any moment of that.

The disk is as mean as POSIX allows, and a bit meaner than Linux's file systems are:

- What a file holds is kept from its last fsync on. What was written after that may be there, or
  missing, or in part, or be zeros.
- A name (made, renamed, exchanged, removed) is kept once a folder that it is in has been synced
  after. Other changes of names may be lost, whichever of them, and in whatever order they came:
  only not one without those before it that concern the same file or the same name. On half of the
  tries, they are lost from the end, as file systems with a journal do.
- A rename is there or is not there, never by half.
"""

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from nsd_pipeline.storage import disk as durable

Place = tuple[int, str]
"""A name in a folder: the folder's number, and the name."""

_CALLS: Final = ("rename", "replace", "mkdir", "rmdir", "unlink", "remove")


@dataclass
class Change:
    """What happened to names, all at once.

    Attributes
    ----------
    names
        What each name led to afterwards: the number of a file or folder, None for nothing.
    touched
        Those whose places changed.
    """

    names: dict[Place, int | None]
    touched: frozenset[int]


@dataclass
class Write:
    """A file has got another content."""

    file: int
    content: bytes


@dataclass
class Sync:
    """A file's content, or a folder's names, are on the disk."""

    node: int


@dataclass
class Recording:
    """Changes of a folder, from an empty one on, in the order in which they came.

    Attributes
    ----------
    events
        What happened.
    marks
        Number of events before each moment that was marked, by its name.
    """

    events: list[Change | Write | Sync] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    _folders: set[int] = field(default_factory=set)

    def keep(self, n_events: int) -> int:
        """Let so many events be on the disk, whatever comes; return the number with their syncs."""
        written = {event.file for event in self.events[:n_events] if isinstance(event, Write)}
        synced: list[Change | Write | Sync] = [Sync(node) for node in {0, *self._folders, *written}]
        self.events[n_events:n_events] = synced
        return n_events + len(synced)

    def after_cut(self, n_events: int, chance: random.Random, target: Path) -> None:
        """Make a folder as it may be if the power went after so many events."""
        kept = self._kept(n_events, chance)
        names: dict[Place, int | None] = {}
        for number, event in enumerate(self.events[:n_events]):
            if isinstance(event, Change) and number in kept:
                names |= event.names
        contents = self._contents(n_events, chance)
        below: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in names.items():
            if node is not None:
                below.setdefault(folder, []).append((name, node))

        def make(folder: int, path: Path, above: frozenset[int]) -> None:
            path.mkdir()
            for name, node in below.get(folder, []):
                if node not in self._folders:
                    (path / name).write_bytes(contents.get(node, b""))
                elif node not in above:
                    make(node, path / name, above | {node})

        make(0, target, frozenset({0}))

    def _kept(self, n_events: int, chance: random.Random) -> set[int]:
        """Numbers of the changes of names that the disk has kept."""
        changes = {
            number: event
            for number, event in enumerate(self.events[:n_events])
            if isinstance(event, Change)
        }
        synced: set[int] = set()
        durable_ones: set[int] = set()
        for number in range(n_events - 1, -1, -1):
            event = self.events[number]
            if isinstance(event, Sync):
                synced.add(event.node)
            elif isinstance(event, Change) and any(folder in synced for folder, _ in event.names):
                durable_ones.add(number)
        lost = [number for number in changes if number not in durable_ones]
        share = chance.random()
        if chance.random() < 0.5:
            last = max(durable_ones, default=-1)
            free = [number for number in lost if number > last]
            wanted = {number for number in changes if number <= last}
            wanted |= set(free[: round(share * len(free))])
        else:
            wanted = durable_ones | {number for number in lost if chance.random() < share}
        # Not without what came before and concerns the same file or name.
        needed: set[object] = set()
        kept = set()
        for number in sorted(changes, reverse=True):
            concerns: set[object] = {*changes[number].names, *changes[number].touched}
            if number in wanted or concerns & needed:
                kept.add(number)
                needed |= concerns
        return kept

    def _contents(self, n_events: int, chance: random.Random) -> dict[int, bytes]:
        possible: dict[int, list[bytes]] = {}
        for event in self.events[:n_events]:
            if isinstance(event, Write):
                possible.setdefault(event.file, [b""]).append(event.content)
            elif isinstance(event, Sync) and event.node in possible:
                possible[event.node] = possible[event.node][-1:]
        contents = {}
        for file, versions in possible.items():
            content = chance.choice(versions)
            if len(versions) > 1 and chance.random() < 0.5:
                cut = chance.randrange(len(content) + 1)
                rest = bytes(len(content) - cut) if chance.random() < 0.5 else b""
                content = content[:cut] + rest
            contents[file] = content
        return contents


class _Recorder:
    def __init__(self, root: Path) -> None:
        self.recording = Recording()
        self.lock = threading.RLock()
        self._root = root
        self._seen: dict[int, bytes] = {}
        self._tree: dict[Place, int] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._count = itertools.count()
        self._number(root)

    def _number(self, path: Path) -> int:
        status = path.stat(follow_symlinks=False)
        inode = (status.st_dev, status.st_ino)
        if inode not in self._numbers:
            self._numbers[inode] = next(self._count)
        return self._numbers[inode]

    def look(self) -> None:
        """Note what has changed since the last look, other than by the calls that are watched."""
        tree: dict[Place, int] = {}
        writes = []

        def walk(folder: Path, number: int) -> None:
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.name.endswith(".lock"):
                    continue
                path = Path(entry.path)
                node = tree[number, entry.name] = self._number(path)
                if entry.is_dir(follow_symlinks=False):
                    self.recording._folders.add(node)
                    walk(path, node)
                elif (content := path.read_bytes()) != self._seen.get(node):
                    self._seen[node] = content
                    writes.append(Write(node, content))

        walk(self._root, 0)
        self._note(tree)
        self.recording.events += writes

    def _note(self, tree: dict[Place, int]) -> None:
        for place in {**self._tree, **tree}:
            if self._tree.get(place) != tree.get(place):
                nodes = {self._tree.get(place), tree.get(place)} - {None}
                self.recording.events.append(Change({place: tree.get(place)}, frozenset(nodes)))  # type: ignore[arg-type]
        self._tree = tree

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that changes names, all at once if it changes several."""

        def call(*args: Any, **options: Any) -> Any:
            with self.lock:
                self.look()
                before, n_before = self._tree, len(self.recording.events)
                result = function(*args, **options)
                self.look()
                done = self.recording.events[n_before:]
                changes = [event for event in done if isinstance(event, Change)]
                if len(changes) > 1:
                    names = {place: node for each in changes for place, node in each.names.items()}
                    touched = frozenset().union(*(each.touched for each in changes))
                    self.recording.events[n_before:] = [
                        Change(names, touched),
                        *(event for event in done if not isinstance(event, Change)),
                    ]
                # An inode's number is free for another file once nothing leads to it.
                gone = set(before.values()) - set(self._tree.values())
                self._numbers = {
                    inode: number for inode, number in self._numbers.items() if number not in gone
                }
                return result

        return call

    def sync(self, function: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            with self.lock:
                self.look()
                function(descriptor)
                status = os.fstat(descriptor)
                number = self._numbers.get((status.st_dev, status.st_ino))
                if number is not None:
                    self.recording.events.append(Sync(number))

        return call


@contextmanager
def recorded(root: Path, *, exchanges: bool = True) -> Iterator[Callable[[str], Recording]]:
    """Record what happens to an empty folder.

    Parameters
    ----------
    root
        The folder.
    exchanges
        Whether its file system can exchange two folders.

    Yields
    ------
    callable
        Marks a moment by a name, and gives what has been recorded so far.
    """
    recorder = _Recorder(root)
    rename = durable._renameat2()

    def mark(name: str) -> Recording:
        with recorder.lock:
            recorder.look()
            recorder.recording.marks[name] = len(recorder.recording.events)
        return recorder.recording

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", recorder.sync(os.fsync))
        for name in _CALLS:
            patch.setattr(os, name, recorder.watch(getattr(os, name)))
        exchange = recorder.watch(rename) if rename and exchanges else None
        patch.setattr(durable, "_renameat2", lambda: exchange)
        yield mark
