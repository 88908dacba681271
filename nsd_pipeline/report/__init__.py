"""Figures, tables and the page of the decoding report.

Figures come as PNG bytes, for a file, a page or a user interface. matplotlib, nilearn and jinja2
are imported when a figure or page is first drawn.
"""

from nsd_pipeline.report.cortex_map import surface_map
from nsd_pipeline.report.gallery import Example, Retrieval, gallery_examples, retrieval_gallery
from nsd_pipeline.report.metric_figures import metric_bars, rank_distribution, training_curves
from nsd_pipeline.report.page import CohortReport, PageFigure, render_page
from nsd_pipeline.report.tables import (
    NOT_RECORDED,
    as_read,
    differing_settings,
    metric_label,
    metrics_table,
    place_of,
    readable_metrics,
    to_markdown,
)

__all__ = [
    "NOT_RECORDED",
    "CohortReport",
    "Example",
    "PageFigure",
    "Retrieval",
    "as_read",
    "differing_settings",
    "gallery_examples",
    "metric_bars",
    "metric_label",
    "metrics_table",
    "place_of",
    "rank_distribution",
    "readable_metrics",
    "render_page",
    "retrieval_gallery",
    "surface_map",
    "to_markdown",
    "training_curves",
]
