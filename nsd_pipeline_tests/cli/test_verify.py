"""`nsd verify` finds and marks what is damaged; `nsd prune` deletes what nobody needs."""

from pathlib import Path

from nsd_pipeline.storage.opening import open_store
from nsd_pipeline_tests.cli.conftest import Nsd, parsed
from nsd_pipeline_tests.cli.many_artifacts import write_full_store

KEY = "events/subj01/ses01"


def flip(artifacts: Path) -> Path:
    path = artifacts / KEY / "events.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_a_flipped_byte_is_found_by_a_deep_look_marked_and_made_again(
    nsd: Nsd, artifacts: Path
) -> None:
    assert nsd("verify", "--deep").exit_code == 0
    flip(artifacts)
    assert nsd("verify").exit_code == 0, "the size is right"
    found = nsd("verify", "--deep")
    assert found.exit_code == 1
    assert f"{KEY}: its file events.parquet has another SHA-256" in found.stdout
    assert "--repair" in found.stdout
    assert open_store(artifacts).manifest(KEY) is not None
    repaired = parsed(nsd("verify", "--deep", "--repair", "--json"))
    assert repaired["repaired"] == [KEY]
    assert open_store(artifacts).manifest(KEY) is None, "the next run makes it again"
    assert nsd("verify").exit_code == 1


def test_nothing_goes_without_yes(nsd: Nsd, artifacts: Path) -> None:
    stray = artifacts / KEY / "left.tmp"
    stray.write_bytes(bytes(1000))
    (artifacts / "notes.txt").write_text("not ours")
    assert "1 orphan" in nsd("verify").stdout
    shown = nsd("prune")
    assert (shown.exit_code, stray.exists()) == (0, True)
    assert "1.0 kB: would go" in shown.stdout
    deleted = parsed(nsd("prune", "--yes", "--json"))
    assert (deleted["deleted"], deleted["n_bytes"], stray.exists()) == (True, 1000, False)
    assert (artifacts / "notes.txt").exists()
    assert "nothing that could go" in nsd("prune").stdout


def test_an_experiment_goes_as_a_whole_and_alone(nsd: Nsd, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    n_artifacts = write_full_store(artifacts, 11, {"subj01": 2})
    assert "2 in" in nsd("prune", "--experiment", "try_1").stdout
    assert nsd("prune", "--experiment", "try_1", "--yes").exit_code == 0
    keys = open_store(artifacts).keys()
    assert len(keys) == n_artifacts - 2
    assert "experiments/try_10/model/subj01" in keys
    assert not [path for path in (artifacts / "experiments/try_1").rglob("*") if path.is_file()]
    assert nsd("prune", "--experiment", "try_1").exit_code == 2


def test_a_space_s_betas_go_alone(nsd: Nsd, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    n_artifacts = write_full_store(artifacts, 1, {"subj01": 2})
    made = {"asset": "betas_MNI", "partition": "subj01_ses01", "fingerprint": "f"}
    with open_store(artifacts).write(
        "betas_MNI/subj01/ses01", **made, code_version="2", inputs={}, config={}, expected_bytes=0
    ) as draft:
        (draft.folder / "file").write_bytes(b"1")
    assert nsd("prune", "--space", "func1mm").exit_code == 2
    assert nsd("prune", "--space", "MNI", "--yes").exit_code == 0
    keys = open_store(artifacts).keys()
    assert len(keys) == n_artifacts
    assert "betas/subj01/ses01" in keys
