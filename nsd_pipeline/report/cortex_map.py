"""Figure of one value per vertex on the inflated cortex."""

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, HEMISPHERES, Hemisphere
from nsd_pipeline.report.metric_figures import (
    INK,
    MUTED,
    TEXT_SIZE,
    TITLE_SIZE,
    new_figure,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from PIL.Image import Image

Floats = NDArray[np.floating[Any]]

# Direction of gaze and what is up in the picture, in fsaverage's axes: x to the right, y to the
# front, z up. Seen from below, the two hemispheres lie as halves of one brain whose front is left.
_Direction = tuple[int, int, int]
_RIGHT, _LEFT, _UP = (1, 0, 0), (-1, 0, 0), (0, 0, 1)
_VIEWS: Final[dict[Hemisphere, dict[str, tuple[_Direction, _Direction]]]] = {
    "lh": {"lateral": (_RIGHT, _UP), "medial": (_LEFT, _UP), "ventral": (_UP, _LEFT)},
    "rh": {"lateral": (_LEFT, _UP), "medial": (_RIGHT, _UP), "ventral": (_UP, _LEFT)},
}

# Inches.
_WIDTH, _HEIGHT = 7.4, 3.3
_CELL_WIDTH, _CELL_HEIGHT = 2.15, 1.45
_HEADER: Final = 0.38

_CORTEX: Final = 0.62
"""Grey of the cortex between gyrus and sulcus, of 1."""
_MILLIMETRES_PER_INCH: Final = 222 / _CELL_WIDTH


class _Mesh(NamedTuple):
    points: Floats
    faces: NDArray[np.integer[Any]]
    normals: Floats
    sulcal_depth: Floats


def surface_map(
    values: ArrayLike,
    title: str,
    colorbar_label: str,
    *,
    cmap: str = "plasma",
    symmetric: bool = False,
) -> bytes:
    """Draw a value per vertex of fsaverage5 on its inflated hemispheres, as PNG.

    Each hemisphere is seen from the side, from the middle and from below, where much of the visual
    cortex lies. Colours end at the 1st and 99th percentile of the values: else a few extreme
    vertices leave the others without contrast.

    Parameters
    ----------
    values
        Array (20484,), left hemisphere first. Vertices that are not finite show the cortex itself:
        light gyri, dark sulci.
    title
        Title of the figure.
    colorbar_label
        What the values are, with their unit.
    cmap
        Name of a matplotlib colour map.
    symmetric
        Whether colours are centred on 0, and end at the 99th percentile of the absolute values.

    Raises
    ------
    NsdError
        If the values are not those of fsaverage5's vertices.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    array = np.asarray(values, dtype=np.float64)
    if array.shape != (2 * FSAVERAGE5_VERTICES,):
        raise NsdError(
            f"A surface map of shape {array.shape} does not fit fsaverage5.",
            next_step=f"pass {2 * FSAVERAGE5_VERTICES:,} values, left hemisphere first.",
        )
    finite = array[np.isfinite(array)]
    mappable = ScalarMappable(Normalize(*_limits(finite, symmetric=symmetric)), colormaps[cmap])

    figure = new_figure(_WIDTH, _HEIGHT)
    figure.set_layout_engine("none")
    bold = {"va": "center", "color": INK, "fontsize": TITLE_SIZE, "fontweight": "bold"}
    figure.text(0.1 / _WIDTH, 1 - 0.16 / _HEIGHT, title, bold)
    for row, (hemisphere, half) in enumerate(zip(HEMISPHERES, np.split(array, 2), strict=True)):
        mesh = _load_mesh(hemisphere)
        colors = _vertex_colors(half, mesh, mappable)
        for column, (view, (gaze, up)) in enumerate(_VIEWS[hemisphere].items()):
            left = (0.1 + column * _CELL_WIDTH) / _WIDTH
            bottom = 1 - (_HEADER + (row + 1) * _CELL_HEIGHT) / _HEIGHT
            axes = figure.add_axes((left, bottom, _CELL_WIDTH / _WIDTH, _CELL_HEIGHT / _HEIGHT))
            _draw(axes, mesh, colors, gaze, up)
            small = {"va": "top", "fontsize": TEXT_SIZE - 1, "color": MUTED}
            axes.text(0.02, 0.98, f"{hemisphere} {view}", small, transform=axes.transAxes)
    bar_left = (0.25 + 3 * _CELL_WIDTH) / _WIDTH
    if finite.size:
        bar_axes = figure.add_axes((bar_left, 0.25, 0.014, 0.48))
        bar = figure.colorbar(mappable, cax=bar_axes, extend="both")
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=TEXT_SIZE, colors=INK, width=0.6, length=2.5)
        # Above the bar: beside the numbers, a long label would leave the figure.
        bar.ax.set_title(colorbar_label, fontsize=TEXT_SIZE, color=INK, loc="left", pad=12)
    if finite.size < array.size:
        for x, text, color, size in (
            (bar_left, "■", str(_CORTEX), TEXT_SIZE + 2),
            (bar_left + 0.02, "no value", INK, TEXT_SIZE - 1),
        ):
            figure.text(x, 0.12, text, va="center", color=color, fontsize=size)

    def without_low_bits(image: "Image") -> "Image":
        # Nobody sees the lowest two bits of a colour; without them the PNG is half as large.
        return image.point(lambda value: value | 3)

    return to_png(figure, dpi=120, oversample=2, simplify=without_low_bits)


def _limits(finite: Floats, *, symmetric: bool) -> tuple[float, float]:
    if not finite.size:
        return 0.0, 1.0
    if symmetric:
        high = float(np.percentile(np.abs(finite), 99)) or 1.0
        return -high, high
    low, high = np.percentile(finite, (1, 99)).tolist()
    return low, high if high > low else low + 1


@cache
def _load_mesh(hemisphere: Hemisphere) -> _Mesh:
    """Load a hemisphere of the inflated fsaverage5 that is part of nilearn."""
    import nibabel
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    side = {"lh": "left", "rh": "right"}[hemisphere]
    points, faces = nibabel.load(files[f"infl_{side}"]).agg_data()
    corners = points[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(points)
    np.add.at(normals, faces.ravel(), np.repeat(face_normals, 3, axis=0))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return _Mesh(points, faces, normals, nibabel.load(files[f"sulc_{side}"]).agg_data())


def _vertex_colors(values: Floats, mesh: _Mesh, mappable: "ScalarMappable") -> Floats:
    """Colour vertices (V, 3): the value's colour a little darker in sulci, or else the cortex."""
    depth = np.clip(mesh.sulcal_depth, -1, 1)[:, None]
    cortex = np.repeat(_CORTEX - 0.15 * depth, 3, axis=1)
    data = np.asarray(mappable.to_rgba(values))[:, :3] * (0.92 - 0.08 * depth)
    return np.where(np.isfinite(values)[:, None], data, cortex)


def _draw(axes: "Axes", mesh: _Mesh, colors: Floats, gaze: _Direction, up: _Direction) -> None:
    """Draw the faces turned to the viewer, far ones first, in parallel projection."""
    from matplotlib.collections import TriMesh
    from matplotlib.tri import Triangulation

    right = np.cross(gaze, up)
    light = np.array(up) * 0.45 - np.array(gaze) - right * 0.25
    shade = 0.62 + 0.43 * np.clip(mesh.normals @ (light / np.linalg.norm(light)), 0, 1)
    # Faces away from the viewer are left out; the others are painted over one another.
    faces = mesh.faces[(mesh.normals[mesh.faces].sum(axis=1) @ gaze) < 0]
    faces = faces[np.argsort(-(mesh.points[faces].sum(axis=1) @ gaze), kind="stable")]
    patches = TriMesh(Triangulation(mesh.points @ right, mesh.points @ up, faces))
    patches.set_facecolor(np.clip(colors * shade[:, None], 0, 1))
    axes.add_collection(patches, autolim=False)
    half_width = _MILLIMETRES_PER_INCH * _CELL_WIDTH / 2
    half_height = _MILLIMETRES_PER_INCH * _CELL_HEIGHT / 2
    axes.set(xlim=(-half_width, half_width), ylim=(-half_height, half_height))
    axes.set_axis_off()
