"""The cortical surface: decimation, projection, cleaning, a session's betas or time series.

Surface data are always on fsaverage5 here, 10,242 vertices a hemisphere, left hemisphere first.
"""

from nsd_pipeline.surface.cleaned_runs import clean as clean
from nsd_pipeline.surface.interpolation import interpolate as interpolate
from nsd_pipeline.surface.meshes import downsample as downsample
from nsd_pipeline.surface.meshes import read_labels as read_labels
from nsd_pipeline.surface.meshes import read_roi as read_roi
from nsd_pipeline.surface.nsd_transforms import read_operator as read_operator
from nsd_pipeline.surface.projected_betas import betas_from_nifti as betas_from_nifti
from nsd_pipeline.surface.projected_betas import read_betas as read_betas
from nsd_pipeline.surface.projection import project_volume as project_volume
from nsd_pipeline.surface.session_files import SeriesLayout as SeriesLayout
from nsd_pipeline.surface.session_files import series_layout as series_layout
from nsd_pipeline.surface.session_files import summarise as summarise
from nsd_pipeline.surface.session_files import write_series as write_series
from nsd_pipeline.surface.session_files import write_session as write_session
from nsd_pipeline.surface.session_rows import SessionRows as SessionRows
from nsd_pipeline.surface.session_rows import read_session as read_session
from nsd_pipeline.surface.volume_operator import FsaverageOperator as FsaverageOperator
