"""What `materialize_artifacts` says of what it could not make."""

from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline.assets.artifacts import Recipe, materialize_artifacts, ranged_asset
from nsd_pipeline.nsd.errors import InvalidFileError
from nsd_pipeline.storage.store import open_store

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
