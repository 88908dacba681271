from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd
from nsd_pipeline_tests.storage.servers import s3rver, s3rver_script

__all__ = ["s3rver", "s3rver_script"]


@pytest.fixture
def pipeline(
    small_nsd: SmallNsd, tmp_path: Path, instance: dg.DagsterInstance
) -> Callable[[str | Path], Pipeline]:
    """The graph on a source, with an empty store."""

    def make(source: str | Path = small_nsd.folder) -> Pipeline:
        return Pipeline(str(source), tmp_path / "artifacts", small_nsd.encoder, instance)

    return make
