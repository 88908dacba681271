"""What all figures share: colours, type sizes, and how one becomes PNG bytes.

Figures are drawn on matplotlib's Agg canvas through objects; pyplot, its windows and its global
state stay out, so that any thread of any process can draw.
"""

import base64
import io
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Of Okabe and Ito's palette, whose colours people with any colour vision tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
INK: Final = "#222222"
MUTED: Final = "#6E6E6E"
FAINT: Final = "#E6E6E6"

TITLE_SIZE: Final = 9.5
TEXT_SIZE: Final = 8.0
DPI: Final = 144


def new_figure(width: float, height: float) -> "Figure":
    """Start a figure of a width and height in inches that lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: "Axes", *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Give axes the report's look: two thin spines, a title, and below it the legend.

    The legend takes a line of its own above the axes, so that it covers no data, whatever they are.
    """
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK, pad=22)
    axes.set_xlabel(xlabel, fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel(ylabel, fontsize=TEXT_SIZE, color=INK)
    axes.tick_params(labelsize=TEXT_SIZE, colors=INK, width=0.6, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(linewidth=0.6, color=INK)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            frameon=False,
            fontsize=TEXT_SIZE,
            labelcolor=INK,
            handlelength=1.3,
            columnspacing=1.1,
            borderpad=0,
            borderaxespad=0.5,
        )


def render(figure: "Figure", *, dpi: int = DPI, oversample: int = 1) -> "Image":
    """Draw a figure on pixels.

    Parameters
    ----------
    figure
        Figure to draw.
    dpi
        Pixels per inch.
    oversample
        How many times finer it is drawn at first: Agg leaves the edges of shaded triangles jagged.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    from PIL import Image

    canvas = io.BytesIO()
    figure.savefig(canvas, format="png", dpi=dpi * oversample)
    return Image.open(canvas).convert("RGB").reduce(oversample)


def encode(image: "Image") -> bytes:
    """Write an image as PNG."""
    png = io.BytesIO()
    image.save(png, format="png", optimize=True)
    return png.getvalue()


def to_png(figure: "Figure") -> bytes:
    """Draw a figure and write it as PNG."""
    return encode(render(figure))


def data_uri(png: bytes) -> str:
    """Write a PNG as a data URI, which Markdown and HTML show without a file beside them."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
