"""The package costs nothing until it is used, and has what it promises."""

import subprocess
import sys

import nsd_pipeline.decoding


def test_import_is_light():
    code = (
        "import sys, nsd_pipeline.decoding as d; d.TrainingConfig; "
        "print([m for m in ('torch', 'scipy', 'sklearn', 'pandas') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "[]"


def test_every_public_name_is_there():
    for name in nsd_pipeline.decoding.__all__:
        value = getattr(nsd_pipeline.decoding, name)
        assert not isinstance(value, type(sys)), f"{name} is shadowed by a module"
