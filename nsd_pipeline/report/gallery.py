"""Figure of what the model retrieved for what was seen, and which trials it shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import NsdError
from nsd_pipeline.report.drawing import (
    DPI,
    GREEN,
    INK,
    MUTED,
    TEXT_SIZE,
    Picture,
    draw,
    new_figure,
)
from nsd_pipeline.report.tables import place_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_AT_EACH_END: Final = 3
_RETRIEVED: Final = 5

# Inches.
_CELL: Final = 0.62
_GAP: Final = 0.07
_PLACE_WIDTH: Final = 0.62
_HEADER: Final = 0.26
_LARGE: Final = 2 * _CELL + _HEADER


class Example(NamedTuple):
    """A trial of the gallery, by image ids: the image seen, with its 0-based rank.

    ``retrieved`` are the images ranked first, best first, and ``correct`` is the index of the image
    seen within them; None if it is not there. ``among`` says what it is an example of: "best",
    "median" or "worst".
    """

    image_id: int
    rank: float
    retrieved: NDArray[np.int64]
    correct: int | None
    among: str


def gallery_examples(ranks: "pd.DataFrame", top: "pd.DataFrame") -> list[Example]:
    """Choose the best, the median and the worst of each image's first trials.

    Every trial has its ``row``, ``image_id`` and ``rank``, and in ``top`` the ``place`` and
    ``retrieved_image_id`` of the images that came first for it.
    """
    ordered = ranks.drop_duplicates("image_id").sort_values("rank", kind="stable")
    middle = (len(ordered) - _AT_EACH_END) // 2
    among: dict[int, str] = {}
    for name, start in (("best", 0), ("worst", len(ordered) - _AT_EACH_END), ("median", middle)):
        for place in range(max(0, start), min(start + _AT_EACH_END, len(ordered))):
            among.setdefault(place, name)
    chosen = ordered.iloc[sorted(among)]
    first = top[top["place"] <= _RETRIEVED].sort_values("place")
    examples = []
    rows = zip(chosen["row"], chosen["image_id"], chosen["rank"], sorted(among), strict=True)
    for row, image_id, rank, place in rows:
        retrieved = first.loc[first["row"] == row, "retrieved_image_id"].to_numpy(np.int64)
        hit = np.flatnonzero(retrieved == image_id)
        correct = int(hit[0]) if len(hit) else None
        examples.append(Example(int(image_id), float(rank), retrieved, correct, among[place]))
    return examples


class Retrieval(NamedTuple):
    """What was seen in one trial, and what was retrieved for it: an `Example` with its images.

    Images are uint8 (H, W, 3).
    """

    seen: NDArray[np.uint8]
    rank: float
    retrieved: Sequence[NDArray[np.uint8]]
    correct: int | None
    among: str = ""


def retrieval_gallery(rows: Sequence[Retrieval]) -> Picture:
    """Draw one row per trial: what was seen, its place, what was retrieved, the right one framed.

    The photographs are part of NSD, whose terms forbid passing them on. An NsdError if there is no
    trial.
    """
    if not rows:
        raise NsdError("The gallery has no trial.", next_step="pass at least one.")
    n_retrieved = max(len(row.retrieved) for row in rows)
    pitch = _CELL + _GAP
    first_retrieved = _GAP + _CELL + _PLACE_WIDTH
    columns = [first_retrieved + column * pitch for column in range(n_retrieved)]
    width, height = first_retrieved + n_retrieved * pitch, _HEADER + len(rows) * pitch
    figure = new_figure(width, height, layout=None)

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
        write(middle_of_place, y + _CELL - 0.08, row.among, MUTED)
        for column, image in enumerate(row.retrieved):
            _draw(figure, image, columns[column], y, framed=column == row.correct)
    return draw(figure, photographs=True)


class Rated(NamedTuple):
    """An image, uint8 (H, W, 3), and the mean place at which it was found."""

    image: NDArray[np.uint8]
    mean_place: float


def difficulty_gallery(easiest: Sequence[Rated], hardest: Sequence[Rated]) -> Picture:
    """Draw the images that are found best and worst, in a row each, with their mean places."""
    pitch, line = _CELL + _GAP, _HEADER + _CELL + 0.24
    n_columns = max(len(easiest), len(hardest), 4)  # 4: room for the headings
    width, height = _GAP + n_columns * pitch, 2 * line
    figure = new_figure(width, height, layout=None)
    look = {"va": "center", "fontsize": TEXT_SIZE, "color": INK}
    for number, (heading, rated) in enumerate((("easiest", easiest), ("hardest", hardest))):
        top = number * line
        figure.text(_GAP / width, 1 - (top + _HEADER / 2) / height, f"{heading}: mean place", look)
        for column, (image, place) in enumerate(rated):
            x = _GAP + column * pitch
            _draw(figure, image, x, top + _HEADER, framed=False)
            at = (x + _CELL / 2) / width, 1 - (top + _HEADER + _CELL + 0.1) / height
            figure.text(*at, f"{place:.3g}", {**look, "ha": "center", "color": MUTED})
    return draw(figure, photographs=True)


class Found(NamedTuple):
    """An image that was retrieved, uint8 (H, W, 3), its score, and whether it is the one seen."""

    image: NDArray[np.uint8]
    score: float
    seen: bool


def trial_gallery(title: str, seen: NDArray[np.uint8], found: Sequence[Found]) -> Picture:
    """Draw one trial: the image seen, large, and what was retrieved for it, five in a row.

    The photographs are part of NSD, whose terms forbid passing them on.
    """
    pitch, line = _CELL + _GAP, _HEADER + _CELL
    first = _GAP + _LARGE + 3 * _GAP
    n_lines = max(2, -(-len(found) // _RETRIEVED))
    width, height = first + _RETRIEVED * pitch, _HEADER + n_lines * line + _GAP
    figure = new_figure(width, height, layout=None)
    look = {"va": "center", "fontsize": TEXT_SIZE, "color": INK}
    figure.text(_GAP / width, 1 - _HEADER / 2 / height, title, look)
    _draw(figure, seen, _GAP, 2 * _HEADER, framed=False, side=_LARGE)
    for number, (image, score, is_seen) in enumerate(found):
        row, column = divmod(number, _RETRIEVED)
        x, y = first + column * pitch, _HEADER + row * line
        caption = (x + _CELL / 2) / width, 1 - (y + _HEADER / 2) / height
        figure.text(*caption, f"{number + 1}: {score:.2f}", {**look, "ha": "center"})
        _draw(figure, image, x, y + _HEADER, framed=is_seen)
    return draw(figure, photographs=True)


def _draw(
    figure: "Figure",
    image: NDArray[np.uint8],
    x: float,
    y: float,
    *,
    framed: bool,
    side: float = _CELL,
) -> None:
    """Draw an image whose upper left corner is x, y inches from the figure's."""
    from PIL import Image

    pixels = round(side * DPI)
    small = Image.fromarray(image).resize((pixels, pixels), Image.Resampling.LANCZOS)
    width, height = figure.get_size_inches()
    cell = (x / width, 1 - (y + side) / height, side / width, side / height)
    axes = figure.add_axes(cell, xticks=[], yticks=[])
    axes.imshow(np.asarray(small))
    axes.spines[:].set(visible=framed, color=GREEN, lw=2.6)
