"""Figure of one value per vertex on the inflated cortex."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.errors import NsdError
from nsd_pipeline.nsd.layout import HEMISPHERES, N_VERTICES, Hemisphere
from nsd_pipeline.report.drawing import (
    COLUMN,
    INK,
    MUTED,
    TEXT_SIZE,
    TITLE_SIZE,
    Picture,
    draw,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

Floats = NDArray[np.floating[Any]]

# Direction of gaze and what is up in the picture, in fsaverage's axes: x to the right, y to the
# front, z up. Seen from below, the two hemispheres lie as halves of one brain whose front is left.
_Direction = tuple[int, int, int]
_RIGHT, _LEFT, _UP = (1, 0, 0), (-1, 0, 0), (0, 0, 1)
_VIEWS: Final[dict[Hemisphere, dict[str, tuple[_Direction, _Direction]]]] = {
    "lh": {"lateral": (_RIGHT, _UP), "medial": (_LEFT, _UP), "ventral": (_UP, _LEFT)},
    "rh": {"lateral": (_LEFT, _UP), "medial": (_RIGHT, _UP), "ventral": (_UP, _LEFT)},
}

# Inches. A hemisphere is a column, and a direction of gaze a row.
_CELL_WIDTH, _CELL_HEIGHT = COLUMN / 2, 1.18
_HEADER, _FOOTER = 0.3, 0.62
_HEIGHT: Final = _HEADER + 3 * _CELL_HEIGHT + _FOOTER

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
) -> Picture:
    """Draw a value per vertex of fsaverage5 (20484,) on its inflated hemispheres, left one first.

    Each hemisphere is seen from the side, from the middle and from below, where much of the visual
    cortex lies. Vertices that are not finite show the cortex itself: light gyri, dark sulci.
    Colours end at the 1st and 99th percentile of the values, or else a few extreme vertices leave
    the others without contrast; with ``symmetric`` they are centred on 0, and end at the 99th
    percentile of the absolute values. ``colorbar_label`` says what the values are, with their unit.
    An NsdError if they are not those of fsaverage5's vertices.
    """
    from matplotlib.ticker import MaxNLocator

    array = np.asarray(values, dtype=np.float64)
    mappable = _mappable(array, cmap, symmetric=symmetric)
    finite = array[np.isfinite(array)]
    figure = new_figure(COLUMN, _HEIGHT, layout=None)
    bold = {"va": "center", "color": INK, "fontsize": TITLE_SIZE, "fontweight": "bold"}
    figure.text(0.06 / COLUMN, 1 - 0.14 / _HEIGHT, title, bold)
    for column, (hemisphere, half) in enumerate(zip(HEMISPHERES, np.split(array, 2), strict=True)):
        mesh = _load_mesh(hemisphere)
        colors = _vertex_colors(half, mesh, mappable)
        for row, (view, (gaze, up)) in enumerate(_VIEWS[hemisphere].items()):
            bottom = 1 - (_HEADER + (row + 1) * _CELL_HEIGHT) / _HEIGHT
            axes = figure.add_axes((column / 2, bottom, 0.5, _CELL_HEIGHT / _HEIGHT))
            _draw(axes, mesh, colors, gaze, up)
            small = {"va": "top", "fontsize": TEXT_SIZE - 1, "color": MUTED}
            axes.text(0.03, 0.98, f"{hemisphere} {view}", small, transform=axes.transAxes)
    if finite.size:
        bar_axes = figure.add_axes((0.08, 0.32 / _HEIGHT, 0.55, 0.09 / _HEIGHT))
        bar = figure.colorbar(mappable, cax=bar_axes, extend="both", orientation="horizontal")
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(3)
        bar.update_ticks()
        bar.ax.tick_params(labelsize=TEXT_SIZE, colors=INK, width=0.6, length=2.5)
        bar.ax.set_title(colorbar_label, fontsize=TEXT_SIZE, color=INK, loc="left", pad=4)
    if finite.size < array.size:
        for x, text, color, size in (
            (0.72, "■", str(_CORTEX), TEXT_SIZE + 2),
            (0.77, "no value", INK, TEXT_SIZE),
        ):
            figure.text(x, 0.365 / _HEIGHT, text, va="center", color=color, fontsize=size)

    return draw(figure, oversample=2, photographs=True)


class SurfaceLayer(NamedTuple):
    """What a cortex that can be turned shows: a title, and what `surface_map` takes."""

    title: str
    values: ArrayLike
    cmap: str = "plasma"
    symmetric: bool = False


def turnable_surface(layers: Sequence[SurfaceLayer]) -> str:
    """Write a page with a value per vertex of fsaverage5 on a cortex that can be turned.

    The first layer is seen at once, the others are chosen from a list. HTML with plotly's program
    inside: 6 MB, and complete without a network. An NsdError if the values of a layer are not those
    of fsaverage5's vertices.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    meshes = [_load_mesh(hemisphere) for hemisphere in HEMISPHERES]
    colored = [_colored(layer, meshes) for layer in layers]
    for hemisphere, mesh, color in zip(HEMISPHERES, meshes, colored[0][0], strict=True):
        x, y, z = mesh.points.T
        # Each hemisphere is inflated around an origin of its own: put them side by side.
        x = x - x.max() - 2 if hemisphere == "lh" else x - x.min() + 2
        i, j, k = mesh.faces.T
        figure.add_mesh3d(
            x=x,
            y=y,
            z=z,
            i=i,
            j=j,
            k=k,
            vertexcolor=color,
            lighting={"ambient": 0.6, "diffuse": 0.5, "specular": 0.05},
            hoverinfo="skip",
        )
    # A mesh of coloured vertices has no colour bar: it is that of no points.
    nothing, marker = [None, None], {"color": [0, 1], "coloraxis": "coloraxis", "opacity": 0}
    figure.add_scatter3d(x=nothing, y=nothing, z=nothing, mode="markers", marker=marker)
    buttons = [
        {
            "method": "update",
            "label": layer.title,
            "args": [{"vertexcolor": color}, {"coloraxis": axis}, [*range(len(meshes))]],
        }
        for layer, (color, axis) in zip(layers, colored, strict=True)
    ]
    hidden = {axis: {"visible": False} for axis in ("xaxis", "yaxis", "zaxis")}
    figure.update_layout(
        coloraxis=colored[0][1],
        updatemenus=[
            {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
        ],
        scene={
            **hidden,
            "aspectmode": "data",
            "camera": {"eye": {"x": 0, "y": -1.6, "z": 0.5}},
            "domain": {"y": [0.1, 1]},
        },
        margin={"l": 8, "r": 8, "t": 90, "b": 8},
        title={"text": "Drag to turn, scroll to zoom", "font": {"size": 13}, "y": 0.98, "x": 0.02},
        showlegend=False,
    )
    # A name of our own: plotly draws one, and the same values would make another file each time.
    page: str = figure.to_html(
        include_plotlyjs=True, config={"displaylogo": False}, div_id="surface"
    )
    return page


def _colored(
    layer: SurfaceLayer, meshes: Sequence[_Mesh]
) -> tuple[list[NDArray[np.uint8]], dict[str, Any]]:
    """Colours (V, 3) of each hemisphere's vertices, and plotly's axis of these colours."""
    from matplotlib.colors import to_hex

    array = np.asarray(layer.values, dtype=np.float64)
    mappable = _mappable(array, layer.cmap, symmetric=layer.symmetric)
    low, high = mappable.get_clim()
    scale = [[share, to_hex(mappable.cmap(share))] for share in np.linspace(0, 1, 33).tolist()]
    colors = [
        (255 * _vertex_colors(half, mesh, mappable)).round().astype(np.uint8)
        for half, mesh in zip(np.split(array, 2), meshes, strict=True)
    ]
    # Below the cortex, for which a telephone has no width beside a bar.
    bar = {"orientation": "h", "y": 0, "yanchor": "bottom", "thickness": 14, "len": 0.7}
    return colors, {"cmin": low, "cmax": high, "colorscale": scale, "colorbar": bar}


def _mappable(array: Floats, cmap: str, *, symmetric: bool) -> "ScalarMappable":
    """Colours of values, from one end of their limits to the other."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if array.shape != (N_VERTICES,):
        raise NsdError(
            f"A surface map of shape {array.shape} does not fit fsaverage5.",
            next_step=f"pass {N_VERTICES:,} values, left hemisphere first.",
        )
    limits = _limits(array[np.isfinite(array)], symmetric=symmetric)
    return ScalarMappable(Normalize(*limits), colormaps[cmap])


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
    # As a picture within the SVG: 20,000 triangles as shapes are 8 MB.
    patches.set_rasterized(True)
    patches.set_facecolor(np.clip(colors * shade[:, None], 0, 1))
    axes.add_collection(patches, autolim=False)
    half_width = _MILLIMETRES_PER_INCH * _CELL_WIDTH / 2
    half_height = _MILLIMETRES_PER_INCH * _CELL_HEIGHT / 2
    axes.set(xlim=(-half_width, half_width), ylim=(-half_height, half_height))
    axes.set_axis_off()
