"""The cortical surface: decimation, projection, cleaning, a session's betas or time series.

Surface data are always on fsaverage5 here, 10,242 vertices a hemisphere, left hemisphere first.
"""

from nsd_pipeline.surface.cleaned_runs import clean
from nsd_pipeline.surface.interpolation import interpolate
from nsd_pipeline.surface.meshes import downsample, read_labels, read_roi
from nsd_pipeline.surface.nsd_transforms import read_operator
from nsd_pipeline.surface.projected_betas import betas_from_nifti, betas_from_voxels, read_betas
from nsd_pipeline.surface.projection import project_volume
from nsd_pipeline.surface.session_files import (
    SeriesLayout,
    series_layout,
    summarise,
    write_series,
    write_session,
)
from nsd_pipeline.surface.session_rows import SessionRows, read_session
from nsd_pipeline.surface.volume_operator import FsaverageOperator

__all__ = [
    "FsaverageOperator",
    "SeriesLayout",
    "SessionRows",
    "betas_from_nifti",
    "betas_from_voxels",
    "clean",
    "downsample",
    "interpolate",
    "project_volume",
    "read_betas",
    "read_labels",
    "read_operator",
    "read_roi",
    "read_session",
    "series_layout",
    "summarise",
    "write_series",
    "write_session",
]
