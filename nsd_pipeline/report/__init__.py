"""Figures, tables and the page of the decoding report.

Figures come as PNG bytes, for a file, a page or a user interface. matplotlib, nilearn and jinja2
are imported when a figure or page is first drawn.
"""

from nsd_pipeline.report.curves import training_curves
from nsd_pipeline.report.distributions import metric_bars, rank_distribution
from nsd_pipeline.report.examples import Example, gallery_examples
from nsd_pipeline.report.figure import data_uri
from nsd_pipeline.report.gallery import Retrieval, retrieval_gallery
from nsd_pipeline.report.page import CohortReport, PageFigure, render_page
from nsd_pipeline.report.surface import surface_map
from nsd_pipeline.report.tables import metric_label, metrics_table, to_markdown

__all__ = [
    "CohortReport",
    "Example",
    "PageFigure",
    "Retrieval",
    "data_uri",
    "gallery_examples",
    "metric_bars",
    "metric_label",
    "metrics_table",
    "rank_distribution",
    "render_page",
    "retrieval_gallery",
    "surface_map",
    "to_markdown",
    "training_curves",
]
