import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from nsd_pipeline.cli import main
from nsd_pipeline.errors import NsdError, TermsNotAcceptedError
from nsd_pipeline.storage import terms
from nsd_pipeline.storage.s3_store import S3Store


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where the record lies: the tests' XDG_CONFIG_HOME is below tmp_path."""
    return tmp_path / "config" / "nsd_pipeline" / "terms.json"


def test_an_acceptance_is_recorded_once_for_all_processes(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert terms.accepted() is None
    monkeypatch.setenv("LOGNAME", "Ada")
    terms.accept()
    acceptance = terms.accepted()
    assert acceptance is not None
    assert (acceptance.who, acceptance.terms_url) == ("Ada", terms.TERMS_URL)
    assert acceptance.when.utcoffset() is not None
    assert list(record.parent.iterdir()) == [record]
    terms.require_acceptance("s3://natural-scenes-dataset")


@pytest.mark.parametrize("value", ["", "0", "true"])
def test_without_acceptance_the_next_step_is_told(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("NSD_ACCEPT_TERMS", value)
    with pytest.raises(TermsNotAcceptedError) as told:
        terms.require_acceptance("s3://natural-scenes-dataset")
    for part in (terms.TERMS_URL, "nsd terms --accept", "NSD_ACCEPT_TERMS=1"):
        assert part in str(told.value)


def test_a_machine_may_be_told_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    terms.require_acceptance("s3://natural-scenes-dataset")


@pytest.mark.parametrize("spoil", ["other terms", "not json"])
def test_a_record_of_other_terms_does_not_count(record: Path, spoil: str) -> None:
    terms.accept()
    other = json.loads(record.read_text()) | {"terms_url": "https://example.org/old"}
    record.write_text(json.dumps(other) if spoil == "other terms" else "{")
    assert terms.accepted() is None


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of a container: no entry in /etc/passwd, no HOME, no name."""
    for name in (
        "HOME",
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "LOGNAME",
        "USER",
        "LNAME",
        "USERNAME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home_is_told_where_one_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(main, ["terms"])
    assert "Not accepted yet" in shown.output
    refused = CliRunner().invoke(main, ["terms", "--accept"])
    assert "Error: The user 12345 has no home folder" in refused.output
    assert "set XDG_CONFIG_HOME" in refused.output
    with pytest.raises(TermsNotAcceptedError, match="user 12345 has no home folder"):
        terms.require_acceptance("s3://natural-scenes-dataset")
    with pytest.raises(NsdError, match="XDG_CACHE_HOME is not set"):
        S3Store("s3://lab/artifacts")

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    accepted = CliRunner().invoke(main, ["terms", "--accept"])
    assert "Accepted by user 12345" in accepted.output


def test_an_acceptance_that_cannot_be_recorded_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    refused = CliRunner().invoke(main, ["terms", "--accept"])
    assert refused.exit_code == 1
    assert "cannot be recorded" in refused.output
    assert "NSD_ACCEPT_TERMS=1" in refused.output
