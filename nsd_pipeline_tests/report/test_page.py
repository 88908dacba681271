import base64
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from nsd_pipeline.report import (
    NOT_RECORDED,
    CohortReport,
    PageFigure,
    differing_settings,
    metric_label,
    metrics_table,
    readable_metrics,
    render_page,
    to_markdown,
)

CREATED = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def cohort(name="subj01", **changes):
    settings = {
        "metrics": {"top1_acc": 0.123, "median_retrieval_rank": 12.5, "std_retrieval_rank": 3.0},
        "chance": {"top1_acc": 0.001, "median_retrieval_rank": 499.5},
        "figures": [PageFigure("Ranks", b"\x89PNG ranks", "among 1000")],
        "provenance": {"Sessions": "3 of 40", "Encoder": {"model": "dinov2", "ids": [1, 2]}},
    }
    return CohortReport(name, **{**settings, **changes})


def test_page_is_self_contained():
    page = render_page([cohort(), cohort("all")], created=CREATED)
    assert re.findall(r'(?:src|href)="(?!#|data:|https://doi\.org/10\.1038)', page) == []
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(picture) for picture in pictures] == [b"\x89PNG ranks"] * 2


def test_page_shows_values_beside_chance_and_where_they_come_from():
    page = render_page([cohort()], created=CREATED, main_metrics=["top1_acc", "top5_acc"])
    text = " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S).split())
    assert "12.3 % 0.1 %" in text
    # Rank 12.5 is place 13.5.
    assert "Median place 13.5 500.5 0.027× median_retrieval_rank" in text  # noqa: RUF001
    for expected in ("3 of 40", "dinov2", "1, 2", "2026-03-04 05:06 UTC"):
        assert expected in text
    for expected in ("10.1038/s41593-021-00962-x", "IIS-1822683", "IIS-1822929"):
        assert expected in text


def test_page_warns_of_photographs_only_when_it_has_some():
    warning = "Do not share this page"
    assert warning not in render_page([cohort()], created=CREATED)
    photos = [PageFigure("Gallery", b"png", photographs=True)]
    assert warning in render_page([cohort(figures=photos)], created=CREATED)
    assert warning in render_page([cohort()], created=CREATED, figures=photos)


def test_page_says_whose_pictures_it_shows():
    assert "from the Natural Scenes Dataset" in render_page([cohort()], created=CREATED)
    page = render_page([cohort()], created=CREATED, generated=True)
    assert "none is NSD" in page
    assert "from the Natural Scenes Dataset" not in page


def test_page_says_in_which_settings_cohorts_differ_and_which_are_at_chance():
    one = cohort("subj01", settings={"decoder": "FmriMlp", "seed": "0", "patience": "5"})
    other = cohort("all", settings={"decoder": "FmriMlp", "seed": "1", "patience": "5"})
    alike = render_page([one, one], created=CREATED)
    assert "different settings" not in alike
    assert "decoder FmriMlp, seed 0." in alike
    page = render_page([one, other], created=CREATED)
    text = " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S).split())
    assert "made with different settings" in text
    assert "Setting subj01 all seed 0 1 Per trial" in text
    assert "decoder FmriMlp." in text
    assert "no better" not in page
    warned = render_page([one, cohort("all", warnings=["It is no better."])], created=CREATED)
    assert "<strong>all:</strong> It is no better." in warned


def test_a_setting_that_a_result_does_not_have_is_a_difference():
    by_result = {"a": {"x": 1, "y": 2}, "b": {"x": 1}, "c": {"x": 1, "z": 3}}
    assert differing_settings(by_result) == {
        "y": {"a": 2, "b": NOT_RECORDED, "c": NOT_RECORDED},
        "z": {"a": NOT_RECORDED, "b": NOT_RECORDED, "c": 3},
    }


def test_page_escapes_everything_it_is_given():
    evil = '<script>alert("x")</script>'
    page = render_page(
        [
            cohort(
                evil,
                metrics={evil: 1.0},
                figures=[PageFigure(evil, b"png", evil)],
                provenance={evil: {evil: evil}, "b": evil, "c": {"list": [evil]}},
            )
        ],
        created=CREATED,
        main_metrics=[evil],
    )

    found = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append(tag)
            assert not [name for name, _ in attrs if name.startswith("on") or "script" in name]

    Tags().feed(page)
    assert "script" not in found
    assert page.count("&lt;script&gt;") > 8


def test_table_puts_metrics_beside_chance():
    table = metrics_table(
        {"top1_acc": 0.2, "mean_retrieval_rank": 5.0, "x": 1.0}, {"top1_acc": 0.1}
    )
    pd.testing.assert_frame_equal(
        table,
        pd.DataFrame(
            {
                "metric": ["top1_acc", "mean_retrieval_rank", "x"],
                "value": [0.2, 5.0, 1.0],
                "chance": [0.1, np.nan, np.nan],
                "ratio": [2.0, np.nan, np.nan],
            }
        ),
    )
    assert metrics_table({"rank": 1.0}, {"rank": 0.0})["ratio"].isna().all()
    assert to_markdown(table).splitlines()[2:4] == [
        "| top1_acc            |     0.2 |      0.1 |       2 |",
        "| mean_retrieval_rank |     5   |      -   |       - |",
    ]


def test_people_read_places_and_files_have_ranks():
    metrics = {"median_retrieval_rank": 0.0, "batch_mean_rank": 3.0, "std_retrieval_rank": 2.0}
    table = metrics_table(metrics, {"median_retrieval_rank": 4.0})
    assert table["value"].tolist() == [0.0, 3.0, 2.0]
    read = readable_metrics(table)
    assert read["value"].tolist() == [1.0, 4.0, 2.0]
    assert read["ratio"].tolist()[0] == pytest.approx(0.2)
    assert read["metric"].tolist()[0] == "Median place"
    assert read["name"].tolist() == list(metrics)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("top5_acc", "Top-5 accuracy"),
        ("batch_top10_acc", "Top-10 accuracy (within batches)"),
        (
            "top1_acc_instance-agg_size=250",
            "Top-1 accuracy (averaged per image, set of 250)",
        ),
        (
            "median_retrieval_rank_subject-ind_size=250_macro",
            "Median place (mean over images, set of 250)",
        ),
        ("median_retrieval_rank_subject-ind", "Median place (mean over subjects)"),
        ("inv_norm_rank_mean", "Mean inverse normalised rank"),
        ("something else", "something else"),
    ],
)
def test_labels(name, label):
    assert metric_label(name) == label
