"""Figures, tables and the page of the decoding report.

Figures come as PNG and SVG, for a file, a page or a user interface. matplotlib, nilearn and jinja2
are imported when a figure or page is first drawn.
"""

from nsd_pipeline.report.cortex_map import SurfaceLayer, surface_map, turnable_surface
from nsd_pipeline.report.drawing import Picture
from nsd_pipeline.report.families import learning_curve, new_subject_curve, regions, repeats_curve
from nsd_pipeline.report.gallery import (
    Example,
    Found,
    Rated,
    Retrieval,
    difficulty_gallery,
    gallery_examples,
    retrieval_gallery,
    trial_gallery,
)
from nsd_pipeline.report.metric_figures import (
    interval_curves,
    interval_rows,
    rank_distribution,
    session_numbers,
    training_curves,
)
from nsd_pipeline.report.page import MAIN_METRICS, Overview, PageFigure, Result, render_page
from nsd_pipeline.report.tables import (
    NOT_RECORDED,
    as_read,
    differing_settings,
    headline,
    interval_text,
    metric_label,
    metric_text,
    place_of,
    readable_metrics,
    to_latex,
    to_markdown,
)

__all__ = [
    "MAIN_METRICS",
    "NOT_RECORDED",
    "Example",
    "Found",
    "Overview",
    "PageFigure",
    "Picture",
    "Rated",
    "Result",
    "Retrieval",
    "SurfaceLayer",
    "as_read",
    "differing_settings",
    "difficulty_gallery",
    "gallery_examples",
    "headline",
    "interval_curves",
    "interval_rows",
    "interval_text",
    "learning_curve",
    "metric_label",
    "metric_text",
    "new_subject_curve",
    "place_of",
    "rank_distribution",
    "readable_metrics",
    "regions",
    "render_page",
    "repeats_curve",
    "retrieval_gallery",
    "session_numbers",
    "surface_map",
    "to_latex",
    "to_markdown",
    "training_curves",
    "trial_gallery",
    "turnable_surface",
]
