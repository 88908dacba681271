"""What `materialize_artifacts` says of what it could not make."""

import re
from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline.assets.artifacts import Recipe, materialize_artifacts, ranged_asset
from nsd_pipeline.dagster_private import range_tags
from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Draft

TEXT = "C:/nsd :a.mgh ends early."


def refuse(partition: str) -> Recipe:
    raise InvalidFileError(TEXT, next_step="copy it again.")


@pytest.mark.parametrize("partition", [None, "a"])
def test_a_failure_names_what_failed_and_leaves_the_error_s_text_as_it_is(
    partition: str | None, tmp_path: Path
) -> None:
    def failing(context: dg.AssetExecutionContext) -> None:
        materialize_artifacts(context, open_store(tmp_path), recipe=refuse, make=lambda *_: {})

    if partition is None:
        asset = dg.asset(failing)
    else:
        asset = ranged_asset(partitions_def=dg.StaticPartitionsDefinition([partition]))(failing)
    with pytest.raises(dg.Failure) as failure:
        dg.materialize([asset], partition_key=partition)
    first, *_ = str(failure.value.description).splitlines()
    assert first.startswith(f"failing{f' {partition}' if partition else ''}: {TEXT}")


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
    error: Exception, says: str, tmp_path: Path
) -> None:
    store = open_store(tmp_path)
    partitions = dg.StaticPartitionsDefinition(["a", "b", "c"])

    def make(partition: str, _: Recipe, draft: Draft) -> dict[str, int]:
        if partition == "b":
            raise error
        (draft.folder / "file").write_text(partition)
        return {}

    @ranged_asset(partitions_def=partitions)
    def some(context: dg.AssetExecutionContext) -> None:
        materialize_artifacts(
            context, store, recipe=lambda each: Recipe(f"some/{each}", {}), make=make
        )

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [some], instance=instance, tags=range_tags("a", "c"), raise_on_error=False
        )
        recorded = instance.get_materialized_partitions(some.key)
        logged = [entry for entry in instance.all_logs(result.run_id) if entry.level == 10]
    failure = result.failure_data_for_node("some")
    assert failure is not None
    description = str(failure.user_failure_data.description)
    assert re.match(f"some b: .*{says}", description, re.DOTALL)
    assert store.keys("some/") == ["some/a", "some/c"]
    assert recorded == {"a", "c"}
    # The store has words of its own for a full disk.
    traced = any("Traceback" in entry.user_message for entry in logged)
    assert traced == ("free some space" not in says)
