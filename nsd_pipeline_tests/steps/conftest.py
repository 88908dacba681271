from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd, link_tree
from nsd_pipeline_tests.storage.servers import s3rver, s3rver_script

__all__ = ["s3rver", "s3rver_script"]


@pytest.fixture
def pipeline(
    small_nsd: SmallNsd, tmp_path: Path, instance: dg.DagsterInstance
) -> Callable[[str | Path], Pipeline]:
    """The graph on a source, with a store that is empty or begins with artifacts that are there."""

    def make(source: str | Path = small_nsd.folder, *, begin: Path | None = None) -> Pipeline:
        if begin:
            link_tree(begin, tmp_path / "artifacts")
        return Pipeline(str(source), tmp_path / "artifacts", small_nsd.encoder, instance)

    return make
