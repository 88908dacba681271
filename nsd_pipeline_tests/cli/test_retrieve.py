"""`nsd retrieve` shows what the models retrieve, and says when that says little."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nsd_pipeline
from nsd_pipeline.embeddings import ImageEncoder
from nsd_pipeline_tests.cli.conftest import Nsd, parsed
from nsd_pipeline_tests.test_structure import loaded_by

TEST_TRIAL = ("--subject", "subj01", "--session", "1", "--trial", "6")


def test_it_retrieves_what_the_metrics_say_and_draws_it(nsd: Nsd, workplace: Path) -> None:
    shown = nsd("retrieve", *TEST_TRIAL, "--output", "figure.png")
    assert shown.exit_code == 0, shown.output
    answer = parsed(nsd("retrieve", *TEST_TRIAL, "-k", "3", "--json"))
    top = pd.read_parquet("artifacts/retrieval_metrics/subj01/top10.parquet")
    top = top[(top.session == 1) & (top.trial == 6)]
    (seen_place,) = top.loc[top.retrieved_image_id == answer["image_id"], "place"]
    assert [int(each["name"]) for each in answer["retrieved"]] == [*top.retrieved_image_id[:3]]
    assert (answer["seen_place"], answer["n_candidates"]) == (seen_place, len(top))
    assert all(abs(each["similarity"]) <= 1 for each in answer["retrieved"])
    assert f"the image seen is at place {seen_place}.\nfigure.png\n" in shown.stdout
    with Image.open(answer["figure"]) as less, Image.open("figure.png") as more:
        assert np.asarray(less).shape == np.asarray(more).shape
        assert less.width > 2 * less.height


def test_own_pictures_are_embedded_once_and_the_image_seen_is_known_among_them(
    nsd: Nsd, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("retrieve", *TEST_TRIAL, "--images", "my_pictures")
    without = nsd(*own)
    assert without.exit_code == 0, without.output
    assert "Of 2 pictures of my_pictures; the image seen is not among them" in without.stdout
    store = nsd_pipeline.open("artifacts")
    betas = store.betas("subj01", "1")
    (picture,) = store.images(betas.image_id[betas.trial == 6], source="nsd")
    Image.fromarray(picture).save("my_pictures/[seen].png")
    embedded: list[int] = []
    encode = ImageEncoder.encode
    monkeypatch.setattr(
        ImageEncoder, "encode", lambda self, all_: embedded.append(len(all_)) or encode(self, all_)
    )
    answer = parsed(nsd(*own, "--json"))
    assert [each["name"] for each in answer["retrieved"] if each["seen"]] == ["[seen].png"]
    assert answer["retrieved"][answer["seen_place"] - 1]["seen"]
    assert "[seen].png" in nsd(*own).stdout
    assert embedded == [1], "the others were known, and then all were"


@pytest.mark.parametrize(
    ("arguments", "problem", "next_step"),
    [
        (("--trial", "99"), "has no trial 99: its trials are 0 to 29", "one of these"),
        (("--session", "3"), "it lacks subj01_ses03", "prepare"),
        (("--session", "99"), "NSD has 1 to 40 of it", "prepare"),
        (("--subject", "subj02"), "experiment default has no models of subj02", "train them"),
        (("--experiment", "ridge"), "experiment ridge has no models of subj01", "train them"),
        (("--images", "empty"), "no picture in the folder empty", "a folder with pictures"),
        (("--images", "broken"), "broken/a.jpg cannot be read", "copy it again"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence_with_a_next_step(
    nsd: Nsd, workplace: Path, arguments: tuple[str, str], problem: str, next_step: str
) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/a.jpg").write_text("no picture")
    refused = nsd("retrieve", *TEST_TRIAL, *arguments)
    assert refused.exit_code == 1
    first, second = refused.stderr.splitlines()
    assert problem in first
    assert second.startswith("Next step:")
    assert next_step in second
    assert not list(workplace.glob("*.png"))


def test_a_trial_that_the_model_learned_from_is_shown_as_such(nsd: Nsd, workplace: Path) -> None:
    learned = ("retrieve", *TEST_TRIAL, "--trial", "5")
    assert "The model learned from this image" in nsd(*learned).stdout
    answer = parsed(nsd(*learned, "--json"))
    assert "new to it: 0, 1, 2, 6" in answer["note"]
    assert answer["seen_place"] is None
    assert parsed(nsd("retrieve", *TEST_TRIAL, "--json"))["note"] == ""


def test_an_encoder_that_is_not_where_it_was_is_named(nsd: Nsd, workplace: Path) -> None:
    Path("encoder").unlink()
    refused = nsd("retrieve", *TEST_TRIAL, "--images", "my_pictures")
    assert refused.exit_code == 1
    assert "The encoder of these embeddings, encoder (sha256:" in refused.stderr
    assert "Next step: name that folder in NSD_ENCODER." in refused.stderr
    assert nsd("retrieve", *TEST_TRIAL, "--output", "nowhere/a.png").exit_code == 2


def test_it_does_not_wait_for_dagster(nsd: Nsd, workplace: Path) -> None:
    loaded = loaded_by(
        f"from nsd_pipeline.cli import main; main(['retrieve', *{TEST_TRIAL}, '--images',"
        " 'my_pictures'], standalone_mode=False)"
    )
    assert "nsd_pipeline.decoding.trained_decoder" in loaded
    assert "dagster" not in loaded
