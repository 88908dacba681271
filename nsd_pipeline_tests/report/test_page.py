import base64
import html
import re
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright

from nsd_pipeline.report import (
    NOT_RECORDED,
    Overview,
    PageFigure,
    Picture,
    Result,
    differing_settings,
    headline,
    learning_curve,
    metric_label,
    new_subject_curve,
    readable_metrics,
    regions,
    render_page,
    repeats_curve,
    to_latex,
    to_markdown,
)

CREATED = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


LINES = Picture(b"", b"<svg><path d='M0 0'/></svg>")


PHOTOGRAPH = Picture(b"", b"<svg><image/></svg>", b"webp")


def metrics(**values: float) -> pd.DataFrame:
    values = {"top5_acc": 0.123, "median_retrieval_rank": 12.5, "std_retrieval_rank": 3.0} | values
    table = pd.DataFrame({"metric": list(values), "value": list(values.values())})
    ends = {"low": table["value"] * 0.8, "high": table["value"] * 1.2, "sd_of_seeds": 0.01}
    chance = table["metric"].map({"top5_acc": 0.001, "median_retrieval_rank": 499.5})
    return table.assign(**ends, chance=chance, ensemble=table["value"])


def result(experiment="default", cohort="subj01", **changes) -> Result:
    settings = {
        "metrics": metrics(),
        "figures": [PageFigure("Ranks", LINES, "among 1000")],
        "provenance": {
            "Sessions": "3 of 40",
            "Encoder": {"model": "dinov2", "ids": [1, 2]},
            "Visual streams": {},
        },
    }
    return Result(experiment, cohort, **{**settings, **changes})


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_page_is_self_contained():
    figures = [PageFigure("Ranks", LINES), PageFigure("Photos", PHOTOGRAPH)]
    downloads = {"results.csv": "a,b\n"}
    page = render_page(
        [result(figures=figures), result(cohort="all")],
        created=CREATED,
        downloads=downloads,
        surface="surface.html",
    )
    beside = r'(?:src|href)="((?!#|data:|https://doi\.org/10\.1038)[^"]*)"'
    assert set(re.findall(beside, page)) == {"surface.html", "results.csv"}
    assert 'download="results.csv" href="data:text/plain;base64,YSxiCg=="' in page
    shown = re.findall(r'src="data:image/(svg\+xml|webp);base64,([^"]+)"', html.unescape(page))
    assert [(kind, base64.b64decode(each)) for kind, each in shown] == [
        ("svg+xml", LINES.svg),
        ("webp", PHOTOGRAPH.webp),
        ("svg+xml", LINES.svg),
    ]


def test_page_has_experiments_by_cohorts_with_intervals_and_where_they_come_from():
    better = result("linear", "subj02", metrics=metrics(top5_acc=0.5))
    page = text_of(render_page([result(), better], created=CREATED))
    assert "Experiment subj01 subj02" in page
    assert "default 12.3 % 9.8 to 14.8 chance 0.1 % linear 50.0 % 40.0 to 60.0" in page
    # Rank 12.5 is place 13.5.
    row = "Median place 13.5 11 to 16 0.01 500.5 0.027× 13.5 median_retrieval_rank"  # noqa: RUF001
    assert row in page
    for expected in ("3 of 40", "dinov2", "1, 2", "2026-03-04 05:06 UTC"):
        assert expected in page
    assert "Visual streams" not in page  # no labels, nothing to open
    for expected in ("10.1038/s41593-021-00962-x", "IIS-1822683", "IIS-1822929"):
        assert expected in page


def test_artifacts_of_before_have_no_intervals():
    old = metrics().drop(columns=["low", "high", "sd_of_seeds", "ensemble"])
    page = text_of(render_page([result(metrics=old)], created=CREATED))
    assert "default 12.3 % chance 0.1 %" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_on_paper_every_table_is_seen_and_none_is_cut():
    names = "median_retrieval_rank_subject-ind_set=seen-by-all_macro", "std_retrieval_rank"
    table = metrics(**dict.fromkeys(names, 1234.5))
    cohorts = [*(f"subj{n:02d}" for n in range(1, 9)), "all"]
    page = render_page([result(cohort=name, metrics=table) for name in cohorts], created=CREATED)
    seen = """() => [...document.querySelectorAll("table")].map(table =>
        table.checkVisibility() && table.getBoundingClientRect().right <= innerWidth)"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        # An A4 page within its margins, of 96 dots an inch.
        paper = browser.new_page(viewport={"width": 688, "height": 1000})
        paper.set_content(page)
        assert not all(paper.evaluate(seen))
        paper.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        widths = paper.locator(".metrics tbody th").evaluate_all(
            "all => all.map(x => x.offsetWidth)"
        )
        assert min(widths) > 140, "no name of a metric is broken within its words"
        paper.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
        paper.emulate_media(media="print")
        assert all(paper.evaluate(seen))
        browser.close()


def test_page_shows_differences_and_how_many_they_are_corrected_for():
    rows = {"experiment": ["linear"], "cohort": ["all"], "difference": [-0.042], "low": [-0.06]}
    rest = {"high": [0.001], "p_value": [0.0004], "p_holm": [0.0123], "n_images": [9]}
    page = text_of(
        render_page(
            [result()],
            created=CREATED,
            overview=Overview(
                differences=pd.DataFrame(rows | rest),
                notes=["windows: other images"],
                ceilings=[PageFigure("Noise ceiling of subj01", LINES)],
            ),
        )
    )
    assert "linear all −4.2 −6.0 to +0.1 9 < 0.001 0.012" in html.unescape(page)  # noqa: RUF001
    assert "corrected for 1 comparisons" in page
    assert "windows: other images" in page
    assert "Noise ceiling of subj01" in page
    assert "Neither bounds how well images are retrieved" in page


def test_page_warns_of_photographs_only_when_it_has_some():
    warning = "Do not share this page"
    assert warning not in render_page([result()], created=CREATED)
    photos = [PageFigure("Gallery", LINES, photographs=True)]
    assert warning in render_page([result(figures=photos)], created=CREATED)
    assert warning in render_page([result()], created=CREATED, overview=Overview(photos))


def test_page_says_whose_pictures_it_shows():
    assert "from the Natural Scenes Dataset" in render_page([result()], created=CREATED)
    page = render_page([result()], created=CREATED, generated=True)
    assert "none is NSD" in page
    assert "from the Natural Scenes Dataset" not in page


def test_page_says_in_which_settings_results_differ_and_which_are_at_chance():
    settings = {"decoder": "FmriMlp", "seeds": "0", "patience": "5"}
    one = result(settings=settings)
    alike = render_page([one, result(cohort="all", settings=settings)], created=CREATED)
    assert "different settings" not in alike
    assert "differ in" not in alike
    assert "decoder FmriMlp, seeds 0." in alike
    other = result("linear", settings={**settings, "decoder": "FmriLinear"})
    page = text_of(render_page([one, other], created=CREATED))
    assert "What the experiments differ in Experiment decoder default FmriMlp linear Fmri" in page
    assert "different settings" not in page
    # Within an experiment it is a mistake.
    again = result(cohort="all", settings={**settings, "seeds": "1"}, warnings=["It is no better."])
    page = text_of(render_page([one, again], created=CREATED))
    assert "The cohorts of default were made with different settings" in page
    assert "Cohort seeds subj01 0 all 1" in page
    assert "default, all: It is no better." in page


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
            result(
                evil,
                evil,
                metrics=metrics().replace("top5_acc", evil),
                figures=[PageFigure(evil, Picture(b"", evil.encode()), evil)],
                provenance={evil: {evil: evil}, "b": evil, "c": {"list": [evil]}},
                settings={evil: evil},
                warnings=[evil],
            ),
            result(),
        ],
        created=CREATED,
        main_metrics=[evil],
        descriptions={evil: evil},
        downloads={evil: evil},
        surface=evil,
        overview=Overview(notes=[evil]),
    )
    found = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append(tag)
            assert not [name for name, _ in attrs if name.startswith("on") or "script" in name]

    Tags().feed(page)
    assert "script" not in found
    assert page.count("&lt;script&gt;") > 12


def test_people_read_places_and_files_have_ranks():
    table = metrics(batch_mean_rank=3.0)
    read = readable_metrics(table)
    assert read["value"].tolist() == [0.123, 13.5, 3.0, 4.0]
    assert read["high"].tolist()[1] == 16.0
    assert read["ratio"].tolist()[1] == pytest.approx(13.5 / 500.5)
    assert read["name"].tolist() == table["metric"].tolist()
    assert readable_metrics(table.assign(chance=0.0))["ratio"].isna().sum() == 2  # not of places
    assert headline(read, ["top5_acc", "batch_mean_rank"]) == [
        {
            "metric": "Top-5 accuracy",
            "value": "12.3 %",
            "95 % interval": "9.8 to 14.8",
            "chance": "0.1 %",
        },
        {
            "metric": "Mean place (within batches)",
            "value": "4",
            "95 % interval": "3.4 to 4.6",
            "chance": "–",  # noqa: RUF001
        },
    ]


def test_tables_for_papers_and_for_terminals():
    rows = metrics().assign(experiment="a_b", cohort="subj01")
    table = to_latex(pd.concat([rows, rows.assign(cohort="all")]), "top5_acc", "tab:x")
    assert r"a\_b & 12.3 \% [9.8 to 14.8] & 12.3 \% [9.8 to 14.8] \\" in table
    assert r"\caption{Top-5 accuracy, mean over seeds, with 95\,\% boot" in table
    other = rows.assign(cohort="all", chance=rows["chance"] + 0.05)
    table = to_latex(pd.concat([rows, other, rows.assign(cohort="x")]), "top5_acc", "tab:x")
    assert r"Chance: 0.1\,\% to 5.1\,\%." in table
    assert to_markdown(pd.DataFrame({"x": [0.123456, float("nan")]})).splitlines()[2:] == [
        "| 0.1235 |",
        "| -      |",
    ]


def test_repeats_are_points_in_percent():
    names = [
        "top1_acc",
        "top1_acc_repeats=1",
        "top1_acc_repeats=2",
        "mean_retrieval_rank_repeats=1",
    ]
    table = pd.DataFrame({"metric": names, "value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1})
    found = repeats_curve(table)[["line", "x", "value", "chance"]]
    assert found.to_numpy().tolist() == [["top-1", 1, 50, 10], ["top-1", 2, 50, 10]]
    assert repeats_curve(table[:1]).empty


def points(*experiments: str, sessions: tuple[int, ...]) -> pd.DataFrame:
    rows = zip(experiments, sessions, strict=True)
    found = pd.DataFrame(rows, columns=["experiment", "sessions"])
    return found.assign(cohort="subj01", value=1.0, low=0.0, high=2.0, chance=0.5)


def test_experiments_that_differ_in_their_sessions_only_are_a_learning_curve():
    settings = {
        "default": {"model": "mlp", "sessions": "all"},
        "one": {"model": "mlp", "sessions": "first 1"},
        "line": {"model": "linear", "sessions": "all"},
    }
    found = learning_curve(points(*settings, sessions=(40, 1, 40)), settings)
    assert found["x"].tolist() == [1, 40]
    assert found["experiment"].tolist() == ["one", "default"]
    # Another subject has one of them: a single point is no curve, and neither is the same twice.
    assert learning_curve(points("default", "line", sessions=(40, 40)), settings).empty
    assert learning_curve(points("default", "one", sessions=(1, 1)), settings).empty


def test_a_new_subject_is_known_from_others_or_from_its_own_sessions():
    own = {"train_on": "own", "start_from": None}
    settings = {
        "default": {**own, "sessions": "all"},
        "one": {**own, "sessions": "first 1"},
        "new": {**own, "sessions": "all", "train_on": "others"},
        "tuned": {**own, "sessions": "first 1", "start_from": "new"},
    }
    results = points(*settings, sessions=(40, 1, 280, 1))
    found = new_subject_curve(results, settings)
    assert found[["line", "x"]].to_numpy().tolist() == [
        ["others, then own", 0],
        ["others, then own", 1],
        ["own alone", 1],
        ["own alone", 40],
    ]
    assert new_subject_curve(results[results["experiment"] != "new"], settings).empty


def test_regions_stand_beside_the_whole_cortex():
    settings = {"default": {"region": None}, "early": {"region": "V1"}, "x": {"model": "x"}}
    results = points(*settings, sessions=(1, 1, 1))
    assert regions(results, settings)["group"].tolist() == ["default (all vertices)", "early"]
    assert regions(results[:1], settings).empty


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
        ("top1_acc_set=hard-negatives", "Top-1 accuracy (among the 20 most similar)"),
        (
            "median_retrieval_rank_subject-ind_set=seen-by-all_macro",
            "Median place (mean over images, images that all saw three times)",
        ),
        ("top5_acc_repeats=2", "Top-5 accuracy (mean of 2 of 3 repeats)"),
        ("inv_norm_rank_mean", "Mean inverse normalised rank"),
        ("something else", "something else"),
    ],
)
def test_labels(name, label):
    assert metric_label(name) == label
