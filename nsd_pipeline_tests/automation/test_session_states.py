"""How a session stands, after each thing that can happen to it."""

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.nsd import layout
from nsd_pipeline.steps.events import Events, FsaverageEvents
from nsd_pipeline.steps.sessions import look_at_sessions
from nsd_pipeline.steps.step import Tools
from nsd_pipeline.storage.opening import open_source
from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd, link_tree

SESSION = "subj01_ses01"
FILE = layout.betas_keys("subj01", 1, "fsaverage")[1]


@pytest.fixture
def graph(
    small_nsd: SmallNsd, one_session: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> Pipeline:
    source = small_nsd.copy(tmp_path / "nsd")
    link_tree(one_session, tmp_path / "artifacts")
    return Pipeline(str(source), tmp_path / "artifacts", small_nsd.encoder, instance)


def touch(key: str) -> Callable[[Pipeline], None]:
    def change(graph: Pipeline) -> None:
        path = Path(graph.source) / key
        content = path.read_bytes()
        path.unlink()  # it is a link to a file that other tests read
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))

    return change


def cut_off(graph: Pipeline) -> None:
    path = Path(graph.source) / FILE
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def remove(graph: Pipeline) -> None:
    (Path(graph.source) / FILE).unlink()


def lose_events(graph: Pipeline) -> None:
    shutil.rmtree(graph.artifacts / "fsaverage_events/subj01/ses01")
    (graph.artifacts / "manifests/fsaverage_events/subj01/ses01.json").unlink()


def choose_a_query(graph: Pipeline) -> None:
    query = "type != 'Fmri' or space in ['fsaverage']"
    chosen = {FsaverageEvents.name: {"query": query}}
    graph.run("fsaverage_events", "fsaverage5_betas", first=SESSION, config=chosen)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda _: None, "up to date"),
        (touch(FILE), "stale"),
        (touch(layout.EXPDESIGN_KEY), "stale"),
        (cut_off, "missing"),  # the run that is started for it says what is wrong
        (remove, "not on the source"),
        (lose_events, "missing"),
        (choose_a_query, "left alone"),
    ],
)
def test_how_a_session_stands(
    graph: Pipeline, change: Callable[[Pipeline], None], state: str
) -> None:
    change(graph)
    states = look_at_sessions(open_source(graph.source), graph.store, [SESSION])
    assert {name for name, sessions in states.by_state.items() if sessions} == {state}
    assert states.to_do == ([SESSION] if state in ("missing", "stale") else [])


def test_how_sessions_stand_is_told_without_the_73000_images(
    graph: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("nsd_pipeline.steps.events.read_stimulus_info")
    states = look_at_sessions(open_source(graph.source), graph.store, [SESSION])
    assert states["up to date"] == [SESSION]


def test_a_session_made_by_other_code_is_stale(
    graph: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Events, "code_version", "2")
    states = look_at_sessions(open_source(graph.source), graph.store, [SESSION])
    assert states["stale"] == [SESSION]


def test_a_store_that_does_not_answer_makes_no_session_missing(
    graph: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> None:
        raise ArtifactError("The artifact store did not serve it.", next_step="check it.")

    store = graph.store
    monkeypatch.setattr(Events, "made", silent)
    with pytest.raises(ArtifactError, match="did not serve"):
        look_at_sessions(open_source(graph.source), store, [SESSION])


def test_sessions_that_are_looked_at_together_are_listed_once(
    graph: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, both = open_source(graph.source), threading.Barrier(2)
    listed: list[str] = []

    def count(_: object, prefix: str) -> list[str]:
        listed.append(prefix)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # whoever would list it as well comes meanwhile
        return []

    events = Events(Tools(graph.store, lambda: source))
    monkeypatch.setattr(type(source), "list", count)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(events.plan, [SESSION, "subj01_ses02"]))
    assert len(listed) == len(set(listed)) == len(layout.SPACES)


def test_without_a_design_every_session_of_the_source_is_missing(
    small_nsd: SmallNsd, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    graph = Pipeline(str(small_nsd.folder), tmp_path, small_nsd.encoder, instance)
    sessions = [SESSION, "subj01_ses40"]
    states = look_at_sessions(open_source(graph.source), graph.store, sessions)
    assert (states["missing"], states["not on the source"]) == (sessions[:1], sessions[1:])
