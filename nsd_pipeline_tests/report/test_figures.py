import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report import (
    Picture,
    Rated,
    Retrieval,
    SurfaceLayer,
    difficulty_gallery,
    gallery_examples,
    interval_curves,
    interval_rows,
    rank_distribution,
    retrieval_gallery,
    session_numbers,
    surface_map,
    training_curves,
    turnable_surface,
)

N_VERTICES = 20_484


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))


def texts(picture: Picture) -> list[str]:
    """What an SVG says, in its order."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg.decode())


def is_like(image: np.ndarray, *color: int) -> np.ndarray:
    return np.abs(image.astype(int) - color).max(axis=-1) <= 12


@pytest.fixture
def history() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": [0, 1, 2, 3],
            "train/loss": [4.0, 3.0, 2.0, 1.5],
            "val/loss": [4.1, 3.5, 3.2, 3.3],
            "val/batch_top1_acc": [0.02, 0.1, 0.2, 0.2],
            "val/batch_top5_acc": [0.1, 0.3, 0.5, 0.4],
            "val/batch_top10_acc": [0.2, 0.5, 0.7, 0.75],
            "learning_rate": [1e-5, 1e-4, 5e-5, 1e-6],
        }
    )


def vermilion_columns(png: bytes) -> np.ndarray:
    image = pixels(png)
    match = np.abs(image.astype(int) - (0xD5, 0x5E, 0x00)).max(axis=-1) <= 40
    return np.flatnonzero(match.sum(axis=0) > 60)


def test_curves_mark_the_epoch_of_the_best_top5(history):
    assert "kept: epoch 2" in texts(training_curves(history, batch_size=64))
    history["val/batch_top5_acc"] = [0.1, 0.6, 0.5, 0.4]
    again = history.assign(seed=1, **{"val/batch_top5_acc": [0.1, 0.2, 0.3, 0.4]})
    both = pd.concat([history.assign(seed=0), again])
    assert "kept: epochs 1, 3" in texts(training_curves(both, batch_size=64))


def test_curves_of_one_epoch_without_validation(history):
    one = history.iloc[:1].assign(**{"val/batch_top5_acc": np.nan, "val/loss": np.nan})
    assert "kept: epoch 0" in texts(training_curves(one))


def test_every_figure_is_as_wide_as_a_column_and_has_text_in_its_svg(history):
    """So that no text gets smaller than it was drawn, on a telephone or in a journal."""
    for picture in (
        training_curves(history),
        rank_distribution([0.0, 1.5], 100),
        surface_map(np.zeros(N_VERTICES), "t", "u"),
    ):
        assert pixels(picture).shape[1] == 700
        assert b'width="252pt"' in picture.svg
        assert len(picture.svg) < 200_000
        sizes = re.findall(r"font(?:-size)?: (?:700 )?([\d.]+)px", picture.svg.decode())
        assert min(map(float, sizes)) >= 7


def test_curves_need_their_columns(history):
    with pytest.raises(NsdError, match="val/loss"):
        training_curves(history.drop(columns="val/loss"))
    with pytest.raises(NsdError, match="0 epochs"):
        training_curves(history.iloc[:0])


def test_gallery_puts_each_image_in_its_cell_and_frames_the_right_one():
    rng = np.random.default_rng(0)
    palette = np.stack(np.meshgrid([40, 140, 230], [30, 120], [60, 200]), axis=-1).reshape(
        -1, 3
    )  # 12 colours, well apart from each other and from the frame
    order = rng.permutation(12).reshape(2, 6)
    solid = [np.full((30, 30, 3), color, np.uint8) for color in palette]
    rows = [
        Retrieval(solid[cells[0]], rank, [solid[cell] for cell in cells[1:]], correct)
        for cells, rank, correct in zip(order, (3, 57), (3, None), strict=True)
    ]
    image = pixels(retrieval_gallery(rows))

    centres = np.empty((2, 6, 2))
    for row, column in np.ndindex(2, 6):
        match = np.abs(image.astype(int) - palette[order[row, column]]).max(axis=-1) <= 6
        assert match.sum() > 110 * 110
        centres[row, column] = np.argwhere(match).mean(axis=0)
    assert (np.diff(centres[..., 1], axis=1) > 118).all()
    assert (np.diff(centres[..., 0], axis=0) > 118).all()
    assert np.ptp(centres[..., 0], axis=1).max() < 2

    frame = np.argwhere(np.abs(image.astype(int) - (0, 0x9E, 0x73)).max(axis=-1) <= 12)
    assert len(frame) > 1000
    np.testing.assert_allclose(frame.mean(axis=0), centres[0, 4], atol=2)


def test_gallery_shows_the_best_the_median_and_the_worst():
    ranks = pd.DataFrame({"row": range(40), "image_id": range(40), "rank": np.arange(40.0)[::-1]})
    ranks = pd.concat([ranks, ranks.assign(row=ranks["row"] + 40, rank=-1.0)])  # second trials
    top = pd.DataFrame({"row": [39, 39], "place": [1, 2], "retrieved_image_id": [39, 7]})
    chosen = gallery_examples(ranks, top)
    assert [each.rank for each in chosen] == [0, 1, 2, 18, 19, 20, 37, 38, 39]
    assert [each.among for each in chosen] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert chosen[0].retrieved.tolist() == [39, 7]
    assert chosen[0].correct == 0
    assert [each.rank for each in gallery_examples(ranks.iloc[:4], top)] == [36, 37, 38, 39]


def test_galleries_stay_small_and_their_svgs_have_the_photographs():
    rng = np.random.default_rng(0)
    smooth = rng.normal(128, 45, (36, 12, 12, 3)).clip(0, 255).astype(np.uint8)
    photos = [np.asarray(Image.fromarray(image).resize((425, 425))) for image in smooth]
    rows = [Retrieval(photos[6 * i], 0, photos[6 * i + 1 : 6 * i + 6], 0) for i in range(6)]
    gallery = retrieval_gallery(rows)
    assert len(gallery.png) < 300_000
    page = Image.open(io.BytesIO(gallery.webp))
    assert page.width == 560
    assert len(gallery.webp) < 40_000
    assert gallery.svg.count(b"data:image/jpeg;base64,") == 36
    assert len(gallery.svg) < 300_000
    rated = [Rated(photo, 1 + i) for i, photo in enumerate(photos[:8])]
    said = texts(difficulty_gallery(rated[:3], rated[3:]))
    assert said == ["easiest: mean place", *"123", "hardest: mean place", *"45678"]
    with pytest.raises(NsdError, match="no trial"):
        retrieval_gallery([])


def test_ranks_differ_from_chance_to_the_eye():
    good = rank_distribution(np.repeat([0.0, 1.5, 40.0], 30), 100)
    chance = rank_distribution(np.arange(100), 100)
    assert good != chance
    with pytest.raises(NsdError, match="0 to 99"):
        rank_distribution([100.0], 100)
    with pytest.raises(NsdError, match="0 ranks"):
        rank_distribution([], 100)
    with pytest.raises(NsdError, match="0 to 99"):
        rank_distribution([np.nan], 100)


def test_rows_stand_in_their_groups_and_are_grey_where_the_interval_holds_the_reference():
    rows = pd.DataFrame(
        [("a", "subj01", 5, 4, 6), ("a", "subj02", 5, -1, 11), ("b", "subj01", -5, -6, -4)],
        columns=["group", "label", "value", "low", "high"],
    )
    (picture,) = interval_rows(rows, "points", reference=0)
    assert {"a", "b", "points"} < set(texts(picture))
    blue = is_like(pixels(picture), 0, 0x72, 0xB2)
    grey = is_like(pixels(picture), 0x6E, 0x6E, 0x6E)
    assert blue.sum(axis=1).max() < 0.3 * grey.sum(axis=1).max()
    (unsure,) = interval_rows(rows.assign(p_value=0.0625), "points", reference=0)
    assert not is_like(pixels(unsure), 0, 0x72, 0xB2).any()
    (one_each,) = interval_rows(rows.iloc[1:], "points")
    assert {"a", "b"} < set(texts(one_each))
    assert "subj01" not in texts(one_each)
    many = pd.concat([rows.iloc[:2].assign(group=f"e{n}", high=n) for n in range(20)])
    sheets = [texts(each) for each in interval_rows(many, "points")]
    assert [len([word for word in said if word[0] == "e"]) for said in sheets] == [15, 5]
    assert sheets[0][:4] == sheets[1][:4]  # the same axis


def test_curves_have_a_panel_for_each_and_a_line_for_each():
    points = pd.DataFrame(
        [(p, line, x, x, x - 1, x + 1, 0.5) for p in "pq" for line in "kl" for x in (1, 2)],
        columns=["panel", "line", "x", "value", "low", "high", "chance"],
    )
    picture = interval_curves(points, "sessions", "accuracy")
    # Chance, dotted: of each line, as they differ, and in the legend, in both panels.
    assert picture.svg.count(b"stroke-dasharray") == 2 * 3
    said = texts(picture)
    assert {"p", "q"} < set(said)
    assert said.count("k") == said.count("l") == said.count("chance") == 2


def saturated(picture: Picture, hemisphere: int | None = None) -> np.ndarray:
    """Mask of coloured pixels among the brains, of one hemisphere or both; no colour bar."""
    image = pixels(picture)[60:768].astype(int)
    half = slice(None) if hemisphere is None else slice(350 * hemisphere, 350 * (hemisphere + 1))
    return np.ptp(image[:, half], axis=-1) > 40


def test_surface_map_shows_values_where_they_are_and_cortex_elsewhere():
    values = np.full(N_VERTICES, np.nan)
    picture = surface_map(values, "none", "unit")
    assert not saturated(picture).any()
    grey = pixels(picture)[60:768, :, 0]
    assert ((grey > 80) & (grey < 220)).mean() > 0.4
    assert np.ptp(grey[(grey > 80) & (grey < 220)]) > 60  # gyri and sulci

    values[: N_VERTICES // 2] = np.linspace(1, 2, N_VERTICES // 2)
    left = surface_map(values, "left", "unit")
    assert saturated(left, 0).mean() > 0.3
    assert not saturated(left, 1).any()
    right = surface_map(values[::-1], "right", "unit")
    assert saturated(right, 1).mean() > 0.3
    assert not saturated(right, 0).any()


def back() -> np.ndarray:
    """1 at the back of the brain, NaN elsewhere."""
    import nibabel
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    y = [
        nibabel.load(files[f"infl_{side}"]).agg_data("pointset")[:, 1] for side in ("left", "right")
    ]
    return np.where(np.concatenate(y) < -60, 1.0, np.nan)


def test_surface_map_sees_the_back_of_the_brain_on_the_outer_side():
    picture = surface_map(back(), "back", "unit")
    of_the_side = slice(0, 236)
    left, right = (
        np.flatnonzero(saturated(picture, half)[of_the_side].any(axis=0)) for half in (0, 1)
    )
    assert left.min() > 200  # left hemisphere, seen from its side: front to the left
    assert right.max() < 150  # right one: front to the right


def test_surface_that_can_be_turned_needs_no_network_and_has_both_hemispheres():
    layers = [SurfaceLayer("the back", back()), SurfaceLayer("another", -back(), "viridis")]
    page = turnable_surface(layers)
    assert page == turnable_surface(layers)  # the same values make the same file
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", page) == []
    assert page.count('"hoverinfo":"skip"') == 2
    assert re.findall(r'"label":"([^"]+)"', page) == ["the back", "another"]


def test_surface_map_colours_are_centred_when_symmetric():
    values = np.full(N_VERTICES, 0.0)
    values[:200] = -5
    values[200:5000] = 1
    zero = surface_map(values, "t", "u", cmap="RdBu_r", symmetric=True)
    assert not saturated(zero, 1).any()  # zero is white, shaded


def test_surface_map_does_not_let_one_vertex_bleach_the_rest():
    values = np.random.default_rng(0).normal(size=N_VERTICES)
    plain = pixels(surface_map(values, "t", "u"))
    values[0] = 1e6
    values[1] = np.inf
    outlier = pixels(surface_map(values, "t", "u"))
    assert (np.abs(plain.astype(int) - outlier).max(axis=-1) > 24).mean() < 0.05


def test_surface_map_needs_fsaverage5():
    with pytest.raises(NsdError, match="20,484"):
        surface_map(np.zeros(100), "t", "u")


def test_figures_leave_pyplot_alone(history):
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from nsd_pipeline.report import rank_distribution, surface_map;"
        "rank_distribution([0, 1], 5); surface_map(np.zeros(20484), 't', 'u');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_numbers_of_sessions_have_a_panel_each_and_a_line_a_subject() -> None:
    table = pd.DataFrame(
        {
            "subject": ["subj01", "subj01", "subj08"],
            "session": [1, 12, 3],
            "mean (%)": [0.2, 0.3, 0.1],
            "valid vertices": [0.98, np.nan, 0.97],
        }
    )
    found = texts(session_numbers(table))
    assert found.count("subj01") == found.count("subj08") == found.count("session") == 1
    assert {"mean (%)", "valid vertices"} < set(found)


def test_numbers_within_a_narrow_range_are_told_apart_on_the_axis() -> None:
    rows = pd.DataFrame({"subject": "subj01", "session": range(1, 5)})
    svg = session_numbers(rows.assign(valid=[0.9725, 0.975, 0.9775, 0.9735])).svg.decode()
    ticks = re.findall(r"<text[^>]*>(0\.\d+)</text>", svg)
    assert len(ticks) == len(set(ticks)) >= 2
