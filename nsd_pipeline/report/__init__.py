"""Figures, tables and the page of the decoding report.

Figures come as PNG bytes, for a file, a page or a user interface. matplotlib, nilearn and jinja2
are imported when a figure or page is first drawn.
"""

from nsd_pipeline.report.comparison import NOT_RECORDED, differing_settings
from nsd_pipeline.report.curves import training_curves
from nsd_pipeline.report.distributions import metric_bars, rank_distribution
from nsd_pipeline.report.examples import Example, gallery_examples
from nsd_pipeline.report.figure import data_uri
from nsd_pipeline.report.gallery import Retrieval, retrieval_gallery
from nsd_pipeline.report.page import CohortReport, PageFigure, render_page
from nsd_pipeline.report.surface import surface_map
from nsd_pipeline.report.tables import (
    as_read,
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
    "data_uri",
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
