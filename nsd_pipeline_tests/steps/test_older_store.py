"""Artifacts that an earlier version made are found up to date, unless what decides them changed.

The manifests beside this file were written by commit 1145f76 for the small dataset.
"""

import json
import os
from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline_tests.pipeline import Pipeline, SmallNsd

MANIFESTS = json.loads((Path(__file__).parent / "manifests_1145f76.json").read_text())
MODIFIED = 10**18
"""Time, in ns, that the files of the source had; it is part of the version of a mirror's file."""


@pytest.fixture(scope="module")
def made_now(small_nsd: SmallNsd, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The same artifacts, made by this version."""
    folder = tmp_path_factory.mktemp("older_store")
    mirror = small_nsd.folder
    copies = [path for path in mirror.rglob("*") if path.is_file()]
    for path in copies:
        copy = folder / "nsd" / path.relative_to(mirror)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        os.utime(copy, ns=(MODIFIED, MODIFIED))
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Pipeline(str(folder / "nsd"), folder / "artifacts", small_nsd.encoder, instance)
        graph.run_sessions("subj01_ses01")
        graph.run_images("shared", "subj01")
        return graph


@pytest.mark.parametrize("then", MANIFESTS, ids=lambda manifest: manifest["key"])
def test_an_artifact_of_before_is_one_that_would_be_made_again(
    then: dict[str, object], made_now: Pipeline
) -> None:
    key = str(then["key"])
    read = Manifest.parse(json.dumps(then).encode(), url="store", key=key, versioned=False)
    now = made_now.store.find(key)
    assert now is not None
    assert (now.inputs, now.config, now.code_version) == (
        read.inputs,
        read.config,
        read.code_version,
    )
    assert now.fingerprint == read.fingerprint
