"""Artifacts that an earlier version made are found up to date, unless what decides them changed.

The manifests beside this file were written by commit 1145f76 for the small dataset.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline_tests.pipeline import SmallNsd

MANIFESTS = json.loads((Path(__file__).parent / "manifests_1145f76.json").read_text())


@pytest.mark.parametrize("then", MANIFESTS, ids=lambda manifest: manifest["key"])
def test_an_artifact_of_before_is_one_that_would_be_made_again(
    then: dict[str, object], one_session: Path
) -> None:
    key = str(then["key"])
    read = Manifest.parse(json.dumps(then).encode(), url="store", key=key, versioned=False)
    now = open_store(one_session).find(key)
    assert now is not None
    assert (now.inputs, now.config, now.code_version) == (
        read.inputs,
        read.config,
        read.code_version,
    )
    assert now.fingerprint == read.fingerprint


def test_a_folder_of_weights_may_be_moved(small_nsd: SmallNsd) -> None:
    ask = "from nsd_pipeline.steps.images import Embeddings; print(Embeddings.code_version)"
    said = {
        subprocess.run(
            [sys.executable, "-c", ask],
            env=os.environ | {"NSD_ENCODER": folder},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder in (str(small_nsd.encoder), "/moved/elsewhere")
    }
    assert said == {"1 facebook/dinov2-giant\n"}
