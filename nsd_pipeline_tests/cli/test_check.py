"""`nsd check` on a mirror of real dimensions, of which most bytes are holes."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from nsd_pipeline.nsd import layout, mgh
from nsd_pipeline.nsd.known_facts import MEDIAN_NCSNR, NSDGENERAL_VERTICES
from nsd_pipeline_tests.cli.conftest import Nsd, parsed
from nsd_pipeline_tests.nsd.conftest import (
    arrays,
    design_path,
    folder,
    responses_path,
    stim_info_path,
)
from nsd_pipeline_tests.nsd.mgh_files import write_mgh

__all__ = ["arrays", "design_path", "folder", "responses_path", "stim_info_path"]
SUBJECT = "subj03"
BETAS = layout.betas_keys(SUBJECT, 1, "fsaverage")


@pytest.fixture
def mirror(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nsd: Nsd,
    design_path: Path,
    stim_info_path: Path,
    responses_path: Path,
) -> Path:
    """What a lab may have of subj03: the design, a session of betas, noise ceilings."""
    root = tmp_path / "mirror"

    def place(key: str) -> Path:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        return root / key

    shutil.copy(design_path, place(layout.EXPDESIGN_KEY))
    shutil.copy(stim_info_path, place(layout.STIM_INFO_KEY))
    shutil.copy(responses_path, place(layout.responses_key(SUBJECT)))
    header = mgh.header_bytes(layout.FSAVERAGE_VERTICES, 750)
    for key in BETAS:
        with place(key).open("wb") as file:
            file.write(header)
            file.truncate(491_526_284 + 20)
    for side, n_inside in (("lh", NSDGENERAL_VERTICES // 2), ("rh", NSDGENERAL_VERTICES // 2)):
        label = np.full((layout.FSAVERAGE_VERTICES, 1), -1.0, np.float32)
        label[:n_inside] = 1
        ceiling = np.zeros_like(label)
        ceiling[:n_inside] = MEDIAN_NCSNR[SUBJECT] + np.linspace(-0.1, 0.1, n_inside)[:, None]
        write_mgh(place(f"{layout.betas_folder(SUBJECT, 'fsaverage')}/{side}.ncsnr.mgh"), ceiling.T)
        plain = tmp_path / "label.mgh"
        write_mgh(plain, label.T)
        packed = gzip.compress(plain.read_bytes())
        place(f"nsddata/freesurfer/fsaverage/label/{side}.nsdgeneral.mgz").write_bytes(packed)
    monkeypatch.setenv("NSD_SOURCE", str(root))
    return root


def test_a_mirror_is_held_against_what_is_known(nsd: Nsd, mirror: Path) -> None:
    result = nsd("check", "--subject", SUBJECT, "--json")
    facts = {fact["name"]: (fact["found"], fact["holds"]) for fact in parsed(result)}
    assert facts == {
        "trials of each session": ("750", True),
        # The made-up order shows other images than the real one.
        "subj03: images seen": (facts["subj03: images seen"][0], False),
        "images seen by anybody": (facts["images seen by anybody"][0], False),
        "shared images all saw once, twice, three times": (
            facts["shared images all saw once, twice, three times"][0],
            False,
        ),
        "subj03: three sources name the same image for each trial": ("32 sessions", True),
        "subj03: betas on fsaverage": ("1 of 32 sessions, as they should be", True),
        "vertices of nsdgeneral": ("37,984", True),
        "subj03: median ncsnr in nsdgeneral": ("0.431", True),
        "images in the stimulus file": ("not on the source", None),
    }
    assert result.exit_code == 1

    with (mirror / BETAS[1]).open("r+b") as file:
        file.truncate(491_526_283)
    shown = nsd("check", "--subject", SUBJECT)
    assert "NO  subj03: betas on fsaverage: 1 sessions not:" in shown.stdout
    assert "is truncated" in shown.stdout
    assert "--  images in the stimulus file: not on the source" in shown.stdout


def test_a_generated_dataset_is_not_the_real_one(nsd: Nsd, tmp_path: Path) -> None:
    (tmp_path / "nsd").mkdir()
    (tmp_path / "nsd" / layout.GENERATED_KEY).write_text("{}")
    refused = nsd("check")
    assert refused.exit_code == 1
    assert "generated" in refused.output
    assert "Next step: set NSD_SOURCE" in refused.output
