"""What all figures have in common: their width, their look, and how they are written.

Figures are drawn on matplotlib's Agg canvas through objects. pyplot has windows and global state
and is not used, so that any thread of any process can draw.
"""

import base64
import io
import re
import threading
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Of Okabe and Ito's palette, whose colours people with any colour vision tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
INK: Final = "#222222"
MUTED: Final = "#6E6E6E"
FAINT: Final = "#E6E6E6"

COLUMN: Final = 3.5
"""Width of a figure in inches: a journal's column, and a telephone's screen. It is shown as it is
on both, so that no text gets smaller than it was drawn."""
TITLE_SIZE: Final = 9.0
TEXT_SIZE: Final = 8.0
DPI: Final = 200
_PAGE_WIDTH: Final = 560
"""Pixels: 20 experiments of 9 cohorts make a page of 54 MB."""

DASHED: Final = (0, (4, 2))
DOTTED: Final = (0, (1, 2))

_PHOTO: Final = re.compile(rb"data:image/png;base64,\s*([^\"]+)")
_TAG: Final = re.compile(rb"<[^>]*>")
_DIGITS: Final = re.compile(rb"(\d\.\d\d)\d+")
_SVG_SETTINGS: Final = threading.Lock()


class Picture(NamedTuple):
    """A figure as a file for the screen, one for print, and of photographs a small one for pages.

    Lines are small as SVG. As WebP a brain has 50 KB; as PNG, and as SVG with a JPEG inside, 250.
    """

    png: bytes = b""
    svg: bytes = b""
    webp: bytes = b""


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> "Figure":
    """Start a figure of a width and height in inches; it places its axes itself unless None."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: "Axes", *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Give axes the report's look: two thin spines, a title, and below it the legend."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 4 if max(map(len, labels), default=0) <= 6 else 3
    lines = -(-len(handles) // columns)
    pad = 6 + 13 * lines
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK, pad=pad)
    axes.set_xlabel(xlabel, fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=TEXT_SIZE, color=INK)
    axes.tick_params(labelsize=TEXT_SIZE, colors=INK, width=0.6, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(linewidth=0.6, color=INK)
    axes.set_axisbelow(True)
    if handles:
        # On lines of its own above the axes, where it covers no data.
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            frameon=False,
            fontsize=TEXT_SIZE,
            labelcolor=INK,
            handlelength=1.3,
            columnspacing=1.1,
            borderpad=0,
            borderaxespad=0.5,
        )


def draw(figure: "Figure", *, oversample: int = 1, photographs: bool = False) -> Picture:
    """Draw a figure and write it as PNG and as SVG, photographs also as WebP.

    It is drawn ``oversample`` times finer at first where it has shaded triangles, whose edges Agg
    leaves jagged. With ``photographs``, or brains, all of the PNG share a palette of 256 colours:
    it is half as large, and looks the same.
    """
    from matplotlib import rc_context
    from PIL import Image

    canvas, png, svg, webp = (io.BytesIO() for _ in range(4))
    figure.savefig(canvas, format="png", dpi=DPI * oversample)
    image = Image.open(canvas).convert("RGB").reduce(oversample)
    if photographs:
        # Here and not by the page, which is made again whenever one of its 1,000 figures changes.
        small = image.copy()
        small.thumbnail((_PAGE_WIDTH, 10 * _PAGE_WIDTH))
        small.save(webp, format="webp", quality=60)
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(png, format="png")
    figure.set_layout_engine("none")  # everything has its place now
    # Text stays text: smaller, and an editor of figures can change it. These settings are global.
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "nsd_pipeline",
        "font.sans-serif": ["DejaVu Sans"],  # each text would name all fonts that could do
    }
    with _SVG_SETTINGS, rc_context(settings):
        figure.savefig(svg, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    # The hundredth of a point is fine enough, and makes the file a third smaller.
    # Within tags: the numbers between them are those that people read.
    rounded = _TAG.sub(lambda tag: _DIGITS.sub(rb"\1", tag[0]), svg.getvalue())
    return Picture(png.getvalue(), _PHOTO.sub(_as_jpeg, rounded), webp.getvalue())


def _as_jpeg(found: re.Match[bytes]) -> bytes:
    """A photograph within an SVG, as JPEG instead of PNG: a sixth of the size."""
    from PIL import Image

    photo = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGBA")
    opaque, jpeg = Image.new("RGB", photo.size, "white"), io.BytesIO()
    opaque.paste(photo, mask=photo)
    opaque.save(jpeg, format="jpeg", quality=85)
    return b"data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue())
