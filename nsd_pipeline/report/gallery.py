"""Figure of what the model retrieved for what was seen, and which trials it shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report.metric_figures import (
    DPI,
    GREEN,
    INK,
    MUTED,
    TEXT_SIZE,
    new_figure,
    to_png,
)
from nsd_pipeline.report.tables import place_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS: Final = 8
_RETRIEVED: Final = 5

# Inches.
_CELL: Final = 0.62
_GAP: Final = 0.07
_PLACE_WIDTH: Final = 0.62
_HEADER: Final = 0.26


class Example(NamedTuple):
    """A trial of the gallery, by image ids.

    Attributes
    ----------
    image_id
        The image seen.
    rank
        Its 0-based rank.
    retrieved
        The images ranked first, best first.
    correct
        Index of the image seen within ``retrieved``; None if it is not there.
    """

    image_id: int
    rank: float
    retrieved: NDArray[np.int64]
    correct: int | None


def gallery_examples(ranks: pd.DataFrame, top: pd.DataFrame) -> list[Example]:
    """Choose trials evenly from the best to the worst, so that the gallery shows failures too.

    Parameters
    ----------
    ranks
        ``row``, ``image_id`` and ``rank`` of every trial.
    top
        ``row``, ``place`` and ``retrieved_image_id`` of the images that came first for it.
    """
    ordered = ranks.sort_values("rank", kind="stable")
    places = np.linspace(0, len(ordered) - 1, min(_ROWS, len(ordered))).round().astype(int)
    chosen = ordered.iloc[places]
    first = top[top["place"] <= _RETRIEVED].sort_values("place")
    examples = []
    for row, image_id, rank in zip(chosen["row"], chosen["image_id"], chosen["rank"], strict=True):
        retrieved = first.loc[first["row"] == row, "retrieved_image_id"].to_numpy(np.int64)
        hit = np.flatnonzero(retrieved == image_id)
        correct = int(hit[0]) if len(hit) else None
        examples.append(Example(int(image_id), float(rank), retrieved, correct))
    return examples


class Retrieval(NamedTuple):
    """What was seen in one trial, and what was retrieved for it.

    Attributes
    ----------
    seen
        The image shown, uint8 (H, W, 3).
    rank
        0-based rank of that image.
    retrieved
        The images ranked first, best first, uint8 (H, W, 3) each.
    correct
        Which of ``retrieved`` is the image seen; None if it is not among them.
    """

    seen: NDArray[np.uint8]
    rank: float
    retrieved: Sequence[NDArray[np.uint8]]
    correct: int | None


def retrieval_gallery(rows: Sequence[Retrieval]) -> bytes:
    """Draw one row per trial: what was seen, its place, what was retrieved, the right one framed.

    The photographs are part of NSD, whose terms forbid passing them on.

    Parameters
    ----------
    rows
        Trials, top to bottom.

    Returns
    -------
    bytes
        PNG, small: all photographs share a palette of 256 colours.

    Raises
    ------
    NsdError
        If there is no trial.
    """
    from PIL import Image

    if not rows:
        raise NsdError("The gallery has no trial.", next_step="pass at least one.")
    n_retrieved = max(len(row.retrieved) for row in rows)
    pitch = _CELL + _GAP
    first_retrieved = _GAP + _CELL + _PLACE_WIDTH
    columns = [first_retrieved + column * pitch for column in range(n_retrieved)]
    width, height = first_retrieved + n_retrieved * pitch, _HEADER + len(rows) * pitch
    figure = new_figure(width, height)
    figure.set_layout_engine("none")

    def write(x: float, y: float, text: str, color: str = INK) -> None:
        look = {"ha": "center", "va": "center", "fontsize": TEXT_SIZE, "color": color}
        figure.text(x / width, 1 - y / height, text, look)

    middle_of_place = first_retrieved - _PLACE_WIDTH / 2
    write(_GAP + _CELL / 2, _HEADER / 2, "seen")
    write(middle_of_place, _HEADER / 2, "place", MUTED)
    for place, x in enumerate(columns, 1):
        write(x + _CELL / 2, _HEADER / 2, str(place), MUTED)
    for index, row in enumerate(rows):
        y = _HEADER + index * pitch
        _draw(figure, row.seen, _GAP, y, framed=False)
        write(middle_of_place, y + _CELL / 2, f"{place_of(row.rank):g}")
        for column, image in enumerate(row.retrieved):
            _draw(figure, image, columns[column], y, framed=column == row.correct)
    return to_png(figure, simplify=lambda image: image.quantize(256, dither=Image.Dither.NONE))


def _draw(figure: "Figure", image: NDArray[np.uint8], x: float, y: float, *, framed: bool) -> None:
    """Draw an image whose upper left corner is x, y inches from the figure's."""
    from PIL import Image

    side = round(_CELL * DPI)
    small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    width, height = figure.get_size_inches()
    cell = (x / width, 1 - (y + _CELL) / height, _CELL / width, _CELL / height)
    axes = figure.add_axes(cell, xticks=[], yticks=[])
    axes.imshow(np.asarray(small))
    axes.spines[:].set(visible=framed, color=GREEN, lw=2.6)
