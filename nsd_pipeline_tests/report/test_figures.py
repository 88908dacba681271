import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report import (
    Retrieval,
    metric_bars,
    rank_distribution,
    retrieval_gallery,
    surface_map,
    training_curves,
)

N_VERTICES = 20_484


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def n_like(image: np.ndarray, color, tolerance=12) -> int:
    return int((np.abs(image.astype(int) - color).max(axis=-1) <= tolerance).sum())


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
    png = training_curves(history, batch_size=64)
    assert pixels(png).shape == (403, 1209, 3)
    assert len(png) < 150_000
    at_2 = vermilion_columns(png)
    history["val/batch_top5_acc"] = [0.1, 0.6, 0.5, 0.4]
    at_1 = vermilion_columns(training_curves(history, batch_size=64))
    assert at_1.size
    assert at_2.size
    assert at_1[0] < at_2[0] - 50


def test_curves_of_one_epoch_without_validation(history):
    one = history.iloc[:1].assign(**{"val/batch_top5_acc": np.nan, "val/loss": np.nan})
    assert pixels(training_curves(one)).shape == (403, 1209, 3)


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
        assert match.sum() > 80 * 80
        centres[row, column] = np.argwhere(match).mean(axis=0)
    assert (np.diff(centres[..., 1], axis=1) > 85).all()
    assert (np.diff(centres[..., 0], axis=0) > 85).all()
    assert np.ptp(centres[..., 0], axis=1).max() < 2

    frame = np.argwhere(np.abs(image.astype(int) - (0, 0x9E, 0x73)).max(axis=-1) <= 12)
    assert len(frame) > 1000
    np.testing.assert_allclose(frame.mean(axis=0), centres[0, 4], atol=2)


def test_gallery_of_six_rows_stays_small():
    rng = np.random.default_rng(0)
    smooth = rng.normal(128, 45, (36, 12, 12, 3)).clip(0, 255).astype(np.uint8)
    photos = [np.asarray(Image.fromarray(image).resize((425, 425))) for image in smooth]
    rows = [Retrieval(photos[6 * i], 0, photos[6 * i + 1 : 6 * i + 6], 0) for i in range(6)]
    assert len(retrieval_gallery(rows)) < 200_000
    with pytest.raises(NsdError, match="no trial"):
        retrieval_gallery([])


def test_ranks_differ_from_chance_to_the_eye():
    good = rank_distribution(np.repeat([0.0, 1.5, 40.0], 30), 100)
    chance = rank_distribution(np.arange(100), 100)
    assert pixels(good).shape == pixels(chance).shape == (417, 1036, 3)
    assert good != chance
    with pytest.raises(NsdError, match="0 to 99"):
        rank_distribution([100.0], 100)
    with pytest.raises(NsdError, match="0 ranks"):
        rank_distribution([], 100)
    with pytest.raises(NsdError, match="0 to 99"):
        rank_distribution([np.nan], 100)


def test_bars_are_as_long_as_their_values():
    chance = {"subj01": {"top1_acc": 0.01}, "all": {"top1_acc": 0.02}}
    metrics = {"subj01": {"top1_acc": 0.3}, "all": {"top1_acc": 0.6}}
    image = pixels(metric_bars(metrics, chance, names=["top1_acc"]))
    blue = np.abs(image.astype(int) - (0, 0x72, 0xB2)).max(axis=-1) <= 12
    lengths = blue.sum(axis=1)
    first, second = np.unique(lengths[lengths > 20])[[0, -1]]
    assert second / first == pytest.approx(2, rel=0.06)


def saturated(png: bytes) -> np.ndarray:
    """Mask of coloured pixels among the brains, colour bar left out."""
    image = pixels(png)[40:, :780].astype(int)
    return np.ptp(image, axis=-1) > 40


def test_surface_map_shows_values_where_they_are_and_cortex_elsewhere():
    values = np.full(N_VERTICES, np.nan)
    png = surface_map(values, "none", "unit")
    assert pixels(png).shape == (396, 888, 3)
    assert not saturated(png).any()
    grey = pixels(png)[40:, :780, 0]
    assert ((grey > 80) & (grey < 220)).mean() > 0.4
    assert np.ptp(grey[(grey > 80) & (grey < 220)]) > 60  # gyri and sulci

    values[: N_VERTICES // 2] = np.linspace(1, 2, N_VERTICES // 2)
    left = saturated(surface_map(values, "left", "unit"))
    assert left[:170].mean() > 0.3
    assert not left[185:].any()

    right = saturated(surface_map(values[::-1], "right", "unit"))
    assert right[185:].mean() > 0.3
    assert not right[:165].any()


def test_surface_map_sees_the_back_of_the_brain_on_the_outer_side():
    import nibabel
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    y = np.concatenate(
        [
            nibabel.load(files[f"infl_{side}"]).agg_data("pointset")[:, 1]
            for side in ("left", "right")
        ]
    )
    values = np.where(y < -60, 1.0, np.nan)
    image = saturated(surface_map(values, "back", "unit"))
    across = [np.flatnonzero(rows.any(axis=0)) for rows in (image[:170, :260], image[185:, :260])]
    assert across[0].min() > 150  # left hemisphere, seen from its side: front to the left
    assert across[1].max() < 110  # right one: front to the right


def test_surface_map_colours_are_centred_when_symmetric():
    values = np.full(N_VERTICES, 0.0)
    values[:200] = -5
    values[200:5000] = 1
    zero = surface_map(np.where(values == 0, 0, values), "t", "u", cmap="RdBu_r", symmetric=True)
    assert not saturated(zero)[185:].any()  # zero is white, shaded


def test_surface_map_does_not_let_one_vertex_bleach_the_rest():
    values = np.random.default_rng(0).normal(size=N_VERTICES)
    plain = pixels(surface_map(values, "t", "u"))
    values[0] = 1e6
    values[1] = np.inf
    outlier = pixels(surface_map(values, "t", "u"))
    assert (plain != outlier).any(axis=-1).mean() < 0.05


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
