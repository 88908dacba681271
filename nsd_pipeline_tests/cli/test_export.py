"""`nsd export` on what the small dataset's models retrieve."""

import csv
from pathlib import Path

import pytest

import nsd_pipeline as nsd_in_python
from nsd_pipeline_tests.cli.conftest import Nsd, parsed


def test_the_table_is_what_the_decoder_retrieves(
    nsd: Nsd, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSD_STORAGE", str(trained / "artifacts"))
    output = tmp_path / "table"
    arguments = ("export", "--subject", "subj01", "--to", "csv", "--output", str(output))
    done = nsd(*arguments)
    assert (done.exit_code, done.output.count("generated data")) == (0, 1), done.output
    again = parsed(nsd(*arguments, "--json"))
    assert again["files"].keys() == {"README.txt", "predictions.csv", "nsd_export.json"}
    rows = list(csv.DictReader((output / "predictions.csv").open()))
    store = nsd_in_python.open(trained / "artifacts")
    betas, decoder = store.betas("subj01"), store.decoder("subj01")
    test = betas[betas.shared]
    table = decoder.retrieve(decoder.ensemble(test), among=sorted(set(test.image_id.to_numpy())))
    assert len(rows) == test.sizes["trial"]
    for row, (_, found) in zip(rows, table.groupby("row"), strict=True):
        n = int(row["n_candidates"])
        assert [int(row[f"image_{k}"]) for k in range(1, n + 1)] == [*found["retrieved_image_id"]]
        assert [float(row[f"score_{k}"]) for k in range(1, n + 1)] == pytest.approx(
            [*found["score"]], rel=1e-4, abs=1e-6
        )
        assert row[f"image_{round(float(row['place']))}"] == row["image_id"]
        assert int(row["session"]) == found["session"].iloc[0]


def test_an_error_is_a_sentence(nsd: Nsd, tmp_path: Path) -> None:
    failed = nsd("export", "--subject", "all", "--to", "hf", "--output", str(tmp_path / "card"))
    assert failed.exit_code == 1
    assert "has no models of all" in failed.output
    assert not (tmp_path / "card").exists()
