"""Figures, tables and the page of the decoding report.

Figures come as PNG and SVG, for a file, a page or a user interface. matplotlib, nilearn and jinja2
are imported when a figure or page is first drawn.
"""

from nsd_pipeline.report.cortex_map import SurfaceLayer as SurfaceLayer
from nsd_pipeline.report.cortex_map import surface_map as surface_map
from nsd_pipeline.report.cortex_map import turnable_surface as turnable_surface
from nsd_pipeline.report.drawing import Picture as Picture
from nsd_pipeline.report.families import learning_curve as learning_curve
from nsd_pipeline.report.families import new_subject_curve as new_subject_curve
from nsd_pipeline.report.families import regions as regions
from nsd_pipeline.report.families import repeats_curve as repeats_curve
from nsd_pipeline.report.gallery import Example as Example
from nsd_pipeline.report.gallery import Found as Found
from nsd_pipeline.report.gallery import Rated as Rated
from nsd_pipeline.report.gallery import Retrieval as Retrieval
from nsd_pipeline.report.gallery import difficulty_gallery as difficulty_gallery
from nsd_pipeline.report.gallery import gallery_examples as gallery_examples
from nsd_pipeline.report.gallery import retrieval_gallery as retrieval_gallery
from nsd_pipeline.report.gallery import trial_gallery as trial_gallery
from nsd_pipeline.report.metric_figures import interval_curves as interval_curves
from nsd_pipeline.report.metric_figures import interval_rows as interval_rows
from nsd_pipeline.report.metric_figures import rank_distribution as rank_distribution
from nsd_pipeline.report.metric_figures import session_numbers as session_numbers
from nsd_pipeline.report.metric_figures import training_curves as training_curves
from nsd_pipeline.report.page import MAIN_METRICS as MAIN_METRICS
from nsd_pipeline.report.page import Overview as Overview
from nsd_pipeline.report.page import PageFigure as PageFigure
from nsd_pipeline.report.page import Result as Result
from nsd_pipeline.report.page import render_page as render_page
from nsd_pipeline.report.tables import NOT_RECORDED as NOT_RECORDED
from nsd_pipeline.report.tables import as_read as as_read
from nsd_pipeline.report.tables import differing_settings as differing_settings
from nsd_pipeline.report.tables import headline as headline
from nsd_pipeline.report.tables import interval_text as interval_text
from nsd_pipeline.report.tables import metric_label as metric_label
from nsd_pipeline.report.tables import metric_text as metric_text
from nsd_pipeline.report.tables import place_of as place_of
from nsd_pipeline.report.tables import readable_metrics as readable_metrics
from nsd_pipeline.report.tables import to_latex as to_latex
from nsd_pipeline.report.tables import to_markdown as to_markdown
