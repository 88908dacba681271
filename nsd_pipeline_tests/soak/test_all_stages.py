"""All stages, a live daemon whose schedule ticks, and whatever happens meanwhile.

A person brings everything up to date again and again (:mod:`.stages`), while a subject's schedule
does the same for its sessions each minute. In between, by chance: a run is killed, the power of
the store's disk goes, a byte of an artifact flips, a setting or a file of the source changes, two
persons work at once, the store's disk is full. A step takes seconds, and what went wrong is told by
its seed: hypothesis, which runs the steps of `test_store_model.py`, would repeat them for hours to
find fewer. What must hold, after each step:

1. What was acknowledged is there: whatever the history has as materialized, the store has.
2. It is whole: every artifact can be read, or it is one of those in which a byte was flipped, and
   reading it says so.
3. No number changes: what has one fingerprint has one content, whatever happened while it was made.
4. What fails says what to do next, and goes on from there: a few times again, and all is made.

And at the end, when nothing happens any more:

5. Everything is made, just as where nothing ever happened.
6. Work repeated is bounded: no artifact was made more often than there was a reason, and once more
   makes nothing.
7. Nothing unfinished is left.
8. The schedule still makes by itself what another input asks for.
"""

import hashlib
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import dagster as dg
import numpy as np
import pandas as pd
import psutil
import pytest

from benchmarks.load import ROOT, Servers, describe_history
from benchmarks.load_server import serve
from nsd_pipeline.errors import ArtifactError, DamagedArtifactError
from nsd_pipeline.launchers.run_processes import RUN_ID_ENV
from nsd_pipeline.nsd import layout
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store
from nsd_pipeline_tests.automation.webserver import until
from nsd_pipeline_tests.pipeline import SmallNsd
from nsd_pipeline_tests.soak.effort import SEED, Effort, efforts
from nsd_pipeline_tests.soak.small_disk import SmallDisk, small_disk
from nsd_pipeline_tests.soak.stages import SUBJECT, Order, Person
from nsd_pipeline_tests.soak.test_store_model import Place
from nsd_pipeline_tests.storage.servers import MotoServer
from nsd_pipeline_tests.storage.test_store import leftovers, use_moto

BUCKET: Final = "lab-model"
SUFFIXES: Final = (".mgh", ".other", ".partial")
BETAS: Final = layout.betas_keys(SUBJECT, 2, "fsaverage")[0]
ASSETS: Final = ("betas", "events", "fsaverage_events", "fsaverage5_betas", "stimuli",
                  "stimulus_embeddings", "fmri_mlp", "retrieval_metrics")  # fmt: skip
STEPS: Final = ("kill_a_run", "power_cut", "flip_a_byte", "change_a_setting", "replace_an_input",
                "two_at_once", "full_disk", "materialize")  # fmt: skip
OF_A_DISK: Final = ("power_cut", "full_disk")
_ATTEMPTS: Final = 6
"""How often a person tries again: as often as different things can be damaged at once, and more."""


@dataclass
class Lab:
    """A store that is worked on, and what is known of it.

    Attributes
    ----------
    reasons
        Steps that were a reason to make something again.
    longest
        Seconds that a person needed at most: for everything, when nothing was there.
    contents
        Digests of what was found, by key and fingerprint.
    flipped
        Artifacts in which a byte was flipped: when each was made, its asset and partition.
    """

    place: Place
    person: Person
    servers: Servers
    chance: random.Random
    source: Path
    disk: SmallDisk | None
    reasons: int = 0
    longest: float = 0
    said: list[str] = field(default_factory=list)
    contents: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    flipped: dict[str, tuple[str, tuple[str, str | None]]] = field(default_factory=dict)

    # Steps

    def materialize(self) -> None:
        """4: what fails says what to do next, and after a few times all is made."""
        for _ in range(_ATTEMPTS):
            if not (problem := self._work()):
                return
            self.check()  # which reads everything, and so finds what is damaged
        raise AssertionError(f"not made after {_ATTEMPTS} attempts: {problem}")

    def kill_a_run(self) -> None:
        process = self._start_and_wait()
        for run in (process, *self.processes(RUN_ID_ENV)):
            _kill(run)

    def power_cut(self) -> None:
        """Of the store's disk, and of every process; the history lies elsewhere."""
        assert self.disk
        process = self._start_and_wait()
        self.disk.cut_power()
        self.servers.kill("dagster-daemon")
        for each in (process, *self.processes()):
            _kill(each)
        self.disk.mount_again()
        self.check()
        self.servers.start("dagster-daemon", "run")

    def _start_and_wait(self) -> psutil.Process:
        """Begin to make what another input asks for, and let a part of it be made."""
        self.replace_an_input()
        process, _ = self.person.start()
        with suppress(psutil.TimeoutExpired):  # it is about half of everything
            process.wait(self.chance.uniform(0, self.longest / 2))
        self.reasons += 1
        return process

    def flip_a_byte(self) -> None:
        store = self.place.open()
        keys = [key for key in store.keys() if key not in self.flipped]  # noqa: SIM118
        key = self.chance.choice(keys)
        manifest = store.find(key)
        assert manifest
        files = self.place.files(key)
        del files["manifest"]  # see test_store_model.py for those
        path = self.chance.choice(sorted(files.values()))
        if not (content := bytearray(self.place.read(path) or b"")):
            return
        content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
        self.place.write(path, bytes(content))
        self.flipped[key] = (str(manifest.created), (manifest.asset, manifest.partition))
        self.reasons += 1

    def change_a_setting(self) -> None:
        self.person.order = replace(self.person.order, seed=1 - self.person.order.seed)
        self.reasons += 1

    def replace_an_input(self) -> None:
        """Another version of a file, or the first one again, also in its time."""
        path, other, partial = ((self.source / BETAS).with_suffix(end) for end in SUFFIXES)
        path.rename(partial)
        other.rename(path)
        partial.rename(other)
        self.reasons += 1

    def two_at_once(self) -> None:
        both = [self.person.start(), self.person.start()]
        for process, answer in both:
            self.answer(process, answer)
        self.reasons += 1  # both may have found it missing

    def full_disk(self) -> None:
        assert self.disk
        self.replace_an_input()
        with self.disk.filled(self.chance.choice((2**16, 2**20, 2**22))):
            self._work()
            self.check()

    def leave_it_to_the_schedule(self) -> None:
        """8: see above."""
        self.materialize()
        before = self.scheduled()
        self.replace_an_input()
        until(lambda: self.scheduled() > before, "the schedule has made a session", 600)

    # What must hold

    def check(self) -> None:
        """1 to 3, see above."""
        with dg.DagsterInstance.from_config(self.person.order.home) as history:
            acknowledged = {
                (asset, partition)
                for asset in ASSETS
                for partition in history.get_materialized_partitions(dg.AssetKey(asset))
            }
        there = {made for _, made in self.flipped.values()}
        store = self.place.open()  # one for all: a client of S3 takes a second to be made
        for key in store.keys():  # noqa: SIM118
            found = self._look(store, key)
            if found is None:
                assert key in self.flipped, f"{key} is damaged, and nobody did it"
                continue
            manifest, content = found
            created, _ = self.flipped.pop(key, ("", None))
            assert str(manifest.created) != created, f"{key} is read as if no byte had flipped"
            there.add((manifest.asset, manifest.partition))
            before = self.contents.setdefault((key, manifest.fingerprint), content)
            assert content == before, f"{key} has another content under the same fingerprint"
        assert acknowledged <= there, f"lost: {acknowledged - there}"

    def _look(self, store: Store, key: str) -> tuple[Manifest, dict[str, str]] | None:
        """Manifest and digests of an artifact, None if it is damaged."""
        for _ in range(20):
            try:
                before, folder = store.find(key), store.folder(key)
                content = digests(folder)
            except DamagedArtifactError:
                if key in self.flipped:
                    return None
                continue  # it was being replaced, or it stays so
            except (ArtifactError, FileNotFoundError):
                continue
            if before and before == store.find(key):
                return before, content
        return None

    def scheduled(self) -> int:
        """Runs of the schedule that have made what they should."""
        done = dg.RunsFilter(job_name="session", statuses=[dg.DagsterRunStatus.SUCCESS])
        with dg.DagsterInstance.from_config(self.person.order.home) as history:
            return history.get_runs_count(done)

    def made(self) -> Counter[int]:
        """Numbers of artifacts that were made so often, by the history."""
        return describe_history(self.servers.home)["artifacts made so often"]

    def _work(self) -> str:
        process, answer = self.person.start()
        start = time.monotonic()
        problem = self.answer(process, answer)
        self.longest = max(self.longest, time.monotonic() - start)
        return problem

    def answer(self, process: psutil.Process, answer: Path) -> str:
        """What a process says went wrong, empty for nothing."""
        with suppress(psutil.NoSuchProcess):
            process.wait(900)
        problem = answer.read_text()
        assert not problem or "Next step:" in problem, problem
        assert "this is a defect" not in problem, problem  # of all that happens here, nothing is
        self.said += [problem] if problem else []
        return problem

    def processes(self, variable: str = "DAGSTER_HOME") -> Iterator[psutil.Process]:
        """The daemon, and what it has started: its code server and runs, which have a variable."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                found = process.environ()
                if found.get("DAGSTER_HOME") == str(self.servers.home) and variable in found:
                    yield process


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        process.wait(60)


def digests(folder: Path) -> dict[str, str]:
    """Of each of an artifact's files, without when it was made, and in what time."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "history.parquet":
                content = pd.read_parquet(path).drop(columns="seconds").to_csv().encode()
            elif path.suffix == ".html":
                content = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d", b"", content)
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def other_version(source: Path) -> None:
    """Put beside a session's betas another version of them, as if NSD had prepared them again."""
    path = source / BETAS
    other = path.with_suffix(".other")
    shutil.copy(path, other)
    with other.open("r+b") as file:
        file.seek(1000)
        values = np.frombuffer(file.read(4000), ">f4") + 1
        file.seek(1000)
        file.write(values.astype(">f4").tobytes())
    later = path.stat().st_mtime + 1
    os.utime(other, (later, later))


@pytest.mark.parametrize("kind", ["local", "s3"])
@efforts(3, 10_000, share=0.13)
def test_whatever_happens_no_number_changes_and_nothing_is_lost(
    effort: Effort,
    kind: str,
    small_nsd: SmallNsd,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    figures: Callable[..., None],
) -> None:
    if kind == "s3" and effort.cases < 10:
        pytest.skip("a minute for each kind is too long for every change: `make soak` does it")
    chance = random.Random(f"{SEED} {kind} stages")
    source = small_nsd.copy(tmp_path_factory.mktemp("stages") / "nsd")  # links: on the same disk
    other_version(source)
    environment = {
        "NSD_ACCEPT_TERMS": "1",  # generated data
        "NSD_BACKFILL_CRON": "* * * * *",
        "NSD_BACKFILL_SUBJECTS": SUBJECT,
        "NSD_GPU_LOCKS": str(tmp_path / "locks"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    with ExitStack() as stack:
        folder, server, url = tmp_path / "store", None, str(source)
        disk = stack.enter_context(small_disk(folder)) if kind == "local" else None
        if kind == "s3":
            server = request.getfixturevalue("moto_server")
            assert isinstance(server, MotoServer)
            use_moto(server, monkeypatch)
            with suppress(server.client.exceptions.BucketAlreadyOwnedByYou):
                server.client.create_bucket(Bucket=BUCKET)
            bucket = stack.enter_context(serve(source, drop=0.05, seed=SEED))
            environment["NSD_SOURCE_ENDPOINT"] = bucket.url
            url = "s3://natural-scenes-dataset"
        place, without = Place(folder, server), Place(tmp_path / "without", server)
        place.clear()
        without.clear()
        store = str(place.open().url)
        environment |= {"NSD_SOURCE": url, "NSD_STORAGE": store}
        (home := tmp_path / "home").mkdir()
        shutil.copy(ROOT / "dagster.yaml", home)
        order = Order(url, store, str(home), str(small_nsd.encoder), 0, str(tmp_path / "answer"))
        person = Person(order, environment)
        stack.callback(person.end)
        servers = Servers(home, Path(store), environment)
        servers.run("nsd", "prepare")
        servers.run("dagster", "sensor", "stop", "carry_on", "-w", str(ROOT / "workspace.yaml"))
        servers.start("dagster-daemon", "run")
        daemon = stack.enter_context(ExitStack())
        daemon.callback(servers.end)
        lab = Lab(place, person, servers, chance, source, disk)
        start, taken = time.monotonic(), []
        deck = [step for step in STEPS if disk or step not in OF_A_DISK]
        try:
            lab.materialize()
            for number in effort.numbers():
                if number % len(deck) == 0 and effort.cases > len(deck):
                    chance.shuffle(deck)  # in the suite, it is the first steps
                taken.append(deck[number % len(deck)])
                getattr(lab, taken[-1])()
                lab.check()
            if effort.cases > len(deck):  # a minute is too long for every change
                lab.leave_it_to_the_schedule()
            daemon.close()
            until(lambda: not [*lab.processes()], "the last runs have ended", 600)
            _end(lab, without, tmp_path)
        except BaseException as error:
            error.add_note(f"SEED={SEED}, {kind}, steps: {', '.join(taken)}")
            raise
        if kind == "local":
            assert leftovers(Path(store)) == []
    n_made = sum(times * number for times, number in lab.made().items())
    more = {"made": n_made, "errors": len(lab.said), "scheduled": lab.scheduled()}
    more |= {"kinds": f"{len({*taken})} of {len(deck)}"}
    figures(f"steps between all stages, {kind}", len(taken), time.monotonic() - start, **more)


def _end(lab: Lab, without: Place, folder: Path) -> None:
    """5 and 6, see above."""
    for _ in range(_ATTEMPTS):
        lab.materialize()
        lab.check()
        if not lab.flipped:
            break
    made = lab.made()
    # A person and the daemon may both have found it missing.
    assert max(made) <= 2 * (1 + lab.reasons), made
    lab.materialize()
    assert lab.made() == made
    (home := folder / "home without").mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    undisturbed = without.open()
    process, answer = lab.person.start(store=str(undisturbed.url), home=str(home))
    assert lab.answer(process, answer) == ""
    store = lab.place.open()
    keys = store.keys()
    assert keys == undisturbed.keys()
    one, other = ({key: digests(each.folder(key)) for key in keys} for each in (store, undisturbed))
    assert one == other
