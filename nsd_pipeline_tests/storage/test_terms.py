import json
from pathlib import Path

import pytest

from nsd_pipeline.errors import TermsNotAcceptedError
from nsd_pipeline.storage import terms


def test_an_acceptance_is_recorded_once_for_all_processes(tmp_path: Path) -> None:
    assert terms.accepted(tmp_path) is None
    terms.accept(tmp_path, who="Ada")
    acceptance = terms.accepted(tmp_path)
    assert acceptance is not None
    assert (acceptance.who, acceptance.terms_url) == ("Ada", terms.TERMS_URL)
    assert acceptance.when.utcoffset() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["terms.json"]


def test_the_record_lies_in_the_users_settings(tmp_path: Path) -> None:
    terms.accept(who="Ada")  # the tests' XDG_CONFIG_HOME is below tmp_path
    assert (tmp_path / "config" / "nsd_pipeline" / "terms.json").exists()
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
def test_a_record_of_other_terms_does_not_count(tmp_path: Path, spoil: str) -> None:
    terms.accept(tmp_path)
    record = tmp_path / "terms.json"
    other = json.loads(record.read_text()) | {"terms_url": "https://example.org/old"}
    record.write_text(json.dumps(other) if spoil == "other terms" else "{")
    assert terms.accepted(tmp_path) is None
