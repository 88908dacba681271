"""What a run says of artifacts that it could not make."""

import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import dagster as dg
import pytest

from nsd_pipeline.dagster_private import range_tags
from nsd_pipeline.errors import DamagedArtifactError, InvalidFileError, Remake
from nsd_pipeline.report import Picture
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.steps.running import FIGURES, in_words, read_figure, step_asset
from nsd_pipeline.steps.step import Change, Metadata, Plan, Standing, Step, Tools
from nsd_pipeline.storage.opening import open_source, open_store
from nsd_pipeline.storage.store import Draft

TEXT = "C:/nsd :a.mgh ends early."


class OfTest(Step):
    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(cls)


class Single(OfTest):
    """One artifact, whose plan fails."""

    name = "single"

    def plan(self, partition: str) -> Plan:
        raise InvalidFileError(TEXT, next_step="copy it again.")

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        raise AssertionError


class Parts(OfTest):
    """Three artifacts, one of which may fail while it is made."""

    name = "parts"
    partitions = dg.StaticPartitionsDefinition(["a", "b", "c"])
    error: Exception | None = None
    setting = 0
    inputs: Mapping[str, str] = {"file": "1"}

    def plan(self, partition: str) -> Plan:
        return Plan(self.inputs, settings={"setting": self.setting}, found={"size": 3})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        if self.error and partition == "b":
            raise self.error
        (draft.folder / "file").write_text(partition)
        return {}


class SingleOfParts(Single):
    name = "single_of_parts"
    partitions = dg.StaticPartitionsDefinition(["a"])


def tools_in(folder: Path) -> Tools:
    return Tools(open_store(folder), lambda: open_source(folder))


def resources_in(folder: Path) -> dict[str, object]:
    url = str(folder)
    return {"source": SourceResource(url=url), "store": StoreResource(url=url)}


@pytest.mark.parametrize("step", [Single, SingleOfParts])
def test_a_failure_names_what_failed_and_leaves_the_error_s_text_as_it_is(
    step: type[Step], tmp_path: Path
) -> None:
    partition = "a" if step.partitions else None
    with pytest.raises(dg.Failure) as failure:
        dg.materialize([step.asset()], resources=resources_in(tmp_path), partition_key=partition)
    first, *_ = str(failure.value.description).splitlines()
    assert first == f"{step.name}{f' {partition}' if partition else ''}: {TEXT}"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "too little memory"),
        (OSError(28, "No space left on device", "/data/x"), "The disk of .*free some space"),
        (PermissionError(13, "Permission denied", "/data/x"), "/data/x: Permission.*umask 002"),
        (NotADirectoryError(20, "Not a directory", "/data/x"), "/data/x: Not a.*NSD_STORAGE"),
        (KeyError("tr"), "KeyError: 'tr'.*stack trace in the run's log"),
    ],
)
def test_an_error_that_is_not_ours_is_put_into_words_and_leaves_the_others_alone(
    error: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parts, "error", error)
    parts, store = Parts.asset(), open_store(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [parts],
            resources=resources_in(tmp_path),
            instance=instance,
            tags=range_tags("a", "c"),
            raise_on_error=False,
        )
        recorded = instance.get_materialized_partitions(parts.key)
        logged = [entry for entry in instance.all_logs(result.run_id) if entry.level == 20]
    failure = result.failure_data_for_node("parts")
    assert failure is not None
    description = str(failure.user_failure_data.description)
    assert re.match(f"parts b: .*{says}", description, re.DOTALL)
    assert store.keys("parts/") == ["parts/a", "parts/c"]
    assert recorded == {"a", "c"}
    # The store has words of its own for a full disk.
    traced = any("Traceback" in entry.user_message for entry in logged)
    assert traced == ("free some space" not in says)


def test_the_command_that_makes_again_what_is_missing_is_told() -> None:
    error = InvalidFileError(
        "x.", next_step="make it again.", remake=Remake("betas", "subj01_ses01")
    )
    assert "--select betas --partition subj01_ses01`" in in_words(error)


def test_a_manifest_that_cannot_be_read_is_told_with_the_command(tmp_path: Path) -> None:
    step = Parts(tools_in(tmp_path))
    step.bring_up_to_date("a")
    (tmp_path / "manifests/parts/a.json").write_text("{")
    with pytest.raises(DamagedArtifactError) as told:
        Parts.made(step.store, "a")
    assert "--select parts --partition a`" in in_words(told.value)


def test_why_an_artifact_is_not_current(tmp_path: Path) -> None:
    step = Parts(tools_in(tmp_path))
    assert step.look("a").change is Change.MISSING
    step.bring_up_to_date("a")
    assert step.look("a").change is None

    step.setting = 1
    step.inputs = {"file": "2"}
    standing = step.look("a")
    assert (standing.change, standing.what) == (Change.SETTINGS, "setting")
    step.setting = 0
    standing = step.look("a")
    assert (standing.change, standing.what) == (Change.INPUTS, "file")
    step.inputs = {"file": "1"}

    class Newer(Parts):
        code_version = "2"

    standing = Newer(step.tools).look("a")
    assert (standing.change, standing.what) == (Change.CODE, "1 -> 2")

    (tmp_path / "parts/a/file").unlink()
    assert step.look("a").change is Change.MISSING


def test_partial_work_that_outlived_its_artifact_goes_unless_somebody_is_at_it(
    tmp_path: Path,
) -> None:
    step = Parts(tools_in(tmp_path))
    step.bring_up_to_date("a")
    scratch = step.store.scratch(step.key("a"))  # as after a kill, or a power cut
    with step.store.alone(step.key("a")):
        step.bring_up_to_date("a")
        assert scratch.exists()
    step.bring_up_to_date("a")
    assert not scratch.exists()


def test_what_is_current_is_that_to_whoever_may_only_read_too(tmp_path: Path) -> None:
    step = Parts(tools_in(tmp_path))
    step.bring_up_to_date("a")
    scratch = step.store.scratch(step.key("a"))
    locks = tmp_path / ".partial/locks"
    shutil.rmtree(locks)
    locks.write_text("no folder: nothing can be locked, as where one may not write")
    assert step.bring_up_to_date("a")[1].change is None
    assert scratch.exists()


def test_of_two_that_make_one_artifact_the_second_waits_and_finds_it_made(tmp_path: Path) -> None:
    making, looked = Event(), Event()
    made: list[str] = []

    class First(Parts):
        def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
            made.append(partition)
            making.set()
            assert looked.wait(60)
            return super().make(partition, plan, draft)

    class Second(First):
        def look(self, partition: str) -> Standing:
            standing = super().look(partition)
            looked.set()
            return standing

    with ThreadPoolExecutor(2) as people:
        first = people.submit(First(tools_in(tmp_path)).bring_up_to_date, "a")
        assert making.wait(60)
        second = people.submit(Second(tools_in(tmp_path)).bring_up_to_date, "a")
    assert first.result()[1].change is Change.MISSING
    assert second.result()[1].change is None
    assert made == ["a"]


@pytest.mark.parametrize("endings", [["png"], ["png", "svg"], ["png", "svg", "webp"]])
def test_a_figure_of_any_version_is_read(tmp_path: Path, endings: list[str]) -> None:
    (tmp_path / FIGURES).mkdir()
    for ending in endings:
        (tmp_path / FIGURES / f"map.{ending}").write_bytes(ending.encode())
    assert read_figure(tmp_path, "map") == Picture(**{endings[-1]: endings[-1].encode()})
    assert read_figure(tmp_path, "other") is None
