"""What `nsd status` says of a store, after each thing that can happen to it."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner, Result

from nsd_pipeline.cli import main
from nsd_pipeline.nsd import layout
from nsd_pipeline.steps.surface import SurfaceBetas
from nsd_pipeline_tests.cli.conftest import SESSION, Nsd, parsed
from nsd_pipeline_tests.cli.many_artifacts import copy_to_bucket, write_full_store
from nsd_pipeline_tests.storage.servers import PickyServer
from nsd_pipeline_tests.storage.test_store import use_moto

FILE = layout.betas_keys("subj01", 1, "fsaverage")[0]


def states_of(result: Result) -> dict[str, tuple[str, str]]:
    """State and reason of what is there, by key."""
    return {
        artifact["key"]: (artifact["state"], artifact["why"])
        for stage in parsed(result)["stages"]
        for artifact in stage["artifacts"]
        if artifact["state"] != "missing"
    }


def replace_file(artifacts: Path) -> None:
    path = artifacts.parent / "nsd" / FILE
    content = path.read_bytes()
    path.unlink()  # it is a link to a file that other tests read
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def lose_source_file(artifacts: Path) -> None:
    (artifacts.parent / "nsd" / FILE).unlink()


def cut_short(artifacts: Path) -> None:
    next((artifacts / "fsaverage5_betas.zarr/subj01/ses01/betas/c").rglob("*/*")).write_bytes(b"")


def tear_manifest(artifacts: Path) -> None:
    (artifacts / "manifests/events/subj01/ses01.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "key", "state", "why"),
    [
        (replace_file, "betas/subj01/ses01", "stale", "changed since (lh.betas_session01.mgh"),
        (lose_source_file, "betas/subj01/ses01", "cannot be made again", FILE),
        (cut_short, "fsaverage5_betas.zarr/subj01/ses01", "damaged", "has 0 bytes instead of"),
        (tear_manifest, "events/subj01/ses01", "damaged", "its manifest"),
    ],
)
def test_what_is_not_as_it_should_be_is_told_with_the_reason(
    nsd: Nsd, artifacts: Path, change: Callable[[Path], None], key: str, state: str, why: str
) -> None:
    change(artifacts)
    result = nsd("status", "--json")
    assert result.exit_code == 1
    found = states_of(result)[key]
    assert found[0] == state
    assert why in found[1] or why.replace("(", f"({Path(FILE).parent}/") in found[1]
    shown = nsd("status")
    assert shown.exit_code == 1
    assert f"{key.split('/')[0].removesuffix('.zarr')}: {state}" in shown.stdout


def test_a_store_in_order(nsd: Nsd, artifacts: Path, tmp_path: Path) -> None:
    states = states_of(nsd("status", "--json"))
    assert states.pop("fmri_mlp/subj01") == (
        "other settings",
        "made with other settings (hidden, n_epochs)",
    )
    # The tests' encoder is chosen by config, which a look at the store alone cannot know.
    states = {key: state for key, state in states.items() if "embeddings" not in key}
    assert set(states.values()) == {("up to date", "")}
    assert f"betas/{SESSION.replace('_', '/')}" in states
    page = tmp_path / "page.html"
    shown = nsd("status", "--no-source", "--subject", "subj01", "--html", str(page))
    assert "1/40" in shown.stdout
    assert "the dataset's own files: it was not asked" in shown.stdout
    assert "1/40" in page.read_text()
    assert "</html>" in page.read_text()
    of_others = parsed(nsd("status", "--no-source", "--subject", "subj05", "--json"))["stages"]
    assert {each["name"]: each["n_bytes"] for each in of_others}["fsaverage5_betas"] == 0


def test_other_code_is_told(nsd: Nsd, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SurfaceBetas, "code_version", "9")
    found = states_of(nsd("status", "--json"))["fsaverage5_betas.zarr/subj01/ses01"]
    assert found == ("stale", "made by another version of the code (1 -> 9)")


def test_an_empty_store_a_source_that_is_away_and_a_name_that_is_none(
    nsd: Nsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = nsd("status")
    assert shown.exit_code == 0
    assert "0/40" in shown.stdout
    assert f"There is no folder {tmp_path}/nsd" in shown.stdout
    refused = nsd("status", "--experiment", "nothing")
    assert refused.exit_code == 2
    assert "nothing of the experiment nothing" in refused.output
    monkeypatch.setenv("NSD_STORAGE", "gs://bucket")
    told = nsd("status", "--json")
    assert told.exit_code == 1
    assert "neither a folder nor" in parsed(told)["error"]["problem"]
    traced = nsd("status", "--debug")
    assert traced.exit_code == 1
    assert "Traceback" in traced.output


def check_full(nsd: Nsd, n_artifacts: int) -> None:
    result = nsd("status", "--no-source", "--json")
    states = states_of(result)
    assert len(states) == n_artifacts
    assert set(states.values()) == {("up to date", "")}
    assert result.exit_code == 0
    shown = nsd("status", "--no-source", "--experiment", "try_1")
    assert "try_1_model" in shown.stdout
    assert "try_0" not in shown.stdout


def test_a_full_store_with_experiments(nsd: Nsd, tmp_path: Path) -> None:
    n_artifacts = write_full_store(tmp_path / "artifacts", 2, {"subj01": 3, "subj02": 2})
    check_full(nsd, n_artifacts)


def test_nothing_is_cut_in_a_narrow_window(
    nsd: Nsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_full_store(tmp_path / "artifacts", 1, dict.fromkeys(layout.SUBJECTS, 1))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("COLUMNS", "80")
    table, _, _ = nsd("status", "--no-source").stdout.partition("Not looked at")
    plain = re.sub(r"\x1b\[[\d;]*m", "", table)
    assert "…" not in plain
    shown = re.findall(r"subject +(.*?) +joint", plain)
    assert [each.split() for each in shown] == [
        ["01", "02", "03"],
        ["04", "05", "06"],
        ["07", "08"],
    ]
    assert "1/40" in plain


def test_on_s3_every_manifest_is_asked_for_once(
    nsd: Nsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_artifacts = write_full_store(tmp_path / "artifacts", 2, {"subj01": 3, "subj02": 2})
    server = PickyServer()
    try:
        use_moto(server, monkeypatch)
        client = boto3.client("s3")
        client.create_bucket(Bucket="full")
        copy_to_bucket(tmp_path / "artifacts", client, "full")
        monkeypatch.setenv("NSD_STORAGE", "s3://full/store")
        asked: list[str] = []
        server.changes = lambda environ: asked.append(environ["PATH_INFO"])
        check_full(nsd, n_artifacts)
    finally:
        server.stop()
    assert len(asked) == 2 * (n_artifacts + 2), "two listings, for either of two commands"


def test_shells_complete_subjects(nsd: Nsd) -> None:
    assert "_NSD_COMPLETE=bash_complete" in nsd("completion", "bash").stdout
    words = {"_NSD_COMPLETE": "bash_complete", "COMP_WORDS": "nsd plan subj0", "COMP_CWORD": "2"}
    done = CliRunner().invoke(main, prog_name="nsd", env=words)
    assert "plain,subj01" in done.stdout
